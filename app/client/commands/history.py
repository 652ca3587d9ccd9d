"""`images history`"""

from typing import Annotated

import typer

from app.client.api.catalogue import find_image, find_project
from app.client.api.connection import Connection
from app.client.api.watching import newest_events
from app.client.commands import options
from app.client.commands.session import Session, command, run, session
from app.client.errors import NotFound
from app.client.feed import Event
from app.client.terminal.showing_events import event_text


def history(
    image: Annotated[str | None, typer.Argument(help="Only this image, by id or name.", show_default="all")] = None,
    last: Annotated[int, typer.Option("--last", "-n", min=1, metavar="N", help="Number of events.")] = 20,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Print the newest events of images, servers and volumes, and who caused them, the newest last.

    The gateway keeps events for some days. Use the id of an image that was deleted.
    """
    with command(as_json=as_json) as output:
        events = run(_events(options.connection_of(connection, project), image, last))
        if as_json:
            output.json(events)
        elif not events:
            output.note("No events.")
        else:
            for event in events:
                output.line(event_text(event))


async def _events(connection: Connection, wanted: str | None, count: int) -> list[Event]:
    async with session(connection) as at:
        if wanted is None:
            return await newest_events(at.api, await find_project(at.api, connection.project), None, count)
        try:
            image = await find_image(at.api, wanted, connection.project)
        except NotFound:
            return await _of_deleted(at, connection, wanted, count)
        # Only the feed of the image's own project contains all of its events.
        project_id = image.project.id if image.project else await find_project(at.api, connection.project)
        return await newest_events(at.api, project_id, image.id, count)


async def _of_deleted(at: Session, connection: Connection, wanted: str, count: int) -> list[Event]:
    """The events of an image that was deleted, by id. Raises NotFound if there are none."""
    events = await newest_events(at.api, await find_project(at.api, connection.project), wanted, count)
    if not events:
        hint = "Use the id of the image if it was deleted."
        raise NotFound(f"There is no image with the id or name {wanted}.", hint=hint)
    return events
