"""`images usage`"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from app.client.api.catalogue import find_project
from app.client.api.connection import Connection
from app.client.api.paging import nodes_of
from app.client.commands import options
from app.client.commands.session import command, run, session
from app.client.errors import Misconfigured, NotFound
from app.client.generated.usage import UsageProject, UsageProjectUsage
from app.client.generated.usage import UsageProjectUsageByImageNodes as Line
from app.client.terminal.output import Output, as_received

# Python's first instant has no predecessor.
_INSTANT_TWO = datetime.min.replace(microsecond=1, tzinfo=UTC)

Interval = tuple[datetime, datetime]


def usage(
    since: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="DATE", help="Start: a day or an instant.", show_default="beginning of the month"
        ),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="DATE", help="End (exclusive): a day or an instant.", show_default="end of the month"
        ),
    ] = None,
    project: options.Project = None,
    connection: options.ConnectionFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what a project stored and what that costs: one line per image, and the total.

    The default is this calendar month. Days begin in UTC. Write 2026-07-01 or 2026-07-01T12:00:00+02:00.
    """
    with command(as_json=as_json) as output:
        interval = interval_of(since, until, datetime.now(UTC))
        found = run(_used(options.connection_of(connection, project), interval))
        if as_json:
            output.json(_as_json(found))
        else:
            _show(output, found)


def interval_of(since: str | None, until: str | None, now: datetime) -> Interval:
    """The start and the end of the bill. Raises Misconfigured."""
    end = _instant(until) if until is not None else _first_of_month(_first_of_month(now) + timedelta(days=32))
    if since is not None:
        return _instant(since), end
    # The month that ends at `end`, not the one that begins there.
    return _first_of_month(max(end, _INSTANT_TWO) - timedelta(microseconds=1)), end


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Misconfigured(f"{text} is not a valid date.", hint="Use a date such as 2026-07-01.") from None


def _first_of_month(instant: datetime) -> datetime:
    return instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


@dataclass(frozen=True, slots=True)
class _Bill:
    """A project and its total, as of the first page of lines, and the lines of all images."""

    project: UsageProject
    total: UsageProjectUsage
    lines: list[Line]


async def _used(connection: Connection, interval: Interval) -> _Bill:
    """The bill. Images that are still stored count up to the time of the first page."""
    since, until = (instant.isoformat() for instant in interval)
    bill: _Bill | None = None
    after: str | None = None
    async with session(connection) as at:
        project_id = await find_project(at.api, connection.project)
        while True:
            project = (await at.api.usage(project_id, since, until, after)).project
            if project is None or project.usage is None or project.usage.by_image is None:
                raise NotFound("There is no such project.")
            page = project.usage.by_image
            bill = bill or _Bill(project, project.usage, [])
            bill.lines.extend(nodes_of(page))
            if not page.page_info.has_next_page:
                return bill
            after = page.page_info.end_cursor


def _as_json(bill: _Bill) -> dict[str, Any]:
    total = as_received(bill.total) | {"byImage": bill.lines}
    return {"project": {"id": bill.project.id, "name": bill.project.name}, **total}


def _show(output: Output, bill: _Bill) -> None:
    output.line(f"{bill.project.name}, from {bill.total.from_} to {bill.total.to}")
    rows = [(line.image_name, *_amounts(line), line.image.id if line.image else "deleted") for line in bill.lines]
    output.table(
        ("IMAGE", "GiB HOURS", "COST", "ID"),
        [*rows, ("total", *_amounts(bill.total), "")],
        right=("GiB HOURS", "COST"),
    )


def _amounts(line: Line | UsageProjectUsage) -> tuple[str, str]:
    return f"{line.gib_hours:.3f}", f"{line.cost.amount} {line.cost.currency}"
