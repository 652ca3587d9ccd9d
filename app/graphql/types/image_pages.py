"""Pages of images that belong to something else, such as the snapshots of a volume."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.feed import event_log
from app.catalog.pages import Page, Window
from app.graphql.context import Info, selects
from app.graphql.scalars import EventCursor
from app.graphql.types.connections import Paging, cursor_for
from app.graphql.types.node import node_of
from app.models import Image

_BY_ID = "image-id"


@dataclass(frozen=True, slots=True)
class ImagePage:
    """A page of images in order of creation, what counts all of them, and the position at which it was read."""

    page: Page[Image]
    count: Callable[[], Awaitable[int]]
    as_of: EventCursor

    @staticmethod
    def cursor_of(row: Image) -> str:
        """The cursor of an image."""
        return cursor_for(_BY_ID, row.id, row.id)


async def image_page(
    info: Info,
    paging: Paging,
    read: Callable[[AsyncSession, Window], Awaitable[Page[Image]]],
    count: Callable[[AsyncSession], Awaitable[int]],
) -> Any:
    """A page of images as an ImageConnection, in order of creation."""
    window, database = paging.window(_BY_ID), info.context.catalogue.database

    async def count_all() -> int:
        async with database.read() as session:
            return await count(session)

    async with database.read() as session:
        page = await read(session, window)
        position = await event_log.newest_position(session) if selects(info, "asOf") else 0
    as_of = info.context.cursor_of(info.context.mark_at(position).unlinked())
    return node_of(ImagePage(page, count_all, as_of))
