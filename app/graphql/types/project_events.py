"""What all events have in common."""

from datetime import datetime
from typing import Any

import strawberry

from app.catalog.feed.items import Happened
from app.graphql.context import Info
from app.graphql.scalars import EventCursor


@strawberry.interface(description="Something that happened to an image, a server or a volume.")
class ProjectEvent:
    cursor: EventCursor = strawberry.field(description="Position of the event in the feed.")
    occurred_at: datetime = strawberry.field(description="When it happened.")
    actor: str | None = strawberry.field(
        description="Who caused the event: the `sub` claim of their token; null if it was the gateway itself."
    )
    # Identifies the event if every watcher sees it the same way: see ReusingExecutor.
    share_key: strawberry.Private[str | None] = None


def common_fields(info: Info, happened: Happened) -> dict[str, Any]:
    """The fields of `ProjectEvent` for a stored event."""
    return {
        "cursor": info.context.cursor_of(happened.mark),
        "occurred_at": happened.occurred_at,
        "actor": happened.actor,
        "share_key": f"{happened.epoch.hex()} {happened.position}" if happened.live else None,
    }
