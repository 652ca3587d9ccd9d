"""`images download`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from app.client.api.catalogue import find_image
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.commands.show import Image
from app.client.retrying import RetryPolicy
from app.client.terminal.output import Output
from app.client.terminal.reporting import reporter_for
from app.client.terminal.text import size
from app.client.transfer.downloading import Downloading, file_name_for


def download(
    image: Image,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; by default named after the image.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite an existing file.")] = False,
    patience: options.PatienceSeconds = 120,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Download an image as qcow2 and verify it. Run the same command again to resume a download."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        act = _download(where, output, image, file, force, RetryPolicy(patience))
        done = run(act, resumed_by="Run the same command again to resume.")
        if as_json:
            output.json(done)
            return
        output.line(f"{done['path']}: {size(done['size'])}, SHA-256 {done['sha256']}")
        if not done["verified"]:
            output.note("The file was not verified: the gateway has no checksum of this image yet.")


async def _download(
    connection: Connection, output: Output, wanted: str, file: Path | None, force: bool, policy: RetryPolicy
) -> dict[str, Any]:
    async with session(connection) as at:
        image = await find_image(at.api, wanted, connection.project)
        target = file if file is not None else Path(file_name_for(image))
        with reporter_for(output) as reporter:
            return await Downloading(at.api, at.http, image, target, force, reporter, policy).fetch()
