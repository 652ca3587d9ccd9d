"""Connections as the Relay specification defines them, over the catalogue's keyset pages.

`paged` declares a field that returns one. Its arguments are first, after, last and before, and its resolver gets them
as a `Paging`.

A cursor is the JSON array [version, order, sort key, id], in base64url without padding. It is opaque to clients, and
input from clients is never trusted.
"""

import base64
import binascii
import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

import strawberry
from strawberry.annotation import StrawberryAnnotation
from strawberry.extensions.field_extension import AsyncExtensionResolver, FieldExtension
from strawberry.types.arguments import StrawberryArgument
from strawberry.types.field import StrawberryField

from app.catalog.pages import Page, Place, Window
from app.errors import InvalidInput

Node = TypeVar("Node")
Keys = type[str] | type[int] | type[datetime] | type[StrEnum]

_MAXIMUM_PAGE = 100
_CURSOR_VERSION = 1
# Long enough for any sort key of a name: each of 255 characters may become 33 bytes when it is normalized.
_CURSOR_LENGTH = 16 * 1024
_ALPHABET = re.compile(r"[A-Za-z0-9_-]+")
_INT64 = range(-(2**63), 2**63)

First = Annotated[
    int | None,
    strawberry.argument(
        description="Number of items from the start of the list, 1 to 100. Set exactly one of `first` and `last`."
    ),
]
After = Annotated[
    str | None, strawberry.argument(description="Return only items after this cursor; null starts at the first item.")
]
Last = Annotated[
    int | None,
    strawberry.argument(
        description="Number of items from the end of the list, 1 to 100. Set exactly one of `first` and `last`."
    ),
]
Before = Annotated[
    str | None, strawberry.argument(description="Return only items before this cursor; null ends at the last item.")
]

_ARGUMENTS: dict[str, Any] = {"first": First, "after": After, "last": Last, "before": Before}


@dataclass(frozen=True, slots=True)
class Paging:
    """The four arguments that select a page of a connection, unchecked."""

    first: int | None = None
    after: str | None = None
    last: int | None = None
    before: str | None = None

    def window(self, order: str, keys: Keys = str) -> Window:
        """The rows that the arguments select. Raises InvalidInput.

        `order` is the name of the order that the cursors have to belong to, `keys` the type of its sort keys.
        """
        limit, backward = page_size(self.first, self.last)
        after, before = _place(self.after, order, "after", keys), _place(self.before, order, "before", keys)
        return Window(limit, after, before, backward=backward)


class _TakesPaging(FieldExtension):
    """Declares the four arguments instead of the resolver's parameter `paging`, and passes them as a Paging."""

    def apply(self, field: StrawberryField) -> None:
        # Called again on the same field for every schema that is built.
        own = [argument for argument in field.arguments if argument.python_name not in {"paging", *_ARGUMENTS}]
        paging = [
            StrawberryArgument(name, None, StrawberryAnnotation(annotation), default=None)
            for name, annotation in _ARGUMENTS.items()
        ]
        field.arguments = [*own, *paging]

    async def resolve_async(
        self, next_: AsyncExtensionResolver, source: Any, info: strawberry.Info[Any, Any], **kwargs: Any
    ) -> Any:
        paging = Paging(**{name: kwargs.pop(name) for name in _ARGUMENTS})
        return await next_(source, info, paging=paging, **kwargs)


def paged(description: str) -> Any:
    """Declare a field that returns a connection. Its resolver is async and has a parameter `paging: Paging`."""
    return strawberry.field(description=description, extensions=[_TakesPaging()])


@strawberry.type(description="Position of a page in its list.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether there are items after this page.")
    has_previous_page: bool = strawberry.field(description="Whether there are items before this page.")
    start_cursor: str | None = strawberry.field(
        description="Cursor of the first item on the page; null if the page is empty."
    )
    end_cursor: str | None = strawberry.field(
        description="Cursor of the last item on the page; null if the page is empty."
    )


