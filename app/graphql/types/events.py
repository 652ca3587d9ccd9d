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
from app.graphql.types.images import Image, ImageFailure, ImageProgress, current_progress
from app.graphql.types.sharing import ImageShare, project_of_share
from app.graphql.types.tenancy import Project
from app.lifecycle import Aspect, ImageStatus, ShareGrant, ShareState
from app.models import Image as ImageRow


@strawberry.interface(description="Something that happened to an image.")
class ImageEvent:
    cursor: EventCursor = strawberry.field(description="Position of the event in the feed.")
    occurred_at: datetime = strawberry.field(description="When it happened.")
    image_id: strawberry.ID = strawberry.field(description="Id of the image.")
    actor: str | None = strawberry.field(
        description="Who caused the event: the `sub` claim of their token; null if it was the gateway itself."
    )
    row: strawberry.Private[ImageRow | None]
    project_id: strawberry.Private[str]
    # Identifies the event if every watcher sees it the same way: see ReusingExecutor.
    share_key: strawberry.Private[str | None] = None

    @strawberry.field(
        description="The image as it is now, not as it was; null if it has been deleted or the project no longer "
        "sees it."
    )
    def image(self) -> Image | None:
        return None if self.row is None else Image.of(self.row, self.project_id)


@strawberry.type(description="An image was created.")
class ImageCreated(ImageEvent):
    pass


@strawberry.type(description="The status of an image changed.")
class ImageStatusChanged(ImageEvent):
    from_: ImageStatus = strawberry.field(name="from", description="Status before the change.")
    to: ImageStatus = strawberry.field(description="Status after the change.")
    failure: ImageFailure | None = strawberry.field(description="Why the image failed; null unless `to` is ERROR.")


@strawberry.type(description="Something other than the status of an image changed.")
class ImageUpdated(ImageEvent):
    fields: list[str] = strawberry.field(description="Names of the fields of Image that changed.")


@strawberry.type(
    description="A share of an image was created, offered, accepted, declined, changed or revoked. Both "
    "projects receive the event. As long as the share is only offered, or is declined, only "
    "admins of the project that it was offered to receive it there."
)
class ImageShareChanged(ImageEvent):
    state: ShareState | None = strawberry.field(
        description="State of the share after the change; null if the share no longer exists."
    )
    grant: ShareGrant = strawberry.field(
        description="What the share allows, or allowed, the members of the other project to do."
    )
    image_name: str = strawberry.field(description="Name of the image at the time.")
    share_id: strawberry.Private[str]
    other_id: strawberry.Private[str]

    @strawberry.field(description="The project that the image is, or was, shared with or offered to.")
    async def project(self, info: Info) -> Project:
        return await project_of_share(info, self.other_id)

    @strawberry.field(description="The share as it is now; null if it no longer exists or you can't see it.")
    async def share(self, info: Info) -> ImageShare | None:
        row = await info.context.loaders.shares.load(self.share_id)
        return None if row is None else ImageShare.of(row)


@strawberry.type(description="An image was deleted.")
class ImageDeleted(ImageEvent):
    image_name: str = strawberry.field(description="Name of the image when it was deleted.")


@strawberry.type(
    description="An image progressed. The feed does not keep this event: if you read slowly, you get only "
    "the newest. Its `cursor` is that of the newest event that the feed keeps."
)
class ImageProgressed(ImageEvent):
    progress: ImageProgress = strawberry.field(description="Progress of the image.")


@strawberry.type(
    description="Events after your cursor may be lost, because the feed no longer keeps them or because the "
    "database was restored from a backup. This can arrive at any time. Read the images again, "
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
    strawberry.union("ImageFeedItem", description="An item of the feed."),
]
StoredEvent = ImageCreated | ImageStatusChanged | ImageUpdated | ImageShareChanged | ImageDeleted
FeedItem = StoredEvent | ImageProgressed | ResyncRequired


@strawberry.type(description="An event of a page, with its cursor.")
class ImageEventEdge(Edge[ImageEvent]):
    pass


@strawberry.type(description="A page of past events, oldest first.")
class ImageEventConnection:
    edges: list[ImageEventEdge | None] | None = strawberry.field(description="Events of the page, with their cursors.")
    nodes: list[ImageEvent | None] | None = strawberry.field(description="Events of the page.")
    page_info: PageInfo = strawberry.field(description="Position of the page in the feed.")


# The fields of Image that differ after a change.
_FIELDS: Mapping[Aspect, str] = {
    Aspect.NAME: "name",
    Aspect.OS: "os",
    Aspect.ARCHITECTURE: "architecture",
    Aspect.LABELS: "labels",
    Aspect.PROTECTION: "protected",
    Aspect.VISIBILITY: "visibility",
    Aspect.UPLOAD: "upload",
    Aspect.PROGRESS: "progress",
    Aspect.FAILURE: "failure",
    Aspect.SHA256: "sha256",
    Aspect.BOOT_READINESS: "bootReadiness",
    Aspect.BOOT_CHECKED: "bootChecked",
}


def event_node(info: Info, happened: Happened, project_id: str) -> StoredEvent:
    """The GraphQL form of a stored event, as seen from a project."""
    common: dict[str, Any] = {
        "cursor": info.context.cursor_of(happened.mark),
        "occurred_at": happened.occurred_at,
        "image_id": strawberry.ID(happened.image_id),
        "actor": happened.actor,
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
            progress = current_progress(info, item.image.id)
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
