"""`images copy`"""

from typing import Annotated, Any

import typer

from app.client.api import documents
from app.client.api.catalogue import find_image, find_project
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.commands.show import Image


def copy(
    image: Image,
    name: Annotated[str, typer.Argument(help="Name of the copy.", show_default=False)],
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="The same key again gives the same copy, not another one.")
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Pin an image: make a copy of it that belongs to the project, and stays when the original goes.

    No byte is copied, and the copy is ACTIVE at once. Prints the new image.
    """
    with command(as_json=as_json) as output:
        made = run(_copied(options.connection_of(connection, project), image, name, idempotency_key))
        if as_json:
            output.json(made)
        else:
            output.line(f"{made['name']} is {made['status']}: {made['id']}")


async def _copied(connection: Connection, wanted: str, name: str, key: str | None) -> dict[str, Any]:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        original = await find_image(at.api, wanted, project_id)
        payload = await at.api.mutate(
            documents.COPY_IMAGE,
            projectId=project_id,
            name=name,
            source={"image": {"imageId": original["id"]}},
            idempotencyKey=key,
        )
        return dict(payload["image"])
