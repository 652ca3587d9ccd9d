"""Pages by keyset: a page begins after a (sort key, id), never at an offset, so that deep pages cost no more."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, and_, or_
from sqlalchemy.ext.asyncio import AsyncSession

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row stands in an order: its sort key, and its id for rows of the same key."""

    key: Any
    id: str


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows are asked for: the first `limit` of those between two places, or, `backward`, the last."""

    limit: int
    after: Place | None = None
    before: Place | None = None
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows in the order that was asked for, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool


async def read_page(
    session: AsyncSession, query: Select[Any], key: Any, id_: Any, window: Window, *, descending: bool = False
) -> Page[Any]:
    """The rows of `query` in the order of (`key`, `id_`) that lie in the window; of one column or entity, just that."""
    if window.after is not None:
        query = query.where(_beyond(key, id_, window.after, down=descending))
    if window.before is not None:
        query = query.where(_beyond(key, id_, window.before, down=not descending))
    down = descending != window.backward
    ordered = query.order_by(*(column.desc() if down else column.asc() for column in (key, id_)))
    found = await session.execute(ordered.limit(window.limit + 1))
    rows: Sequence[Any] = found.scalars().all() if len(found.keys()) == 1 else found.all()
    more = len(rows) > window.limit
    rows = rows[: window.limit]
    if window.backward:
        return Page(rows[::-1], has_next=window.before is not None, has_previous=more)
    return Page(rows, has_next=more, has_previous=window.after is not None)


def _beyond(key: Any, id_: Any, place: Place, *, down: bool) -> Any:
    # Spelled out rather than as a row value: SQLite uses the index for the first comparison either way.
    if down:
        return and_(key <= place.key, or_(key < place.key, id_ < place.id))
    return and_(key >= place.key, or_(key > place.key, id_ > place.id))
