"""The results of mutations: the changed object and its feed position, or the errors in the input."""

from typing import Any, Self

import strawberry
from strawberry.extensions.field_extension import AsyncExtensionResolver, FieldExtension
from strawberry.types.field import StrawberryField

from app import metrics
from app.catalog.catalogue import Written
from app.catalog.feed import event_log
from app.catalog.uploads import UploadEnded
from app.errors import QuotaExceeded, UserMistake
from app.graphql.context import Info
from app.graphql.enums import UserErrorCode
from app.graphql.queries import Query
from app.graphql.scalars import ByteSize, EventCursor
from app.graphql.types.images import Image
from app.graphql.types.servers import Server, Volume
from app.graphql.types.sharing import ImageShare
from app.graphql.types.tenancy import Project
from app.models import Image as ImageRow
from app.models import ImageShare as ShareRow
from app.models import Project as ProjectRow
from app.models import Server as ServerRow
from app.models import Volume as VolumeRow


@strawberry.interface(description="An error that you can correct.")
class UserError:
    message: str = strawberry.field(description="What is wrong, as text for people.")
    field: list[str] | None = strawberry.field(
        description="Path in the input to the value that is wrong; null if the error is not about one value."
    )
    code: UserErrorCode = strawberry.field(description="Kind of error.")
    hint: str | None = strawberry.field(
        description="What to do about it, as text for people; null if there is no advice."
    )


@strawberry.type(description="The input is invalid, or the objects that it names don't allow the request.")
class InputError(UserError):
    pass


@strawberry.type(description="The request would exceed a limit on a number of objects.")
class CountQuotaError(UserError):
    limit: int = strawberry.field(description="Maximum number.")
    used: int = strawberry.field(description="Current number.")
    requested: int = strawberry.field(description="Number requested in addition.")


@strawberry.type(description="The request would exceed a limit on stored bytes.")
class ByteQuotaError(UserError):
    limit: ByteSize = strawberry.field(description="Maximum, in bytes.")
    used: ByteSize = strawberry.field(description="Bytes stored.")
    reserved: ByteSize = strawberry.field(description="Bytes reserved for uploads, each until its image is ACTIVE.")
    requested: ByteSize = strawberry.field(description="Bytes requested in addition.")


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


@strawberry.type(description="Result of a mutation.")
class Payload:
    user_errors: list[UserError] = strawberry.field(description="Errors in the input; empty on success.")
    cursor: EventCursor | None = strawberry.field(
        description="Feed position at which the change is visible; null if the mutation was refused."
    )

    @strawberry.field(description="The root of all queries, to read more in the same request.")
    def query(self) -> Query:
        return Query()

    @classmethod
    def refused(cls, mistake: UserMistake) -> Self:
        """The result of a request that was refused."""
        return cls(user_errors=[user_error(mistake)], cursor=None)

    @classmethod
    async def succeeded(cls, info: Info, position: int | None, **shown: Any) -> Self:
        """The result of a change at a position in the feed; `shown` are the fields that show it."""
        return cls(user_errors=[], cursor=await cursor_at(info, position), **shown)


class UserErrors(FieldExtension):
    """Returns a mistake that a mutation raises as `userErrors` of its payload."""

    def apply(self, field: StrawberryField) -> None:
        # It is nullable, since a mutation that fails for another reason returns null and a top-level error.
        returned: Any = field.type
        self._payload: type[Payload] = returned.of_type

    async def resolve_async(
        self, next_: AsyncExtensionResolver, source: Any, info: strawberry.Info[Any, Any], **kwargs: Any
    ) -> Any:
        try:
            return await next_(source, info, **kwargs)
        except UserMistake as mistake:
            return self._payload.refused(mistake)


@strawberry.type(description="Result of a mutation that changes an image.")
class ImagePayload(Payload):
    image: Image | None = strawberry.field(
        default=None,
        description="The image after the change; null if the mutation was refused, unless the reason is that the "
        "upload had already ended.",
    )

    @classmethod
    def refused(cls, mistake: UserMistake) -> Self:
        """The result of a request that was refused, with the image if its upload has ended."""
        payload = super().refused(mistake)
        if isinstance(mistake, UploadEnded):
            payload.image = Image.of(mistake.image)
        return payload

    @classmethod
    async def of(cls, info: Info, written: Written[ImageRow]) -> Self:
        """The result of a use case that changes an image."""
        return await cls.succeeded(info, written.position, image=Image.of(written.row))


@strawberry.type(description="Result of a mutation that changes a share.")
class SharePayload(Payload):
    share: ImageShare | None = strawberry.field(
        default=None, description="The share after the change; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ShareRow]) -> Self:
        """The result of a use case that changes a share."""
        return await cls.succeeded(info, written.position, share=ImageShare.of(written.row))


@strawberry.type(description="Result of a mutation that changes a project.")
class ProjectPayload(Payload):
    project: Project | None = strawberry.field(
        default=None,
        description="The project after the change; null if the mutation was refused, or if you no longer have a "
        "role in the project.",
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ProjectRow]) -> Self:
        """The result of a use case that changes a project."""
        payload = await cls.succeeded(info, written.position, project=Project.of(written.row))
        # Callers who have just removed themselves from the project no longer see it.
        if await info.context.loaders.roles.load(written.row.id) is None:
            payload.project = None
        return payload


