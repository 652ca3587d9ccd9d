"""What happens to images: the items of the feed."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import strawberry

from app.catalog.feed.cursors import Mark
from app.catalog.feed.details import Created, Deleted, MembersChanged, ShareChanged, StatusChanged, Updated
from app.catalog.feed.items import Happened, Item, Progressed, Resync
from app.graphql.context import Info
from app.graphql.scalars import EventCursor
from app.graphql.types.connections import Edge, PageInfo
from app.graphql.types.images import Image, ImageFailure, ImageProgress, progress_on_board
from app.graphql.types.sharing import ImageShare, project_of_share
from app.graphql.types.tenancy import Project
from app.lifecycle import Aspect, ImageStatus, ShareGrant, ShareState
from app.models import Image as ImageRow


@strawberry.interface(description="Something that happened to an image.")
class ImageEvent:
    cursor: EventCursor = strawberry.field(description="Its place in the feed.")
    occurred_at: datetime = strawberry.field(description="When it happened.")
    image_id: strawberry.ID = strawberry.field(description="The image that it happened to.")
    actor: str | None = strawberry.field(
        description="Who did it: the `sub` of their token; null when it was the gateway itself."
    )
    row: strawberry.Private[ImageRow | None]
    project_id: strawberry.Private[str]
    # What tells this event from all others, when it looks the same to everybody: see SharingExecutor.
    share_key: strawberry.Private[str | None] = None

    @strawberry.field(
        description="The image as it is by now; null when it has been deleted, or the project does not see it."
    )
    def image(self) -> Image | None:
        return None if self.row is None else Image.of(self.row, self.project_id)


@strawberry.type(description="An image was created.")
class ImageCreated(ImageEvent):
    pass


@strawberry.type(description="The status of an image moved.")
class ImageStatusChanged(ImageEvent):
    from_: ImageStatus = strawberry.field(name="from", description="The status before.")
    to: ImageStatus = strawberry.field(description="The status after.")
    failure: ImageFailure | None = strawberry.field(description="Why, when it went to ERROR.")


@strawberry.type(description="Something else about an image changed.")
class ImageUpdated(ImageEvent):
    fields: list[str] = strawberry.field(description="The fields of Image that differ now.")


@strawberry.type(
    description="An image was shared with a project, offered to it, or that was answered, changed or taken back. "
    "Both projects are told; of what is only offered or declined, admins alone in the one that it is offered to."
)
class ImageShareChanged(ImageEvent):
    state: ShareState | None = strawberry.field(description="What has become of the share; null when it is gone.")
    grant: ShareGrant = strawberry.field(description="What it lets, or let, the other project do.")
    image_name: str = strawberry.field(description="What the image was called.")
    share_id: strawberry.Private[str]
    other_id: strawberry.Private[str]

    @strawberry.field(description="The project that the image is, or was, shared with.")
    async def project(self, info: Info) -> Project:
        return await project_of_share(info, self.other_id)

    @strawberry.field(description="The share as it is by now; null when it is gone, or can't be seen by you.")
    async def share(self, info: Info) -> ImageShare | None:
        row = await info.context.loaders.shares.load(self.share_id)
        return None if row is None else ImageShare.of(row)


@strawberry.type(description="An image was deleted.")
class ImageDeleted(ImageEvent):
    image_name: str = strawberry.field(description="What it was called.")


@strawberry.type(
    description="An image got further. It is not stored: of several, only the newest comes. "
    "Its cursor is that of the newest stored event."
)
class ImageProgressed(ImageEvent):
    progress: ImageProgress = strawberry.field(description="How far it is.")


@strawberry.type(
    description="Events after the cursor may be lost: the feed no longer keeps them, or the database was restored from "
    "a backup. It may come at any time. Read the catalogue again, then continue from this cursor."
)
class ResyncRequired:
    cursor: EventCursor = strawberry.field(description="From where the feed goes on.")
    oldest: EventCursor = strawberry.field(description="The oldest cursor that still works.")


ImageFeedItem = Annotated[
    ImageCreated
    | ImageStatusChanged
    | ImageUpdated
    | ImageShareChanged
    | ImageDeleted
    | ImageProgressed
    | ResyncRequired,
    strawberry.union("ImageFeedItem", description="What a watcher of a feed is sent."),
]
StoredEvent = ImageCreated | ImageStatusChanged | ImageUpdated | ImageShareChanged | ImageDeleted
FeedItem = StoredEvent | ImageProgressed | ResyncRequired


@strawberry.type(description="An event of a page, and its cursor.")
class ImageEventEdge(Edge[ImageEvent]):
    pass


@strawberry.type(description="A page of what has happened, oldest first.")
class ImageEventConnection:
    edges: list[ImageEventEdge | None] | None = strawberry.field(description="The events, with cursors.")
    nodes: list[ImageEvent | None] | None = strawberry.field(description="The events, without cursors.")
    page_info: PageInfo = strawberry.field(description="Where the page lies.")


# The fields of Image that differ after a change.
_FIELDS: Mapping[Aspect, str] = {
    Aspect.NAME: "name",
    Aspect.OS: "os",
    Aspect.LABELS: "labels",
    Aspect.PROTECTION: "protected",
    Aspect.VISIBILITY: "visibility",
    Aspect.UPLOAD: "upload",
    Aspect.PROGRESS: "progress",
    Aspect.FAILURE: "failure",
    Aspect.SHA256: "sha256",
}


def event_node(info: Info, happened: Happened, project_id: str) -> StoredEvent:
    """The GraphQL form of a stored event, as seen from a project."""
    event = happened.event
    common: dict[str, Any] = {
        "cursor": info.context.cursor_of(happened.mark),
        "occurred_at": event.occurred_at,
        "image_id": strawberry.ID(event.image_id),
        "actor": event.actor,
        "row": happened.image,
        "project_id": project_id,
        "share_key": f"{happened.epoch.hex()} {happened.position}" if happened.live else None,
    }
    match happened.detail:
        case Created():
            return ImageCreated(**common)
        case Updated(aspects):
            return ImageUpdated(fields=[_FIELDS[aspect] for aspect in aspects], **common)
        case Deleted(image_name):
            return ImageDeleted(image_name=image_name, **common)
        case ShareChanged() as share:
            return ImageShareChanged(
                state=share.state,
                grant=share.grant,
                image_name=share.image_name,
                share_id=share.share_id,
                other_id=share.project_id,
                **common,
            )
        case StatusChanged(before, after, failure):
            why = None if failure is None else ImageFailure.of(failure)
            return ImageStatusChanged(from_=before, to=after, failure=why, **common)
        case MembersChanged():
            raise LookupError("watchers don't see changes of members")


def feed_item(info: Info, item: Item, project_id: str) -> FeedItem | None:
    """The GraphQL form of an item of the feed, as seen from a project; None for progress that is out of date."""
    match item:
        case Happened():
            return event_node(info, item, project_id)
        case Resync():
            newest, oldest = item.mark.unlinked(), Mark(item.mark.epoch, item.oldest).unlinked()
            return ResyncRequired(cursor=info.context.cursor_of(newest), oldest=info.context.cursor_of(oldest))
        case Progressed():
            progress = progress_on_board(info, item.image.id)
            if progress is None:
                return None
            return ImageProgressed(
                cursor=info.context.cursor_of(item.mark),
                occurred_at=progress.updated_at,
                image_id=strawberry.ID(item.image.id),
                actor=None,
                row=item.image,
                project_id=project_id,
                progress=progress,
            )
