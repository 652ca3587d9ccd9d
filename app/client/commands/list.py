"""`images list`"""

from enum import StrEnum
from typing import Annotated

import typer

from app.client.api.catalogue import find_project, list_images
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.generated.enums import ImageOrderField, ImageStatus, ImageType, OrderDirection
from app.client.generated.fragments import ImageFields
from app.client.generated.input_types import ImageFilter, ImageOrder
from app.client.terminal.showing import show_images


class Order(StrEnum):
    """Words on the command line for the API's ImageOrderField."""

    NAME = "name"
    CREATED = "created"
    SIZE = "size"
    STATUS = "status"
    TYPE = "type"


_FIELDS = {
    Order.NAME: ImageOrderField.NAME,
    Order.CREATED: ImageOrderField.CREATED_AT,
    Order.SIZE: ImageOrderField.SIZE,
    Order.STATUS: ImageOrderField.STATUS,
    Order.TYPE: ImageOrderField.TYPE,
}
# Users want the newest and the largest images first.
_DESCENDING = (Order.CREATED, Order.SIZE)


def list_(
    status: Annotated[
        list[ImageStatus] | None,
        typer.Option(
            parser=options.word_of(ImageStatus),
            metavar=f"<list[{options.words(ImageStatus)}]>",
            help="Only images with this status; may be repeated.",
        ),
    ] = None,
    type: Annotated[
        list[ImageType] | None,
        typer.Option(
            parser=options.word_of(ImageType),
            metavar=f"<list[{options.words(ImageType)}]>",
            help="Only images of this type; may be repeated.",
        ),
    ] = None,
    os: Annotated[list[str] | None, typer.Option(help="Only images with this OS family; may be repeated.")] = None,
    name_contains: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only images with this in the name.")
    ] = None,
    order: Annotated[Order, typer.Option(case_sensitive=False, help="Sort order.")] = Order.CREATED,
    descending: Annotated[
        bool | None, typer.Option("--desc/--asc", help="Descending or ascending order.", show_default="by the order")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Maximum number of images.", show_default="all")] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the images that a project can see."""
    with command(as_json=as_json) as output:
        chosen = ImageFilter(
            statuses=status or None, types=type or None, os_families=os or None, name_contains=name_contains
        )
        filtered = bool(status or type or os or name_contains)
        down = descending if descending is not None else order in _DESCENDING
        sorting = ImageOrder(field=_FIELDS[order], direction=OrderDirection.DESC if down else OrderDirection.ASC)
        images = run(_listed(options.connection_of(connection, project), chosen, sorting, limit))
        if as_json:
            output.json(images)
        elif images:
            show_images(output, images)
        else:
            output.note("No matching images." if filtered else "No images yet. Upload one with `images upload FILE`.")


async def _listed(
    connection: Connection, chosen: ImageFilter, sorting: ImageOrder, limit: int | None
) -> list[ImageFields]:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        return [image async for image in list_images(at.api, project_id, chosen, sorting, limit)]
