"""Bills: how much a project stored in an interval and what it costs, in total and by image.

A bill is calculated only from the ledger, so that it does not change when images are changed or deleted. Pass the same
`at`, the time until which open entries count, to all functions of one bill, so that its parts add up.
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

# Ten years have at most this length. Longer intervals are refused, to limit the cost of a request.
_LONGEST = timedelta(days=3653)
# Ledger entries in memory at a time: a project may have a million.
_AT_ONCE = 1_000

_ENTRIES, _IMAGES = TABLES.tables["storage_entry"], TABLES.tables["image"]
_ENTRY, _IMAGE = _ENTRIES.c, _IMAGES.c
_LINE = (_ENTRY.stored_size, _ENTRY.since, _ENTRY.until)


@dataclass(frozen=True, slots=True)
class Usage:
    """How much a project stored from `since` to `until`, or until `at` if that is earlier, and what it costs."""

    project_id: str
    since: datetime
    until: datetime
    at: datetime
    gib_hours: Decimal
    cost: Decimal
    currency: str


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """The part of a bill for one image. The image may be deleted; `image_name` is its last name."""

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
    """The total usage of a project. Raises InvalidInput for an interval that is empty or longer than ten years."""
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
    """A page of the usage by image, ordered by id; the id is also the sort key of a Place.

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
    """The amounts of a project's images, by id and name."""
    query = sqlalchemy.select(_ENTRY.image_id, _IMAGE.name, *_LINE).join_from(_ENTRIES, _IMAGES)
    query = _within(query, project_id, tariff).where(_ENTRY.image_id.in_(image_ids))
    lines: dict[tuple[str, str], list[Line]] = defaultdict(list)
    for row in (await session.execute(query)).all():
        lines[row.image_id, row.name].append(Line(row.stored_size, row.since, row.until))
    return {image: tariff.amount(found) for image, found in lines.items()}


async def count_image_usage(
    session: AsyncSession, project_id: str, since: datetime, until: datetime, *, at: datetime | None = None
) -> int:
    """The number of images that were stored. Raises InvalidInput as `usage_of` does."""
    _require_interval(since, until)
    tariff = Tariff((), since, min(until, at or now()))
    query = _within(sqlalchemy.select(func.count(_ENTRY.image_id.distinct())), project_id, tariff)
    count: int = (await session.execute(query)).scalar_one()
    return count


async def paying(session: AsyncSession, images: Iterable[Image]) -> set[str]:
    """The ids of the images that are billed for their bytes; for others, an image of their project is billed."""
    naming = [image for image in images if image.blob_id is not None]
    query = sqlalchemy.select(_ENTRY.image_id).where(
        _ENTRY.blob_id.in_({image.blob_id for image in naming}),
        _ENTRY.project_id.in_({image.project_id for image in naming}),
        _ENTRY.until.is_(None),
    )
    found = set((await session.execute(query)).scalars()) if naming else set()
    return found & {image.id for image in naming}


def monthly_cost(stored_size: int, settings: Settings, at: datetime) -> Decimal:
    """The cost of `stored_size` bytes for a whole month at the rate of `at`, rounded half even to six places."""
    rate = pricing.rate_at(settings.archive_rates, at)
    return pricing.rounded(Fraction(rate) * stored_size / GIB)


def _within(query: Select[Any], project_id: str, tariff: Tariff) -> Select[Any]:
    """Limit a query to entries of a project that overlap the interval of a tariff; touching it is not enough."""
    if tariff.since >= tariff.until:
        return query.where(sqlalchemy.false())
    ends_within = (_ENTRY.until > tariff.since) & (_ENTRY.until > _ENTRY.since)
    return query.where(
        _ENTRY.project_id == project_id, _ENTRY.since < tariff.until, _ENTRY.until.is_(None) | ends_within
    )


def _require_interval(since: datetime, until: datetime) -> None:
    if since >= until:
        raise InvalidInput("The interval is empty: it must end after it begins.", field=("to",))
    if until - since > _LONGEST:
        raise InvalidInput(
            "The interval is longer than ten years.", field=("from",), hint="Request a shorter interval."
        )
