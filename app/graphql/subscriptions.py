"""The subscriptions. A watcher is a cursor into the feed, so a slow one costs no memory (docs/feed.md)."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import aclosing
from typing import Annotated, TypeVar, cast

import strawberry
from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.feed import event_log
from app.catalog.feed.cursors import Mark
from app.catalog.feed.items import Happened, Item, Progressed, Resync
from app.catalog.feed.subjects import Subject
from app.catalog.people import access
from app.catalog.servers import seeing
from app.errors import InvalidInput, NotFound
from app.graphql.context import Context, Info
from app.graphql.queries import ProjectId
from app.graphql.scalars import EventCursor
from app.graphql.types.feed_items import FeedItem, ImageFeedItem, ProjectFeedItem, feed_item
from app.graphql.types.images import Image
from app.graphql.types.servers import Server
from app.lifecycle import DELETIONS, OF_IMAGES, SETTLED, WATCHED, EventKind, is_settled
from app.models import Image as ImageRow
from app.models import Server as ServerRow

Row = TypeVar("Row", ImageRow, ServerRow)
Progress = Annotated[bool, strawberry.argument(description="Whether to send ImageProgressed events, too.")]
After = Annotated[
    EventCursor | None,
    strawberry.argument(
        description="Position to continue from. Over server-sent events, the header Last-Event-ID takes precedence."
    ),
]


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

        async def read(session: AsyncSession) -> ImageRow:
            return await access.image_for(session, context.viewer, id, field=("id",))

        async with context.catalogue.database.read() as session:
            row = await read(session)
            project_id = await access.project_to_see_from(session, context.viewer, row, context.project_id)
            position = await event_log.newest_position(session)
        start = _started_at(context, position)
        yield Image.of(row, context.project_id)
        if until_settled and row.status in SETTLED:
            return
        async with aclosing(_states(info, ImageRow, id, read, project_id, start)) as states:
            async for state in states:
                yield None if state is None else Image.of(state, context.project_id)
                if until_settled and state is not None and state.status in SETTLED:
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
        after: After = None,
        progress: Progress = True,
    ) -> AsyncGenerator[ImageFeedItem, None]:
        wanted = _events(info, project_id, OF_IMAGES, image_id, after, progress=progress)
        async with aclosing(wanted) as nodes:
            async for node in nodes:
                yield cast("ImageFeedItem", node)

    @strawberry.subscription(
        description="A server: first as it is now, then after every change. When the server is deleted, the last "
        "result is null."
    )
    async def server(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Id of the server.")],
        until_settled: Annotated[
            bool,
            strawberry.argument(
                description="Whether to complete when the server has its `desiredStatus`, or is in ERROR."
            ),
        ] = False,
    ) -> AsyncGenerator[Server | None, None]:
        context = info.context

        async def read(session: AsyncSession) -> ServerRow:
            return await seeing.server_for(session, context.viewer, id, field=("id",))

        async with context.catalogue.database.read() as session:
            row = await read(session)
            position = await event_log.newest_position(session)
        start = _started_at(context, position)
        yield Server.of(row)
        if until_settled and is_settled(row.status, row.goal):
            return
        async with aclosing(_states(info, ServerRow, id, read, row.project_id, start)) as states:
            async for state in states:
                yield None if state is None else Server.of(state)
                if until_settled and state is not None and is_settled(state.status, state.goal):
                    return

    @strawberry.subscription(
        description="Events of everything that a project can see: images, servers and volumes, in order, each exactly "
        "once. Otherwise as `imageEvents`, with the same cursors."
    )
    async def project_events(
        self,
        info: Info,
        project_id: ProjectId,
        subject_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Send only events of this image, server or volume; null sends all."),
        ] = None,
        after: After = None,
        progress: Progress = True,
    ) -> AsyncGenerator[ProjectFeedItem, None]:
        wanted = _events(info, project_id, WATCHED, subject_id, after, progress=progress)
        async with aclosing(wanted) as nodes:
            async for node in nodes:
                yield node


async def _events(
    info: Info,
    project_id: str,
    kinds: Collection[EventKind],
    subject_id: str | None,
    after: EventCursor | None,
    *,
    progress: bool,
) -> AsyncGenerator[FeedItem, None]:
    """The items of a project's feed, without end. Raises InvalidInput, NotFound."""
    context = info.context
    items: AsyncIterator[Item] = context.gateway.feed.follow(
        context.viewer,
        project_id,
        after=_resumed(info) or (None if after is None else context.mark_of(after)),
        subject_id=subject_id,
        kinds=kinds,
        progress=progress,
        waiting=context.waiting,
    )
    async with aclosing(cast("AsyncGenerator[Item, None]", items)):
        async for item in items:
            node = feed_item(info, item, project_id)
            if node is not None:
                context.event_id = node.cursor
                yield node


def _started_at(context: Context, position: int) -> Mark:
    """The mark of the state that a subscription to one object sends first, with which it sends a cursor."""
    start = context.mark_at(position)
    context.event_id = context.cursor_of(start.unlinked())
    return start


async def _states(
    info: Info,
    model: type[Row],
    id_: str,
    read: Callable[[AsyncSession], Awaitable[Row]],
    project_id: str,
    start: Mark,
) -> AsyncGenerator[Row | None, None]:
    """An object after each event about it, and None when it has been deleted, which is the end. Raises NotFound."""
    items = info.context.gateway.feed.follow(
        info.context.viewer, project_id, after=start, subject_id=id_, waiting=info.context.waiting
    )
    async with aclosing(cast("AsyncGenerator[Item, None]", items)):
        async for item in items:
            info.context.event_id = _cursor_by_the_way(info, item)
            state = await _again(info, model, id_, read) if isinstance(item, Resync) else _subject(item)
            if isinstance(state, model):
                yield state
            elif isinstance(item, Resync) or (isinstance(item, Happened) and item.kind in DELETIONS):
                yield None
                return
            # Otherwise it was deleted, or the caller can no longer see it: a later event reports that.


async def _again(info: Info, model: type[Row], id_: str, read: Callable[[AsyncSession], Awaitable[Row]]) -> Row | None:
    """The current object, after events may have been lost; None if it was deleted. Raises NotFound."""
    async with info.context.catalogue.database.read() as session:
        try:
            return await read(session)
        except NotFound:
            row = await session.get(model, id_)
            if row is None or row.deleted_at is None:
                raise
            return None


def _subject(item: Happened | Progressed) -> Subject | None:
    return item.image if isinstance(item, Progressed) else item.subject


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
