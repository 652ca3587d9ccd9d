"""`images copy`"""

from typing import Annotated

import typer

from app.client.api.catalogue import find_image, find_project
from app.client.api.connection import Connection
from app.client.api.gateway import present
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.commands.show import Image
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import CopyImageInput, CreateImageInput, ImageSourceInput


def copy(
    image: Image,
    name: Annotated[str, typer.Argument(help="Name of the copy.", show_default=False)],
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Key for retries: the same key returns the same copy.")
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Pin an image: create a copy in the project that outlives the original.

    No bytes are copied, and the copy is ACTIVE at once. Prints the new image.
    """
    with command(as_json=as_json) as output:
        made = run(_copied(options.connection_of(connection, project), image, name, idempotency_key))
        if as_json:
            output.json(made)
        else:
            output.line(f"{made.name} is {made.status}: {made.id}")


async def _copied(connection: Connection, wanted: str, name: str, key: str | None) -> ImageFields:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        original = await find_image(at.api, wanted, project_id)
        given = CreateImageInput(
            project_id=project_id,
            name=name,
            source=ImageSourceInput(image=CopyImageInput(image_id=original.id)),
            idempotency_key=key,
        )
        return present(present((await at.api.copy_image(given)).create_image).image)
