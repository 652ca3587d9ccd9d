"""`images delete`"""

import sys
from typing import Annotated

import typer

from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.commands.show import Image, found_image
from app.client.errors import Interrupted, Misconfigured
from app.client.generated.delete_image import DeleteImageDeleteImage
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import DeleteImageInput
from app.client.terminal.output import Output
from app.client.terminal.text import visible


def delete(
    image: Image,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Delete without confirmation.")] = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete an image and free its storage."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        if not yes and not (sys.stdin.isatty() and output.err.is_terminal):
            raise Misconfigured(
                "Can't ask for confirmation without a terminal.", hint="Use --yes to delete without it."
            )
        found = run(found_image(where, image))
        if not yes:
            _ask(output, found)
        payload = run(_deleted(where, found))
        if as_json:
            output.json({"deletedImageId": payload.deleted_image_id, "cursor": payload.cursor})
        else:
            output.line(f"{found.name} is deleted: {found.id}")


def _ask(output: Output, image: ImageFields) -> None:
    output.err.print(f"Delete {visible(image.name)} ({visible(image.id)}, {image.status})? [y/N] ", end="")
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = "\n"
    if answer.strip().lower() not in ("y", "yes"):
        raise Interrupted("Nothing was deleted.")


async def _deleted(connection: Connection, image: ImageFields) -> DeleteImageDeleteImage:
    async with session(connection) as at:
        # The image may have changed since it was shown, for a reason to keep it.
        given = DeleteImageInput(image_id=image.id, expected_revision=image.revision)
        return present((await at.api.delete_image(given)).delete_image)
