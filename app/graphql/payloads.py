"""What mutations answer: what was changed, where in the feed, or what the caller has to mend."""

from collections.abc import Awaitable
from typing import Self

import strawberry

from app.catalog import feed
from app.catalog.feed import cursor_of
from app.errors import UserMistake
from app.graphql.context import Info
from app.graphql.enums import UserErrorCode
from app.graphql.queries import Query
from app.graphql.scalars import EventCursor
from app.graphql.types.images import Image
from app.models import Image as ImageRow


@strawberry.interface(description="Something that you can mend.")
class UserError:
    message: str = strawberry.field(description="What is wrong, for people.")
    field: list[str] | None = strawberry.field(description="Where in the input it is wrong.")
    code: UserErrorCode = strawberry.field(description="What kind of mistake it is.")
    hint: str | None = strawberry.field(description="What to do.")


@strawberry.type(description="Something in the input, or about what it names, stands against the request.")
class InputError(UserError):
    @staticmethod
    def of(mistake: UserMistake) -> "InputError":
        """The entry of userErrors that tells of a mistake."""
        return InputError(
            message=mistake.message,
            field=list(mistake.field) or None,
            code=UserErrorCode(mistake.code),
            hint=mistake.hint,
        )


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
        return cls(user_errors=[InputError.of(mistake)], cursor=None)


@strawberry.type(description="What a mutation answers that changes an image.")
class ImagePayload(Payload):
    image: Image | None = strawberry.field(default=None, description="The image as it is now.")

    @classmethod
    async def answer(cls, info: Info, act: Awaitable[tuple[ImageRow, int | None]]) -> Self:
        """What became of a use case that changes an image."""
        try:
            row, position = await act
        except UserMistake as mistake:
            return cls.refused(mistake)
        return cls(user_errors=[], cursor=await cursor_at(info, position), image=Image.of(row))


async def cursor_at(info: Info, position: int | None) -> EventCursor:
    """The cursor of a change; of one that had been made before, that of the newest event."""
    if position is None:
        async with info.context.gateway.database.read() as session:
            position = await feed.newest_position(session)
    return EventCursor(cursor_of(position))


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
