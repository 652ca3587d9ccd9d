"""What can be changed. Each takes one input, and answers mistakes as data."""

from typing import Annotated

import strawberry

from app.catalog import images
from app.errors import UserMistake
from app.graphql.context import Info
from app.graphql.inputs import (
    AbortUploadInput,
    CompleteUploadInput,
    CreateImageInput,
    DeleteImageInput,
    RetryImageInput,
    UpdateImageInput,
)
from app.graphql.payloads import (
    AbortUploadPayload,
    CompleteUploadPayload,
    CreateImagePayload,
    DeleteImagePayload,
    RetryImagePayload,
    UpdateImagePayload,
    cursor_at,
)

_INPUT = strawberry.argument(description="What to do.")


@strawberry.type(description="What can be changed.")
class Mutation:
    @strawberry.mutation(
        description="Create an image. With an upload as the source, send the parts next, then completeUpload."
    )
    async def create_image(self, info: Info, input: Annotated[CreateImageInput, _INPUT]) -> CreateImagePayload | None:
        try:
            new = input.new_image()
        except UserMistake as mistake:
            return CreateImagePayload.refused(mistake)
        act = info.context.gateway.uploads.create_image(info.context.viewer, new)
        return await CreateImagePayload.answer(info, act)

    @strawberry.mutation(description="All parts are sent: convert them.")
    async def complete_upload(
        self, info: Info, input: Annotated[CompleteUploadInput, _INPUT]
    ) -> CompleteUploadPayload | None:
        act = info.context.gateway.uploads.complete(info.context.viewer, input.upload_id)
        return await CompleteUploadPayload.answer(info, act)

    @strawberry.mutation(description="Give an upload up. Its bytes are freed, its image ends in ERROR.")
    async def abort_upload(self, info: Info, input: Annotated[AbortUploadInput, _INPUT]) -> AbortUploadPayload | None:
        act = info.context.gateway.uploads.abort(info.context.viewer, input.upload_id)
        return await AbortUploadPayload.answer(info, act)

    @strawberry.mutation(description="Convert an image in ERROR again, from the bytes that were kept.")
    async def retry_image(self, info: Info, input: Annotated[RetryImageInput, _INPUT]) -> RetryImagePayload | None:
        act = info.context.gateway.uploads.retry(info.context.viewer, input.image_id)
        return await RetryImagePayload.answer(info, act)

    @strawberry.mutation(description="Change what is said about an image.")
    async def update_image(self, info: Info, input: Annotated[UpdateImageInput, _INPUT]) -> UpdateImagePayload | None:
        try:
            patch = input.patch()
        except UserMistake as mistake:
            return UpdateImagePayload.refused(mistake)
        act = images.update_image(
            info.context.gateway.database,
            info.context.viewer,
            input.image_id,
            patch,
            input.expected_revision,
        )
        return await UpdateImagePayload.answer(info, act)

    @strawberry.mutation(description="Remove an image from the catalogue and free its storage.")
    async def delete_image(self, info: Info, input: Annotated[DeleteImageInput, _INPUT]) -> DeleteImagePayload | None:
        try:
            image_id, position = await images.delete_image(
                info.context.gateway.database, info.context.viewer, input.image_id, input.expected_revision
            )
        except UserMistake as mistake:
            return DeleteImagePayload.refused(mistake)
        return DeleteImagePayload(
            user_errors=[],
            cursor=await cursor_at(info, position),
            deleted_image_id=strawberry.ID(image_id),
        )
