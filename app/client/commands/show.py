"""`images show`"""

from typing import Annotated

import typer

from app.client.api.catalogue import find_image
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.generated.image import ImageImage
from app.client.terminal.showing import show_image

Image = Annotated[str, typer.Argument(help="An image, by id or name.", show_default=False)]


def show(
    image: Image,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show the details of an image."""
    with command(as_json=as_json) as output:
        found = run(found_image(options.connection_of(connection, project), image))
        if as_json:
            output.json(found)
        else:
            show_image(output, found)


async def found_image(connection: Connection, wanted: str) -> ImageImage:
    """The image with this id or name. Raises NotFound."""
    async with session(connection) as at:
        return await find_image(at.api, wanted, connection.project)
