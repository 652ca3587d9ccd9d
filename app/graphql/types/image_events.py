"""What happens to images."""

from collections.abc import Mapping

import strawberry

from app.catalog.feed.details import Created, Deleted, OfImages, ShareChanged, StatusChanged, Updated
from app.catalog.feed.items import Happened, Progressed
from app.graphql.context import Info
from app.graphql.types.images import Image, ImageFailure, ImageProgress, current_progress
from app.graphql.types.project_events import ProjectEvent, common_fields
from app.graphql.types.sharing import ImageShare, project_of_share
from app.graphql.types.tenancy import Project
from app.lifecycle import Aspect, ImageStatus, ShareGrant, ShareState
from app.models import Image as ImageRow


@strawberry.interface(description="Something that happened to an image.")
class ImageEvent(ProjectEvent):
    image_id: strawberry.ID = strawberry.field(description="Id of the image.")
    row: strawberry.Private[ImageRow | None]
    project_id: strawberry.Private[str]

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


StoredImageEvent = ImageCreated | ImageStatusChanged | ImageUpdated | ImageShareChanged | ImageDeleted


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
    Aspect.SOURCE: "source",
    Aspect.SHA256: "sha256",
    Aspect.BOOT_READINESS: "bootReadiness",
    Aspect.BOOT_CHECKED: "bootChecked",
}


def image_event(info: Info, happened: Happened, detail: OfImages, project_id: str) -> StoredImageEvent:
    """The GraphQL form of an event about an image, as seen from a project."""
    common = {
        **common_fields(info, happened),
        "image_id": strawberry.ID(happened.subject_id),
        "row": happened.subject if isinstance(happened.subject, ImageRow) else None,
        "project_id": project_id,
    }
    match detail:
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


def progress_event(info: Info, item: Progressed, project_id: str) -> ImageProgressed | None:
    """The GraphQL form of progress, as seen from a project; None if it is out of date."""
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
