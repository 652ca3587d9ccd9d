"""What can be watched. A watcher is a cursor into the feed: a slow one costs no memory (design/feed.md)."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, cast

import strawberry

from app.catalog import access, feed
from app.catalog.feed import cursor_of, position_of
from app.catalog.watching import Happened, Item, Progressed
from app.errors import InvalidInput
from app.graphql.context import Info
from app.graphql.queries import ProjectId
from app.graphql.scalars import EventCursor
from app.graphql.types.events import ImageFeedItem, feed_item
from app.graphql.types.images import Image
from app.lifecycle import SETTLED, EventKind


@strawberry.type(description="What can be watched.")
class Subscription:
    @strawberry.subscription(
        description="One image, first as it is now, then after every change. "
        "When it is deleted, null comes last. With untilSettled it completes on ACTIVE or ERROR. "
        "It ends with NOT_FOUND when the right to see the image is taken away."
    )
    async def image(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="The image.")],
        until_settled: Annotated[
            bool, strawberry.argument(description="Whether to complete when the image is ACTIVE or in ERROR.")
        ] = False,
    ) -> AsyncGenerator[Image | None, None]:
        context = info.context
        async with context.gateway.database.read() as session:
            row = await access.image_for(session, context.viewer, id, field=("id",))
            project_id = await access.project_to_see_from(session, context.viewer, row, context.project_id)
            position = await feed.newest_position(session)
        context.event_id = cursor_of(position)
        yield Image.of(row, context.project_id)
        if until_settled and row.status in SETTLED:
            return
        items = context.gateway.feed.follow(context.viewer, project_id, after=position, image_id=id)
        async with aclosing(cast("AsyncGenerator[Item, None]", items)):
            async for item in items:
                if not isinstance(item, Happened | Progressed):
                    continue
                context.event_id = cursor_of(item.position)
                if isinstance(item, Happened) and item.event.kind == EventKind.DELETED:
                    yield None
                    return
                # An image that is not there any more, or can't be seen: that it is so is said by a later event.
                if item.image is None:
                    continue
                yield Image.of(item.image, context.project_id)
                if until_settled and item.image.status in SETTLED:
                    return

    @strawberry.subscription(
        description="Everything that happens to the images that a project can see. "
        "With after, first all that was missed since: nothing lost, nothing twice, in order."
    )
    async def image_events(
        self,
        info: Info,
        project_id: ProjectId,
        image_id: Annotated[strawberry.ID | None, strawberry.argument(description="Only of this image.")] = None,
        after: Annotated[
            EventCursor | None,
            strawberry.argument(description="From where to go on; over SSE, Last-Event-ID goes before it."),
        ] = None,
        progress: Annotated[bool, strawberry.argument(description="Whether to send progress too.")] = True,
    ) -> AsyncGenerator[ImageFeedItem, None]:
        context = info.context
        entry = _resumed(info) or after
        items: AsyncIterator[Item] = context.gateway.feed.follow(
            context.viewer,
            project_id,
            after=None if entry is None else position_of(entry),
            image_id=image_id,
            progress=progress,
        )
        async with aclosing(cast("AsyncGenerator[Item, None]", items)):
            async for item in items:
                node = feed_item(info, item)
                if node is not None:
                    context.event_id = node.cursor
                    yield node


def _resumed(info: Info) -> str | None:
    """The cursor with which a browser's EventSource takes an interrupted stream up again (HTML, section 9.2)."""
    sent: str | None = info.context.connection.headers.get("last-event-id")
    if not sent:
        return None
    try:
        position_of(sent)
    except InvalidInput:
        raise InvalidInput("Last-Event-ID is not a cursor of the feed.") from None
    return sent
