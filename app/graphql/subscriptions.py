"""The subscriptions. A watcher is a cursor into the feed, so a slow one costs no memory (docs/feed.md)."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, cast

import strawberry

from app.catalog.feed import event_log
from app.catalog.feed.cursors import Mark
from app.catalog.feed.items import Happened, Item, Resync
from app.catalog.people import access
from app.errors import InvalidInput, NotFound
from app.graphql.context import Info
from app.graphql.queries import ProjectId
from app.graphql.scalars import EventCursor
from app.graphql.types.events import ImageFeedItem, feed_item
from app.graphql.types.images import Image
from app.lifecycle import SETTLED, EventKind
from app.models import Image as ImageRow


@strawberry.type(description="Everything that can be watched.")
class Subscription:
    @strawberry.subscription(
        description="An image: first as it is now, then after every change. When the image is deleted, the last "
        "result is null. If you lose the right to see the image, the stream ends with NOT_FOUND."
    )
    async def image(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Id of the image.")],
        until_settled: Annotated[
            bool, strawberry.argument(description="Whether to complete when the image is ACTIVE or in ERROR.")
        ] = False,
    ) -> AsyncGenerator[Image | None, None]:
        context = info.context
        async with context.catalogue.database.read() as session:
            row = await access.image_for(session, context.viewer, id, field=("id",))
            project_id = await access.project_to_see_from(session, context.viewer, row, context.project_id)
            position = await event_log.newest_position(session)
        start = context.mark_at(position)
        context.event_id = context.cursor_of(start.unlinked())
        yield Image.of(row, context.project_id)
        if until_settled and row.status in SETTLED:
            return
        items = context.gateway.feed.follow(
            context.viewer, project_id, after=start, image_id=id, waiting=context.waiting
        )
        async with aclosing(cast("AsyncGenerator[Item, None]", items)):
            async for item in items:
                context.event_id = _cursor_by_the_way(info, item)
                if isinstance(item, Happened) and item.kind == EventKind.DELETED:
                    yield None
                    return
                image = await _image_again(info, id) if isinstance(item, Resync) else item.image
                if image is None and isinstance(item, Resync):
                    yield None
                    return
                # The image was deleted, or the caller can no longer see it: a later event reports that.
                if image is None:
                    continue
                yield Image.of(image, context.project_id)
                if until_settled and image.status in SETTLED:
                    return

    @strawberry.subscription(
        description="Events of all images that a project can see, in order, each exactly once. With `after`, it "
        "starts with those since that position; without, with the next event."
    )
    async def image_events(
        self,
        info: Info,
        project_id: ProjectId,
        image_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Send only events of this image; null sends those of all images."),
        ] = None,
        after: Annotated[
            EventCursor | None,
            strawberry.argument(
                description="Position to continue from. Over server-sent events, the header Last-Event-ID takes "
                "precedence."
            ),
        ] = None,
        progress: Annotated[
            bool, strawberry.argument(description="Whether to send ImageProgressed events, too.")
        ] = True,
    ) -> AsyncGenerator[ImageFeedItem, None]:
        context = info.context
        items: AsyncIterator[Item] = context.gateway.feed.follow(
            context.viewer,
            project_id,
            after=_resumed(info) or (None if after is None else context.mark_of(after)),
            image_id=image_id,
            progress=progress,
            waiting=context.waiting,
        )
        async with aclosing(cast("AsyncGenerator[Item, None]", items)):
            async for item in items:
                node = feed_item(info, item, project_id)
                if node is not None:
                    context.event_id = node.cursor
                    yield node


def _resumed(info: Info) -> Mark | None:
    """Where a browser's EventSource resumes an interrupted stream (HTML, section 9.2). Raises InvalidInput."""
    sent: str | None = info.context.connection.headers.get("last-event-id")
    if not sent:
        return None
    try:
        return info.context.mark_of(EventCursor(sent))
    except InvalidInput:
        raise InvalidInput("Last-Event-ID is not a cursor of the feed.") from None


def _cursor_by_the_way(info: Info, item: Item) -> EventCursor:
    # Only a stored event has its own cursor. Other items are at the newest event, which may be another tenant's.
    return info.context.cursor_of(item.mark.unlinked() if isinstance(item, Resync) else item.mark)


async def _image_again(info: Info, id_: str) -> ImageRow | None:
    """The current image, after events may have been lost; None if it was deleted. Raises NotFound."""
    async with info.context.catalogue.database.read() as session:
        try:
            return await access.image_for(session, info.context.viewer, id_, field=("id",))
        except NotFound:
            row = await session.get(ImageRow, id_)
            if row is None or row.deleted_at is None:
                raise
            return None
