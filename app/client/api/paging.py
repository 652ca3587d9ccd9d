"""Reads a whole list of the API, page by page."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from app.client.errors import ClientError

Node = TypeVar("Node", covariant=True)


class PageInfo(Protocol):
    """Whether there is a next page, and the cursor that it starts after."""

    @property
    def has_next_page(self) -> bool: ...

    @property
    def end_cursor(self) -> str | None: ...


class Page(Protocol[Node]):
    """A page of a connection, with the fields that the documents select."""

    @property
    def nodes(self) -> Sequence[Node | None] | None: ...

    @property
    def page_info(self) -> PageInfo: ...


async def read_all(
    read: Callable[[str | None], Awaitable[Page[Node] | None]], absent: ClientError
) -> AsyncIterator[Node]:
    """Each node of a connection. `read` returns the page after a cursor.

    Raises ClientError: the errors of the gateway, and `absent` if it returns null instead of a page.
    """
    after: str | None = None
    while True:
        page = await read(after)
        if page is None:
            raise absent
        for node in nodes_of(page):
            yield node
        if not page.page_info.has_next_page:
            return
        after = page.page_info.end_cursor


def nodes_of(page: Page[Node]) -> list[Node]:
    """The nodes of a page, without null."""
    return [node for node in page.nodes or () if node is not None]
