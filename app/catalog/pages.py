"""Keyset pagination: a page begins after a (sort key, id), never at an offset, so deep pages cost no more.

A page may be read from several ranges of an index, each in order and only as far as the page goes (`merged_ids`). An
index over (kind, key, id) has the rows of one kind in the order of (key, id), but not those of several kinds. In a
query for several kinds, databases read all of their rows to sort them, or scan another index past all other rows. So
each kind is a separate query, and their results are merged: by MERGE (UNION ALL) in SQLite, Merge Append in PostgreSQL.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy import (
    CompoundSelect,
    GenerativeSelect,
    Select,
    column,
    literal,
    literal_column,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncSession

Row = TypeVar("Row")
Query = TypeVar("Query", bound=GenerativeSelect)


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a row in an order: its sort key, and its id among rows of the same key."""

    key: Any
    id: str


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows a page wants: the first `limit` rows between two places, or the last ones if `backward`."""

    limit: int
    after: Place | None = None
    before: Place | None = None
    backward: bool = False


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """Rows in the requested order, and whether there are more on either side."""

    rows: Sequence[Row]
    has_next: bool
    has_previous: bool


async def read_page(
    session: AsyncSession, query: Select[Any], key: Any, id_: Any, window: Window, *, descending: bool = False
) -> Page[Any]:
    """The rows of `query` in the window, ordered by (`key`, `id_`); plain values if it selects one column or entity."""
    inside = between(query, key, id_, window, descending=descending)
    found = await session.execute(first_of(inside, key, id_, window, descending=descending))
    return _page(found.scalars().all() if len(found.keys()) == 1 else found.all(), window)


def page_of(numbers: Sequence[int], window: Window) -> Page[int]:
    """A page of known numbers, which must be in ascending order: each is its own sort key."""
    after, before = (None if place is None else place.key for place in (window.after, window.before))
    inside = [n for n in numbers if (after is None or n > after) and (before is None or n < before)]
    return _page(inside[::-1] if window.backward else inside, window)


def _page(found: Sequence[Any], window: Window) -> Page[Any]:
    """A page from the rows of `first_of`, or from more; in reverse if the window is backward."""
    more = len(found) > window.limit
    rows = found[: window.limit]
    if window.backward:
        return Page(rows[::-1], has_next=window.before is not None, has_previous=more)
    return Page(rows, has_next=more, has_previous=window.after is not None)


def merged_pages(
    pages: Sequence[Page[Row]], place: Callable[[Row], Any], window: Window, *, descending: bool = False
) -> Page[Row]:
    """Merge pages of the same window over disjoint rows. `place` returns the sort key and id of a row."""
    rows = sorted((row for page in pages for row in page.rows), key=place, reverse=descending)
    more = len(rows) > window.limit
    if window.backward:
        earlier = more or any(page.has_previous for page in pages)
        return Page(rows[-window.limit :], has_next=window.before is not None, has_previous=earlier)
    later = more or any(page.has_next for page in pages)
    return Page(rows[: window.limit], has_next=later, has_previous=window.after is not None)


def between(query: Select[Any], key: Any, id_: Any, window: Window, *, descending: bool) -> Select[Any]:
    """Limit `query` to the rows between the two places of the window."""
    if window.after is not None:
        query = query.where(_beyond(key, id_, window.after, down=descending))
    if window.before is not None:
        query = query.where(_beyond(key, id_, window.before, down=not descending))
    return query


def first_of(query: Query, key: Any, id_: Any, window: Window, *, descending: bool) -> Query:
    """Order `query` and limit it to one row more than the window; in reverse if the window is backward."""
    down = descending != window.backward
    ordered = query.order_by(*(part.desc() if down else part.asc() for part in (key, id_)))
    return ordered.limit(window.limit + 1)


def merged_ids(queries: Iterable[Select[Any]], key: Any, id_: Any, window: Window, *, descending: bool) -> Select[Any]:
    """Select the ids of a page's rows, and of one more, from one or more queries of the columns `key` and `id_`."""
    # PostgreSQL plans each part separately: without its own order and limit, it would read all rows of a kind. SQLite
    # accepts these only in a subquery. `*` because naming the columns again would cost as much as running the query.
    pages = (
        first_of(between(query, key, id_, window, descending=descending), key, id_, window, descending=descending)
        for query in queries
    )
    parts: Iterable[Select[Any]] = (select(literal_column("*")).select_from(page.subquery()) for page in pages)
    union: CompoundSelect[Any] = union_all(*parts)
    merged = first_of(union, column(key.name), column(id_.name), window, descending=descending).subquery()
    return select(column(id_.name, id_.type)).select_from(merged)


def _beyond(key: Any, id_: Any, place: Place, *, down: bool) -> Any:
    # A row value uses both columns of the index, so that a place among a million equal keys costs no more.
    here = tuple_(key, id_)
    there = tuple_(literal(place.key, key.type), literal(place.id, id_.type))
    return here < there if down else here > there
