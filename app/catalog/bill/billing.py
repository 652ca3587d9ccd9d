"""The bill: what a project has stored from one instant to another, and what it costs, in all and by image.

It is read from the ledger alone, so that it stays what it is when images are changed or deleted. All functions of
one bill should be given the same `at`, the instant until which lines that are open count: its parts then add up.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import sqlalchemy
from sqlalchemy import Select, func
from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.bill import pricing
from app.catalog.bill.pricing import Amount, Line, Tariff
from app.catalog.pages import Page, Place, Window, read_page
from app.errors import InvalidInput
from app.models import TABLES, Image, now
from app.settings import Settings
from app.sizes import GIB

# Ten years are as long as this at most; prices of longer times are not worked out for anybody.
_LONGEST = timedelta(days=3653)
# Lines that are in memory at once: a project may have a million.
_AT_ONCE = 1_000

_ENTRIES, _IMAGES = TABLES.tables["storage_entry"], TABLES.tables["image"]
_ENTRY, _IMAGE = _ENTRIES.c, _IMAGES.c
_LINE = (_ENTRY.stored_size, _ENTRY.since, _ENTRY.until)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a project has stored from `since` to `until`, or up to `at`, when it was asked; and what that costs."""

    project_id: str
    since: datetime
    until: datetime
    at: datetime
    gib_hours: Decimal
    cost: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """The part of an image in a bill. The image may be deleted; `image_name` is what it was called last."""

    image_id: str
    image_name: str
    gib_hours: Decimal
    cost: Decimal
    currency: str


async def usage_of(
    session: AsyncSession,
    project_id: str,
    since: datetime,
    until: datetime,
    settings: Settings,
    *,
    at: datetime | None = None,
) -> Usage:
    """What a project has stored in all. Raises InvalidInput for an interval that is empty or longer than ten years."""
    _require_interval(since, until)
    at = at or now()
    tariff = Tariff(settings.archive_rates, since, min(until, at))
    total = await _total(session, project_id, tariff)
    return Usage(project_id, since, until, at, total.gib_hours, total.cost, settings.archive_currency)


async def _total(session: AsyncSession, project_id: str, tariff: Tariff) -> Amount:
    query = _within(sqlalchemy.select(_ENTRY.image_id, _ENTRY.id, *_LINE), project_id, tariff)
    total, window = Amount(), Window(_AT_ONCE)
    while True:
        page = await read_page(session, query, _ENTRY.image_id, _ENTRY.id, window)
        total += tariff.amount(Line(row.stored_size, row.since, row.until) for row in page.rows)
        if not page.has_next:
            return total
        window = Window(_AT_ONCE, after=Place(page.rows[-1].image_id, page.rows[-1].id))


async def image_usage_page(
    session: AsyncSession,
    project_id: str,
    since: datetime,
    until: datetime,
    window: Window,
    settings: Settings,
    *,
    at: datetime | None = None,
) -> Page[ImageUsage]:
    """A page of the images that were stored, in the order of their ids: a Place of it has the id as its key, too.

    Raises InvalidInput as `usage_of` does.
    """
    _require_interval(since, until)
    tariff = Tariff(settings.archive_rates, since, min(until, at or now()))
    image_id = _ENTRY.image_id
    ids = _within(sqlalchemy.select(image_id), project_id, tariff).group_by(image_id)
    page: Page[str] = await read_page(session, ids, image_id, image_id, window)
    amounts = await _amounts(session, project_id, tariff, page.rows) if page.rows else {}
    rows = [
        ImageUsage(id_, name, amount.gib_hours, amount.cost, settings.archive_currency)
        for (id_, name), amount in sorted(amounts.items())
    ]
    return Page(rows, page.has_next, page.has_previous)


async def _amounts(
    session: AsyncSession, project_id: str, tariff: Tariff, image_ids: Sequence[str]
) -> dict[tuple[str, str], Amount]:
    """What images of a project come to, each by its id and name."""
    query = sqlalchemy.select(_ENTRY.image_id, _IMAGE.name, *_LINE).join_from(_ENTRIES, _IMAGES)
    query = _within(query, project_id, tariff).where(_ENTRY.image_id.in_(image_ids))
    lines: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for row in (await session.execute(query)).all():
        lines[row.image_id, row.name].append(Line(row.stored_size, row.since, row.until))
    return {image: tariff.amount(found) for image, found in lines.items()}


async def count_image_usage(
    session: AsyncSession, project_id: str, since: datetime, until: datetime, *, at: datetime | None = None
) -> int:
    """How many images were stored. Raises InvalidInput as `usage_of` does."""
    _require_interval(since, until)
    tariff = Tariff((), since, min(until, at or now()))
    query = _within(sqlalchemy.select(func.count(_ENTRY.image_id.distinct())), project_id, tariff)
    count: int = (await session.execute(query)).scalar_one()
    return count


async def paying(session: AsyncSession, images: Iterable[Image]) -> set[str]:
    """Those of the images, by id, that pay for their bytes: for some, another image of their project does."""
    naming = [image for image in images if image.blob_id is not None]
    query = sqlalchemy.select(_ENTRY.image_id).where(
        _ENTRY.blob_id.in_({image.blob_id for image in naming}),
        _ENTRY.project_id.in_({image.project_id for image in naming}),
        _ENTRY.until.is_(None),
    )
    found = set((await session.execute(query)).scalars()) if naming else set()
    return found & {image.id for image in naming}


def monthly_cost(stored_size: int, settings: Settings, at: datetime) -> Decimal:
    """What so many bytes cost for a whole month at the rate of `at`, rounded half even to six places."""
    rate = pricing.rate_at(settings.archive_rates, at)
    return pricing.rounded(Fraction(rate) * stored_size / GIB)


def _within(query: Select[Any], project_id: str, tariff: Tariff) -> Select[Any]:
    """Limits to lines of a project that lie, even in part, in the time of a tariff; to touch it is not enough."""
    if tariff.since >= tariff.until:
        return query.where(sqlalchemy.false())
    ends_within = (_ENTRY.until > tariff.since) & (_ENTRY.until > _ENTRY.since)
    return query.where(
        _ENTRY.project_id == project_id, _ENTRY.since < tariff.until, _ENTRY.until.is_(None) | ends_within
    )


def _require_interval(since: datetime, until: datetime) -> None:
    if since >= until:
        raise InvalidInput("The interval is empty: it has to end after it begins.", field=("to",))
    if until - since > _LONGEST:
        raise InvalidInput("The interval is longer than ten years.", field=("from",), hint="Ask for less at a time.")
