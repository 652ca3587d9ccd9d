"""What mutations answer: what was changed, where in the feed, or what the caller has to mend."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Self, TypeVar

import strawberry

from app import metrics
from app.catalog.feed import event_log
from app.catalog.uploads import UploadEnded
from app.errors import QuotaExceeded, UserMistake
from app.graphql.context import Info
from app.graphql.enums import UserErrorCode
from app.graphql.queries import Query
from app.graphql.scalars import ByteSize, EventCursor
from app.graphql.types.images import Image
from app.graphql.types.sharing import ImageShare
from app.graphql.types.tenancy import Project
from app.models import Image as ImageRow
from app.models import ImageShare as ShareRow
from app.models import Project as ProjectRow

Changed = TypeVar("Changed")


@strawberry.interface(description="Something that you can mend.")
class UserError:
    message: str = strawberry.field(description="What is wrong, for people.")
    field: list[str] | None = strawberry.field(description="Where in the input it is wrong.")
    code: UserErrorCode = strawberry.field(description="What kind of mistake it is.")
    hint: str | None = strawberry.field(description="What to do.")


@strawberry.type(description="Something in the input, or about what it names, stands against the request.")
class InputError(UserError):
    pass


@strawberry.type(description="A limit on a number of things would be overrun.")
class CountQuotaError(UserError):
    limit: int = strawberry.field(description="How many there may be.")
    used: int = strawberry.field(description="How many there are.")
    requested: int = strawberry.field(description="How many more were asked for.")


@strawberry.type(description="A limit on stored bytes would be overrun.")
class ByteQuotaError(UserError):
    limit: ByteSize = strawberry.field(description="How many bytes may be stored.")
    used: ByteSize = strawberry.field(description="How many bytes are stored.")
    reserved: ByteSize = strawberry.field(description="Promised to uploads that have not finished.")
    requested: ByteSize = strawberry.field(description="How many more were asked for.")


def user_error(mistake: UserMistake) -> UserError:
    """The entry of userErrors that tells of a mistake."""
    metrics.ERRORS.labels("user_errors", mistake.code).inc()
    said: dict[str, Any] = {
        "message": mistake.message,
        "field": list(mistake.field) or None,
        "code": UserErrorCode(mistake.code),
        "hint": mistake.hint,
    }
    match mistake:
        case QuotaExceeded(reserved=None):
            return CountQuotaError(limit=mistake.limit, used=mistake.used, requested=mistake.requested, **said)
        case QuotaExceeded(reserved=int(reserved)):
            return ByteQuotaError(
                limit=ByteSize(mistake.limit),
                used=ByteSize(mistake.used),
                reserved=ByteSize(reserved),
                requested=ByteSize(mistake.requested),
                **said,
            )
        case _:
            return InputError(**said)


@strawberry.type(description="What every mutation answers.")
class Payload:
    user_errors: list[UserError] = strawberry.field(description="What you have to mend; empty when it was done.")
    cursor: EventCursor | None = strawberry.field(description="The feed position as of which the change can be seen.")

    @strawberry.field(description="Read on from here, in the same request.")
    def query(self) -> Query:
        return Query()

    @classmethod
    def refused(cls, mistake: UserMistake) -> Self:
        """The answer to a request that was not carried out."""
        return cls(user_errors=[user_error(mistake)], cursor=None)

    @classmethod
    async def of_act(
        cls, info: Info, act: Awaitable[tuple[Changed, int | None]], show: Callable[[Changed], Mapping[str, Any]]
    ) -> Self:
        """What became of a use case: it gives what has changed, to be shown by these fields, and its feed position."""
        try:
            changed, position = await act
        except UserMistake as mistake:
            return cls.refused(mistake)
        return cls(user_errors=[], cursor=await cursor_at(info, position), **show(changed))


@strawberry.type(description="What a mutation answers that changes an image.")
class ImagePayload(Payload):
    image: Image | None = strawberry.field(
        default=None, description="The image as it is now; beside userErrors too when its upload has ended."
    )

    @classmethod
    def refused(cls, mistake: UserMistake) -> Self:
        """The answer to a request that was not carried out, with the image that says why where there is one."""
        payload = super().refused(mistake)
        if isinstance(mistake, UploadEnded):
            payload.image = Image.of(mistake.image)
        return payload

    @classmethod
    async def answer(cls, info: Info, act: Awaitable[tuple[ImageRow, int | None]]) -> Self:
        """What became of a use case that changes an image."""
        return await cls.of_act(info, act, lambda row: {"image": Image.of(row)})


@strawberry.type(description="What a mutation answers that changes a share.")
class SharePayload(Payload):
    share: ImageShare | None = strawberry.field(default=None, description="The share as it is now.")

    @classmethod
    async def answer(cls, info: Info, act: Awaitable[tuple[ShareRow, int | None]]) -> Self:
        """What became of a use case that changes a share."""
        return await cls.of_act(info, act, lambda row: {"share": ImageShare.of(row)})


@strawberry.type(description="What a mutation answers that changes a project.")
class ProjectPayload(Payload):
    project: Project | None = strawberry.field(default=None, description="The project as it is now.")

    @classmethod
    async def answer(cls, info: Info, act: Awaitable[tuple[ProjectRow, int | None]]) -> Self:
        """What became of a use case that changes a project."""
        payload = await cls.of_act(info, act, lambda row: {"project": Project.of(row)})
        # Who has just left the project, by their own hand, does not see it any more.
        if payload.project is not None and await info.context.loaders.roles.load(payload.project.id) is None:
            payload.project = None
        return payload


async def cursor_at(info: Info, position: int | None) -> EventCursor:
    """The cursor of a change; of one that had been made before, that of the newest event."""
    if position is not None:
        return info.context.cursor_of(info.context.mark_at(position))
    async with info.context.gateway.database.read() as session:
        position = await event_log.newest_position(session)
    return info.context.cursor_of(info.context.mark_at(position).unlinked())


@strawberry.type(description="The answer to createImage.")
class CreateImagePayload(ImagePayload):
    pass


@strawberry.type(description="The answer to completeUpload.")
class CompleteUploadPayload(ImagePayload):
    pass


@strawberry.type(description="The answer to abortUpload.")
class AbortUploadPayload(ImagePayload):
    pass


@strawberry.type(description="The answer to retryImage.")
class RetryImagePayload(ImagePayload):
    pass


@strawberry.type(description="The answer to updateImage.")
class UpdateImagePayload(ImagePayload):
    pass


@strawberry.type(description="The answer to deleteImage.")
class DeleteImagePayload(Payload):
    deleted_image_id: strawberry.ID | None = strawberry.field(default=None, description="The image that is gone.")

    @classmethod
    async def answer(cls, info: Info, act: Awaitable[tuple[str, int | None]]) -> Self:
        """What became of the use case."""
        return await cls.of_act(info, act, lambda image_id: {"deleted_image_id": strawberry.ID(image_id)})


@strawberry.type(description="The answer to shareImage.")
class ShareImagePayload(SharePayload):
    pass


@strawberry.type(description="The answer to updateImageShare.")
class UpdateImageSharePayload(SharePayload):
    pass


@strawberry.type(description="The answer to acceptImageShare.")
class AcceptImageSharePayload(SharePayload):
    pass


@strawberry.type(description="The answer to declineImageShare.")
class DeclineImageSharePayload(SharePayload):
    pass


@strawberry.type(description="The answer to revokeImageShare.")
class RevokeImageSharePayload(Payload):
    revoked_share_id: strawberry.ID | None = strawberry.field(default=None, description="The share that is gone.")
    share: ImageShare | None = strawberry.field(default=None, description="The share as it was.")

    @classmethod
    async def answer(cls, info: Info, act: Awaitable[tuple[ShareRow, int | None]]) -> Self:
        """What became of the use case."""
        return await cls.of_act(
            info, act, lambda row: {"revoked_share_id": strawberry.ID(row.id), "share": ImageShare.of(row)}
        )


@strawberry.type(description="The answer to setProjectQuota.")
class SetProjectQuotaPayload(ProjectPayload):
    pass


@strawberry.type(description="The answer to setProjectMember.")
class SetProjectMemberPayload(ProjectPayload):
    pass


@strawberry.type(description="The answer to removeProjectMember.")
class RemoveProjectMemberPayload(ProjectPayload):
    pass
