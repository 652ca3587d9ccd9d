"""The items of the feed: events about images, servers and volumes, progress, and the request to resync."""

from typing import Annotated

import strawberry

from app.catalog.feed import server_details
from app.catalog.feed.cursors import Mark
from app.catalog.feed.details import MembersChanged
from app.catalog.feed.items import Happened, Item, Progressed, Resync
from app.graphql.context import Info
from app.graphql.scalars import EventCursor
from app.graphql.types.image_events import (
    ImageCreated,
    ImageDeleted,
    ImageProgressed,
    ImageShareChanged,
    ImageStatusChanged,
    ImageUpdated,
    StoredImageEvent,
    image_event,
    progress_event,
)
from app.graphql.types.server_events import (
    ServerCreated,
    ServerDeleted,
    ServerStatusChanged,
    ServerUpdated,
    StoredServerEvent,
    StoredVolumeEvent,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
    server_event,
    volume_event,
)


@strawberry.type(
    description="Events after your cursor may be lost, because the feed no longer keeps them or because the "
    "database was restored from a backup. This can arrive at any time. Read what you follow again, "
    "then continue from `cursor`."
)
class ResyncRequired:
    cursor: EventCursor = strawberry.field(description="Position at which the feed continues.")
    oldest: EventCursor = strawberry.field(description="Oldest position that the feed still keeps.")


ImageFeedItem = Annotated[
    ImageCreated
    | ImageStatusChanged
    | ImageUpdated
    | ImageShareChanged
    | ImageDeleted
    | ImageProgressed
    | ResyncRequired,
    strawberry.union("ImageFeedItem", description="An item of the feed about an image."),
]
ProjectFeedItem = Annotated[
    ImageCreated
    | ImageStatusChanged
    | ImageUpdated
    | ImageShareChanged
    | ImageDeleted
    | ImageProgressed
    | ServerCreated
    | ServerStatusChanged
    | ServerUpdated
    | ServerDeleted
    | VolumeCreated
    | VolumeUpdated
    | VolumeDeleted
    | ResyncRequired,
    strawberry.union("ProjectFeedItem", description="An item of the feed. Types of items may be added."),
]
StoredEvent = StoredImageEvent | StoredServerEvent | StoredVolumeEvent
FeedItem = StoredEvent | ImageProgressed | ResyncRequired


def event_node(info: Info, happened: Happened, project_id: str) -> StoredEvent:
    """The GraphQL form of a stored event, as seen from a project."""
    match happened.detail:
        case MembersChanged():
            raise LookupError("watchers don't see changes of members")
        case (
            server_details.ServerCreated()
            | server_details.ServerStatusChanged()
            | server_details.ServerUpdated()
            | server_details.ServerDeleted()
        ) as of_server:
            return server_event(info, happened, of_server)
        case (
            server_details.VolumeCreated() | server_details.VolumeUpdated() | server_details.VolumeDeleted()
        ) as of_volume:
            return volume_event(info, happened, of_volume)
        case of_image:
            return image_event(info, happened, of_image, project_id)


def feed_item(info: Info, item: Item, project_id: str) -> FeedItem | None:
    """The GraphQL form of an item of the feed, as seen from a project; None for progress that is out of date."""
    match item:
        case Happened():
            return event_node(info, item, project_id)
        case Resync():
            newest, oldest = item.mark.unlinked(), Mark(item.mark.epoch, item.oldest).unlinked()
            return ResyncRequired(cursor=info.context.cursor_of(newest), oldest=info.context.cursor_of(oldest))
        case Progressed():
            return progress_event(info, item, project_id)
