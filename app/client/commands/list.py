"""`images list`"""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from app.client.api.catalogue import find_project, list_images
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.terminal.showing import show_images

_ORDERS = {
    options.Order.NAME: "NAME",
    options.Order.CREATED: "CREATED_AT",
    options.Order.SIZE: "SIZE",
    options.Order.STATUS: "STATUS",
    options.Order.TYPE: "TYPE",
}
# What people look for at the top: the newest, and the largest.
_DESCENDING = (options.Order.CREATED, options.Order.SIZE)


def list_(
    status: Annotated[
        list[options.Status] | None, typer.Option(case_sensitive=False, help="Only with this status; may be repeated.")
    ] = None,
    type: Annotated[
        list[options.Type] | None, typer.Option(case_sensitive=False, help="Only of this type; may be repeated.")
    ] = None,
    os: Annotated[list[str] | None, typer.Option(help="Only with this operating system; may be repeated.")] = None,
    name_contains: Annotated[str | None, typer.Option(metavar="TEXT", help="Only with this in the name.")] = None,
    order: Annotated[options.Order, typer.Option(case_sensitive=False, help="What to sort by.")] = (
        options.Order.CREATED
    ),
    descending: Annotated[
        bool | None, typer.Option("--desc/--asc", help="Greatest or least first.", show_default="by the order")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many.", show_default="all")] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List the images that a project can see."""
    with command(as_json=as_json) as output:
        chosen = {
            "statuses": _words(status),
            "types": _words(type),
            "osFamilies": os or None,
            "nameContains": name_contains,
        }
        down = descending if descending is not None else order in _DESCENDING
        sorting = {"field": _ORDERS[order], "direction": "DESC" if down else "ASC"}
        images = run(_listed(options.connection_of(connection, project), chosen, sorting, limit))
        if as_json:
            output.json(images)
        elif images:
            show_images(output, images)
        else:
            output.note("There are no such images.")


async def _listed(
    connection: Connection, chosen: dict[str, Any], sorting: dict[str, str], limit: int | None
) -> list[dict[str, Any]]:
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        return [image async for image in list_images(at.api, project_id, chosen, sorting, limit)]


def _words(chosen: Sequence[str] | None) -> list[str] | None:
    return [word.upper() for word in chosen] if chosen else None
