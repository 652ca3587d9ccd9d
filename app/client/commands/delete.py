"""`images delete`"""

import sys
from typing import Annotated, Any

import typer

from app.client.api import documents
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.commands.show import Image, found_image
from app.client.errors import Interrupted, Misconfigured
from app.client.terminal.output import Output
from app.client.terminal.text import visible


def delete(
    image: Image,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Delete an image and free its storage."""
    with command(as_json=as_json) as output:
        where = options.connection_of(connection, project)
        if not yes and not (sys.stdin.isatty() and output.err.is_terminal):
            raise Misconfigured("There is no terminal to ask on.", hint="Say --yes to delete without being asked.")
        found = run(found_image(where, image))
        if not yes:
            _ask(output, found)
        payload = run(_deleted(where, found))
        if as_json:
            output.json({"deletedImageId": payload["deletedImageId"], "cursor": payload["cursor"]})
        else:
            output.line(f"{found['name']} is deleted: {found['id']}")


def _ask(output: Output, image: dict[str, Any]) -> None:
    output.err.print(f"Delete {visible(image['name'])} ({visible(image['id'])}, {image['status']})? [y/N] ", end="")
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        answer = "\n"
    if answer.strip().lower() not in ("y", "yes"):
        raise Interrupted("Nothing was deleted.")


async def _deleted(connection: Connection, image: dict[str, Any]) -> dict[str, Any]:
    async with session(connection) as at:
        # Whoever changed the image since it was shown may have had a reason to keep it.
        return await at.api.mutate(documents.DELETE_IMAGE, imageId=image["id"], expectedRevision=image["revision"])