@strawberry.type(description="An item of a page, with its cursor.")
class Edge(Generic[Node]):
    cursor: str = strawberry.field(description="Cursor of the item, to send as `after` or `before`.")
    node: Node | None = strawberry.field(description="The item.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[Node]):
    page_info: PageInfo = strawberry.field(description="Position of the page in the list.")
    nodes: list[Node | None] | None = strawberry.field(description="Items of the page, without their cursors.")
    page: strawberry.Private[Page[Any]]
    cursor_of: strawberry.Private[Callable[[Any], str]]
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="Items of the page, with their cursors.")
    def edges(self) -> list[Edge[Node] | None] | None:
        pairs = zip(self.page.rows, self.nodes or (), strict=True)
        return [Edge(cursor=self.cursor_of(row), node=node) for row, node in pairs]

    @strawberry.field(description="Number of items on all pages.")
    async def total_count(self) -> int | None:
        return await self.count()


def page_fields(page: Page[Any], nodes: Sequence[Any], cursor_of: Callable[[Any], str]) -> dict[str, Any]:
    """The keyword arguments that create a connection. `cursor_of` returns the cursor of a row."""
    info = PageInfo(
        has_next_page=page.has_next,
        has_previous_page=page.has_previous,
        start_cursor=cursor_of(page.rows[0]) if page.rows else None,
        end_cursor=cursor_of(page.rows[-1]) if page.rows else None,
    )
    return {"page_info": info, "nodes": list(nodes), "page": page, "cursor_of": cursor_of}


def page_size(first: int | None, last: int | None) -> tuple[int, bool]:
    """The number of requested rows, and whether they are the last ones. Raises InvalidInput."""
    if (first is None) == (last is None):
        raise InvalidInput("Either first or last is required.", field=("first",), hint="Set first: 50, for example.")
    limit = first if first is not None else last
    if limit is None or not 1 <= limit <= _MAXIMUM_PAGE:
        field = "first" if first is not None else "last"
        raise InvalidInput(f"{field} is {limit}; it must be from 1 to {_MAXIMUM_PAGE}.", field=(field,))
    return limit, first is None


def cursor_for(order: str, key: Any, id_: str) -> str:
    """The cursor of the row at (`key`, `id_`) in this order."""
    return encode_cursor(order, key.astimezone(UTC).isoformat() if isinstance(key, datetime) else key, id_)


def _place(cursor: str | None, order: str, argument: str, keys: Keys) -> Place | None:
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


# ---------------------------------------------------------------- cursors


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a row in a sorted list: its sort key, and its id among equal keys."""

    key: str | int | None
    id: str


def encode_cursor(order: str, key: str | int | None, id: str) -> str:
    """Encode the cursor of the row at (`key`, `id`) in the list sorted by `order`."""
    text = json.dumps([_CURSOR_VERSION, order, key, id], separators=(",", ":"), ensure_ascii=False)
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def decode_cursor(text: str, order: str, *, field: str = "after") -> Position:
    """Decode a cursor of this order; `field` is the argument that contained it.

    Raises InvalidInput for anything that `encode_cursor` did not return.
    """
    match _content(text):
        case [_, _, str() | int() | None as key, str(id_)] if _is_storable(key) and _is_storable(id_):
            # Accept only the exact text that was issued, with this version and order.
            if encode_cursor(order, key, id_) == text:
                return Position(key, id_)
    raise InvalidInput(
        "This is not a cursor of this list.",
        field=(field,),
        hint="Send a startCursor or endCursor of the same list in the same order, or no cursor.",
    )


def _content(text: str) -> object:
    if len(text) > _CURSOR_LENGTH or not _ALPHABET.fullmatch(text):
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None


def _is_storable(value: str | int | None) -> bool:
    """Whether a database can store it: no NUL, no unpaired surrogate, at most 64 bits."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= character <= "\udfff" for character in value)
    return value is None or (not isinstance(value, bool) and value in _INT64)
