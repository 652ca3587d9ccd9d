"""Connections by the Relay specification, over the catalogue's keyset pages."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

import strawberry

from app.catalog.pages import Page, Place, Window
from app.errors import InvalidInput
from app.graphql.pagination import decode_cursor, encode_cursor

Node = TypeVar("Node")

_MAXIMUM_PAGE = 100


@strawberry.type(description="Where a page lies among all that there is.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether there is more after this page.")
    has_previous_page: bool = strawberry.field(description="Whether there is more before this page.")
    start_cursor: str | None = strawberry.field(description="Cursor of the first edge.")
    end_cursor: str | None = strawberry.field(description="Cursor of the last edge.")


@strawberry.type(description="A node of a page, and its cursor.")
class Edge(Generic[Node]):
    cursor: str = strawberry.field(description="Send it as after or before to page on from here.")
    node: Node | None = strawberry.field(description="What the edge leads to.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[Node]):
    page_info: PageInfo = strawberry.field(description="Where the page lies.")
    nodes: list[Node | None] | None = strawberry.field(description="What is on the page, without cursors.")
    page: strawberry.Private[Page[Any]]
    cursor_of: strawberry.Private[Callable[[Any], str]]
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="What is on the page, with cursors.")
    def edges(self) -> list[Edge[Node] | None] | None:
        pairs = zip(self.page.rows, self.nodes or (), strict=True)
        return [Edge(cursor=self.cursor_of(row), node=node) for row, node in pairs]

    @strawberry.field(description="How many there are on all pages.")
    async def total_count(self) -> int | None:
        return await self.count()


def page_fields(page: Page[Any], nodes: Sequence[Any], cursor_of: Callable[[Any], str]) -> dict[str, Any]:
    """What every connection is made of: pass it on as keyword arguments. `cursor_of` gives the cursor of a row."""
    info = PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=cursor_of(page.rows[0]) if page.rows else None,
        end_cursor=cursor_of(page.rows[-1]) if page.rows else None,
    )
    return {"page_info": info, "nodes": list(nodes), "page": page, "cursor_of": cursor_of}


def window_of(
    order: str,
    first: int | None,
    after: str | None,
    last: int | None = None,
    before: str | None = None,
    *,
    keys: type[str] | type[int] | type[datetime] | type[StrEnum] = str,
) -> Window:
    """The rows that a field's arguments ask for. Raises InvalidInput.

    `order` names what the cursors have to be made for, `keys` the type of its sort keys.
    """
    if (first is None) == (last is None):
        raise InvalidInput("Give either first or last.", field=("first",), hint="For example first: 50.")
    limit = first if first is not None else last
    if limit is None or not 1 <= limit <= _MAXIMUM_PAGE:
        field = "first" if first is not None else "last"
        raise InvalidInput(f"A page has 1 to {_MAXIMUM_PAGE} rows.", field=(field,))
    return Window(
        limit=limit,
        after=_place(after, order, "after", keys),
        before=_place(before, order, "before", keys),
        backward=first is None,
    )


def cursor_for(order: str, key: Any, id_: str) -> str:
    """The cursor of a row that stands at (`key`, `id_`) in this order."""
    return encode_cursor(order, key.astimezone(UTC).isoformat() if isinstance(key, datetime) else key, id_)


def _place(cursor: str | None, order: str, argument: str, keys: type) -> Place | None:
    if cursor is None:
        return None
    position = decode_cursor(cursor, order, field=argument)
    key: Any = position.key
    try:
        if keys is datetime and isinstance(key, str):
            key = datetime.fromisoformat(key)
            key = key.astimezone(UTC) if key.tzinfo else None
        elif issubclass(keys, StrEnum):
            key = keys(key)
    except (ValueError, OverflowError):
        key = None
    if not isinstance(key, keys):
        raise InvalidInput("This is not a cursor of this list.", field=(argument,))
    return Place(key, position.id)
