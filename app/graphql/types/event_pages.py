"""Pages of past events."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import strawberry

from app.catalog.feed import event_log
from app.catalog.feed.event_log import Wanted
from app.catalog.feed.items import happened, resync_required
from app.catalog.people import access, tenancy
from app.graphql.context import Info
from app.graphql.scalars import EventCursor
from app.graphql.types.connections import Edge, PageInfo, page_size
from app.graphql.types.feed_items import StoredEvent, event_node
from app.graphql.types.image_events import ImageEvent
from app.graphql.types.project_events import ProjectEvent
from app.lifecycle import EventKind

EventsAfter = Annotated[
    EventCursor | None,
    strawberry.argument(description="Return only events after this position; null starts at the oldest that is kept."),
]
EventsBefore = Annotated[
    EventCursor | None,
    strawberry.argument(description="Return only events before this position; null ends at the newest."),
]


@strawberry.type(description="An event of a page, with its cursor.")
class ImageEventEdge(Edge[ImageEvent]):
    pass


@strawberry.type(description="A page of past events, oldest first.")
class ImageEventConnection:
    edges: list[ImageEventEdge | None] | None = strawberry.field(description="Events of the page, with their cursors.")
    nodes: list[ImageEvent | None] | None = strawberry.field(description="Events of the page.")
    page_info: PageInfo = strawberry.field(description="Position of the page in the feed.")


@strawberry.type(description="An event of a page, with its cursor.")
class ProjectEventEdge(Edge[ProjectEvent]):
    pass


@strawberry.type(description="A page of past events, oldest first.")
class ProjectEventConnection:
    edges: list[ProjectEventEdge | None] | None = strawberry.field(
        description="Events of the page, with their cursors."
    )
    nodes: list[ProjectEvent | None] | None = strawberry.field(description="Events of the page.")
    page_info: PageInfo = strawberry.field(description="Position of the page in the feed.")


@dataclass(frozen=True, slots=True)
class Span:
    """Which events a page has: of `kinds`, of one subject if given, and within the page's limits."""

    kinds: Collection[EventKind]
    subject_id: str | None
    after: EventCursor | None
    first: int | None
    before: EventCursor | None
    last: int | None


async def read_events(info: Info, project_id: str, span: Span) -> tuple[Sequence[StoredEvent], PageInfo]:
    """The events of a page, and its position in the feed."""
    limit, backward = page_size(span.first, span.last)
    context = info.context
    given = {"after": span.after, "before": span.before}
    marks = {name: context.mark_of(cursor, name) for name, cursor in given.items() if cursor is not None}
    bounds = await context.gateway.feed.positions_of(marks)
    async with context.catalogue.database.read() as session:
        role = await tenancy.reader_role(session, context.viewer, project_id)
        if "after" in bounds and bounds["after"] < await event_log.oldest_position(session):
            raise resync_required("after")
        wanted = Wanted(access.feeds_followed_by(project_id), role, span.subject_id, span.kinds)
        events = await event_log.events_for(session, wanted, limit + 1, newest=backward, **bounds)
        more = len(events) > limit
        kept = events[-limit:] if backward else events[:limit]
        page = await happened(session, kept, context.epoch)
    nodes = [event_node(info, item, project_id) for item in page]
    if backward:
        return nodes, _event_page(nodes, later=span.before is not None, earlier=more)
    return nodes, _event_page(nodes, later=more, earlier=span.after is not None)


def _event_page(nodes: Sequence[StoredEvent], *, later: bool, earlier: bool) -> PageInfo:
    return PageInfo(
        has_next_page=later,
        has_previous_page=earlier,
        start_cursor=nodes[0].cursor if nodes else None,
        end_cursor=nodes[-1].cursor if nodes else None,
    )
