"""`images upload`"""

import asyncio
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.settling import settled
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import ImageFailed
from app.client.generated.enums import Architecture, DiskFormat, ImageStatus
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import CreateImageInput
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output
from app.client.terminal.reporting import Reporter, reporter_for
from app.client.terminal.showing import image_text
from app.client.transfer.disk_file import DiskFile, opened
from app.client.transfer.new_image import NewImage, describe
from app.client.transfer.resume import cache_folder, claimed
from app.client.transfer.uploading import Uploading


def upload(
    file: Annotated[Path, typer.Argument(help="A disk image: qcow2, raw, vmdk, vhd or vhdx.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="Name of the image; by default the file's name.")] = None,
    format: Annotated[
        DiskFormat | None,
        typer.Option(
            parser=options.word_of(DiskFormat),
            metavar=f"<{options.words(DiskFormat)}>",
            help="Format of the file; by default detected from its name or its bytes.",
        ),
    ] = None,
    os_family: Annotated[str | None, typer.Option("--os", help="Operating system, for example ubuntu.")] = None,
    os_version: Annotated[str | None, typer.Option(help="Its version, for example 24.04.")] = None,
    arch: Annotated[
        Architecture,
        typer.Option(
            parser=options.word_of(Architecture),
            metavar=f"<{options.words(Architecture)}>",
            help="Processor architecture of the image.",
            show_default="x86_64",
        ),
    ] = Architecture.X86_64,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="A label; may be repeated.")] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="SHA-256 of the file, for the gateway to verify.")
    ] = None,
    checksum: Annotated[
        bool, typer.Option("--checksum", help="Compute the SHA-256 first, for the gateway to verify.")
    ] = False,
    verify_boot: Annotated[
        bool,
        typer.Option(
            "--verify-boot", help="Boot a throwaway server from the image once it is ACTIVE; see `images show`."
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=32, help="Number of parts to send at the same time.")] = 4,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the image is ACTIVE.")] = True,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Upload a disk image, and wait until servers can be launched from it. Prints the image.

    Run the same command again to resume an interrupted upload, unless the file has changed since.
    """
    with command(as_json=as_json) as output, opened(file) as disk:
        new = describe(
            disk,
            name=name,
            format=format,
            architecture=arch,
            os=(os_family, os_version),
            labels=label or (),
            sha256=sha256,
            checksum=checksum,
            verify_boot=verify_boot,
        )
        effort = _Effort(jobs, RetryPolicy(patience), wait)
        act = _upload(options.connection_of(connection, project), output, disk, new, effort)
        image = run(act, resumed_by="Run the same command again to resume.")
        if as_json:
            output.json(image)
        else:
            output.line(image_text(image))


@dataclass(frozen=True, slots=True)
class _Effort:
    jobs: int
    policy: RetryPolicy
    wait: bool


async def _upload(
    connection: Connection, output: Output, disk: DiskFile, new: NewImage, effort: _Effort
) -> ImageFields:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        identity = {
            "gateway": connection.graphql,
            "project": project_id,
            "path": str(disk.path),
            **new.identity(),
        }
        source = {**asdict(disk.state), **new.content()}
        with claimed(cache_folder(os.environ), identity) as record, reporter_for(output) as reporter:

            async def described() -> CreateImageInput:
                return new.as_input(project_id, await _checksum(disk, new, reporter))

            uploading = Uploading(
                at.api, at.http, disk, source, described, record, reporter, effort.policy, effort.jobs
            )
            image: ImageFields = await uploading.upload()
            if effort.wait:
                image = await settled(at.api, image.id, reporter, effort.policy)
            for warning in image.warnings:
                reporter.note(f"warning: {warning}")
            # From here on, the same command creates a new image.
            record.forget()
    if image.status == ImageStatus.ERROR:
        raise ImageFailed.of(image)
    return image


async def _checksum(disk: DiskFile, new: NewImage, reporter: Reporter) -> str | None:
    if not new.checksum:
        return new.sha256
    reporter.begin(f"computing the SHA-256 of {disk.name}", 0, disk.size)
    return await asyncio.to_thread(disk.sha256, reporter.advance)