@strawberry.type(description="Result of a mutation that changes a server.")
class ServerPayload(Payload):
    server: Server | None = strawberry.field(
        default=None, description="The server after the change; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ServerRow]) -> Self:
        """The result of a use case that changes a server."""
        return await cls.succeeded(info, written.position, server=Server.of(written.row))


async def cursor_at(info: Info, position: int | None) -> EventCursor:
    """The cursor of a change, or of the newest event if an earlier request made the change."""
    if position is not None:
        return info.context.cursor_of(info.context.mark_at(position))
    async with info.context.catalogue.database.read() as session:
        position = await event_log.newest_position(session)
    return info.context.cursor_of(info.context.mark_at(position).unlinked())


@strawberry.type(description="Result of createImage.")
class CreateImagePayload(ImagePayload):
    pass


@strawberry.type(description="Result of completeUpload.")
class CompleteUploadPayload(ImagePayload):
    pass


@strawberry.type(description="Result of abortUpload.")
class AbortUploadPayload(ImagePayload):
    pass


@strawberry.type(description="Result of retryImage.")
class RetryImagePayload(ImagePayload):
    pass


@strawberry.type(description="Result of updateImage.")
class UpdateImagePayload(ImagePayload):
    pass


@strawberry.type(description="Result of deleteImage.")
class DeleteImagePayload(Payload):
    deleted_image_id: strawberry.ID | None = strawberry.field(
        default=None, description="Id of the deleted image; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ImageRow]) -> Self:
        """The result of the deletion."""
        return await cls.succeeded(info, written.position, deleted_image_id=strawberry.ID(written.row.id))


@strawberry.type(description="Result of shareImage.")
class ShareImagePayload(SharePayload):
    pass


@strawberry.type(description="Result of updateImageShare.")
class UpdateImageSharePayload(SharePayload):
    pass


@strawberry.type(description="Result of acceptImageShare.")
class AcceptImageSharePayload(SharePayload):
    pass


@strawberry.type(description="Result of declineImageShare.")
class DeclineImageSharePayload(SharePayload):
    pass


@strawberry.type(description="Result of revokeImageShare.")
class RevokeImageSharePayload(Payload):
    revoked_share_id: strawberry.ID | None = strawberry.field(
        default=None, description="Id of the revoked share; null if the mutation was refused."
    )
    share: ImageShare | None = strawberry.field(
        default=None, description="The share as it was; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ShareRow]) -> Self:
        """The result of the revocation."""
        share = ImageShare.of(written.row)
        return await cls.succeeded(info, written.position, revoked_share_id=share.id, share=share)


@strawberry.type(description="Result of setProjectQuota.")
class SetProjectQuotaPayload(ProjectPayload):
    pass


@strawberry.type(description="Result of setProjectMember.")
class SetProjectMemberPayload(ProjectPayload):
    pass


@strawberry.type(description="Result of removeProjectMember.")
class RemoveProjectMemberPayload(ProjectPayload):
    pass


@strawberry.type(description="Result of createSnapshot.")
class CreateSnapshotPayload(Payload):
    snapshot: Image | None = strawberry.field(
        default=None, description="The new snapshot; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ImageRow]) -> Self:
        """The result of the creation."""
        return await cls.succeeded(info, written.position, snapshot=Image.of(written.row))


@strawberry.type(description="Result of launchServer.")
class LaunchServerPayload(ServerPayload):
    pass


@strawberry.type(description="Result of startServer.")
class StartServerPayload(ServerPayload):
    pass


@strawberry.type(description="Result of stopServer.")
class StopServerPayload(ServerPayload):
    pass


@strawberry.type(description="Result of deleteServer.")
class DeleteServerPayload(Payload):
    deleted_server_id: strawberry.ID | None = strawberry.field(
        default=None, description="Id of the deleted server; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[ServerRow]) -> Self:
        """The result of the deletion."""
        return await cls.succeeded(info, written.position, deleted_server_id=strawberry.ID(written.row.id))


@strawberry.type(description="Result of createVolume.")
class CreateVolumePayload(Payload):
    volume: Volume | None = strawberry.field(
        default=None, description="The new volume; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[VolumeRow]) -> Self:
        """The result of the creation."""
        return await cls.succeeded(info, written.position, volume=Volume.of(written.row))


@strawberry.type(description="Result of deleteVolume.")
class DeleteVolumePayload(Payload):
    deleted_volume_id: strawberry.ID | None = strawberry.field(
        default=None, description="Id of the deleted volume; null if the mutation was refused."
    )

    @classmethod
    async def of(cls, info: Info, written: Written[VolumeRow]) -> Self:
        """The result of the deletion."""
        return await cls.succeeded(info, written.position, deleted_volume_id=strawberry.ID(written.row.id))
