"""`images snapshot`, `images snapshots`, `images promote`"""

import secrets
from datetime import UTC, datetime
from typing import Annotated

import typer

from app.client.api.advice import advising
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.api.settling import settled
from app.client.api.snapshots import find_snapshot, find_volume_of, snapshots_in, snapshots_of
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import ImageFailed
from app.client.generated.enums import ImageStatus
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import (
    CreateImageInput,
    CreateSnapshotInput,
    ImageSourceInput,
    SnapshotImageInput,
)
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output
from app.client.terminal.reporting import reporter_for
from app.client.terminal.showing import image_text
from app.client.terminal.showing_snapshots import show_snapshots

Volume = Annotated[
    str,
    typer.Argument(
        metavar="VOLUME", help="A volume, or a server for its boot volume, by id or name.", show_default=False
    ),
]


def snapshot(
    volume: Volume,
    name: Annotated[
        str | None, typer.Option(help="Name of the snapshot; by default that of the volume, with the time.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the snapshot is ACTIVE.")] = True,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key for retries: the same key returns the same snapshot.")
    ] = None,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Take a snapshot of a volume, and wait until it is stored. Its server keeps running. Prints the snapshot."""
    with command(as_json=as_json) as output:
        where, key = options.connection_of(connection, project), idempotency_key or secrets.token_hex(16)
        act = _taken(where, output, volume, name, key, wait, RetryPolicy(patience))
        _print(output, run(act, resumed_by="`images snapshots` lists the snapshot if it was taken."))


def snapshots(
    volume: Annotated[
        str | None,
        typer.Argument(
            metavar="VOLUME", help="Only those of this volume or server, by id or name.", show_default="all"
        ),
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the snapshots of a volume, or all that the project has, the oldest first."""
    with command(as_json=as_json) as output:
        found = run(_listed(options.connection_of(connection, project), volume))
        if as_json:
            output.json(found)
        elif found:
            show_snapshots(output, found)
        else:
            output.note("No snapshots yet. Take one with `images snapshot SERVER`.")


def promote(
    snapshot: Annotated[str, typer.Argument(help="An ACTIVE snapshot, by id or name.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the image.", show_default=False)],
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key for retries: the same key returns the same image.")
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a custom image of a snapshot, which can be shared. No bytes are copied, and it is ACTIVE at once.

    The snapshot can't be deleted before the image. Prints the image.
    """
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        _print(output, run(_promoted(where, snapshot, name, idempotency_key)))


def _print(output: Output, image: ImageFields) -> None:
    if output.as_json:
        output.json(image)
    else:
        output.line(image_text(image))


async def _taken(
    connection: Connection, output: Output, wanted: str, name: str | None, key: str, wait: bool, policy: RetryPolicy
) -> ImageFields:
    async with session(connection) as at:
        volume = await find_volume_of(at.api, wanted, connection.project)
        named = name or f"{volume.name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"[-255:]
        given = CreateSnapshotInput(volume_id=volume.id, name=named, idempotency_key=key)
        with advising({}, options.IMAGE_ADVICE):
            payload = (await policy.until_done(lambda: at.api.create_snapshot(given))).create_snapshot
        image = present(present(payload).snapshot)
        if wait:
            with reporter_for(output) as reporter:
                image = await settled(at.api, image.id, reporter, policy)
    if image.status == ImageStatus.ERROR:
        raise ImageFailed.of(image)
    return image


async def _listed(connection: Connection, wanted: str | None) -> list[ImageFields]:
    async with session(connection) as at:
        if wanted is None:
            return await snapshots_in(at.api, await find_project(at.api, connection.project))
        return await snapshots_of(at.api, (await find_volume_of(at.api, wanted, connection.project)).id)


async def _promoted(connection: Connection, wanted: str, name: str, key: str | None) -> ImageFields:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        found = await find_snapshot(at.api, wanted, project_id)
        source = ImageSourceInput(snapshot=SnapshotImageInput(snapshot_id=found.id))
        given = CreateImageInput(project_id=project_id, name=name, source=source, idempotency_key=key)
        with advising({}, options.IMAGE_ADVICE):
            return present(present((await at.api.copy_image(given)).create_image).image)
