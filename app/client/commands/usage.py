"""`images usage`"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.client.api import project_documents as documents
from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import Misconfigured, NotFound
from app.client.terminal.output import Output

# Before the first instant that Python knows, there is no other.
_INSTANT_TWO = datetime.min.replace(microsecond=1, tzinfo=UTC)

Interval = tuple[datetime, datetime]


def usage(
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DATE", help="From this day or instant on.", show_default="beginning of the month"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--to", metavar="DATE", help="Until the beginning of this day.", show_default="end of the month"),
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what a project has stored, and what that costs: a line for each image, and the total.

    Without dates, in this calendar month. Days begin in UTC; 2026-07-01 and 2026-07-01T12:00:00+02:00 are dates.
    """
    with command(as_json=as_json) as output:
        interval = interval_of(since, until, datetime.now(UTC))
        found = run(_used(options.connection_of(connection, project), interval))
        if as_json:
            output.json(found)
        else:
            _show(output, found)


def interval_of(since: str | None, until: str | None, now: datetime) -> Interval:
    """From when until when. Raises Misconfigured."""
    end = _instant(until) if until is not None else _first_of_month(_first_of_month(now) + timedelta(days=32))
    if since is not None:
        return _instant(since), end
    # The month that ends there, and not the one that begins.
    return _first_of_month(max(end, _INSTANT_TWO) - timedelta(microseconds=1)), end


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Misconfigured(f"{text} is no date.", hint="A date looks like 2026-07-01.") from None


def _first_of_month(instant: datetime) -> datetime:
    return instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


async def _used(connection: Connection, interval: Interval) -> dict[str, Any]:
    """The bill, with the lines of all images; what is still stored counts up to the moment of the first page."""
    since, until = (instant.isoformat() for instant in interval)
    found: dict[str, Any] | None = None
    after: str | None = None
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        while True:
            data = await at.api.query(documents.USAGE, project=project_id, since=since, until=until, after=after)
            project = data["project"] or {}
            if project.get("usage") is None:
                raise NotFound("There is no such project.")
            page = project["usage"].pop("byImage")
            if found is None:
                found = {"project": {"id": project["id"], "name": project["name"]}, **project["usage"], "byImage": []}
            found["byImage"] += page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]


def _show(output: Output, found: Mapping[str, Any]) -> None:
    output.line(f"{found['project']['name']}, from {found['from']} to {found['to']}")
    rows = [(one["imageName"], *_amounts(one), (one["image"] or {}).get("id", "deleted")) for one in found["byImage"]]
    output.table(
        ("IMAGE", "GiB HOURS", "COST", "ID"), [*rows, ("total", *_amounts(found), "")], right=("GiB HOURS", "COST")
    )


def _amounts(line: Mapping[str, Any]) -> tuple[str, str]:
    return f"{line['gibHours']:.3f}", f"{line['cost']['amount']} {line['cost']['currency']}"
