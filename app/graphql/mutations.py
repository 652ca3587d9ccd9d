"""The mutations. Each takes one input, and returns mistakes in it as data."""

from collections.abc import Awaitable
from typing import Annotated

import strawberry

from app.catalog import copies, deletion, images, members, quotas, sharing
from app.catalog.new_images import NewCopy
from app.errors import UserMistake
from app.graphql.context import Info
from app.graphql.inputs import (
    AbortUploadInput,
    AcceptImageShareInput,
    CompleteUploadInput,
    CreateImageInput,
    DeclineImageShareInput,
    DeleteImageInput,
    RemoveProjectMemberInput,
    RetryImageInput,
    RevokeImageShareInput,
    SetProjectMemberInput,
    SetProjectQuotaInput,
    ShareImageInput,
    UpdateImageInput,
    UpdateImageShareInput,
)
from app.graphql.payloads import (
    AbortUploadPayload,
    AcceptImageSharePayload,
    CompleteUploadPayload,
    CreateImagePayload,
    DeclineImageSharePayload,
    DeleteImagePayload,
    RemoveProjectMemberPayload,
    RetryImagePayload,
    RevokeImageSharePayload,
    SetProjectMemberPayload,
    SetProjectQuotaPayload,
    ShareImagePayload,
    UpdateImagePayload,
    UpdateImageSharePayload,
)
from app.lifecycle import ShareState

_INPUT = strawberry.argument(description="Input of the mutation.")


@strawberry.type(
    description="Everything that can be changed. Errors that you can correct are in `userErrors` of the "
    "payload; top-level `errors` are for authentication, limits and bugs."
)
class Mutation:
    @strawberry.mutation(
        description="Create an image. If the source is an upload, send its parts next, then call "
        "`completeUpload`. If it is another image, the new one is ACTIVE at once."
    )
    async def create_image(self, info: Info, input: Annotated[CreateImageInput, _INPUT]) -> CreateImagePayload | None:
        try:
            new = input.new_image()
        except UserMistake as mistake:
            return CreateImagePayload.refused(mistake)
        gateway, viewer = info.context.gateway, info.context.viewer
        if isinstance(new, NewCopy):
            act = copies.copy_image(gateway.database, gateway.settings, viewer, new)
        else:
            act = gateway.uploads.create_image(viewer, new)
        return await CreateImagePayload.answer(info, act)

    @strawberry.mutation(
        description="Complete an upload when all its parts have been sent; the conversion then begins. If the "
        "upload was aborted, was refused or has expired, `userErrors` contains the message and the "
        "hint of the image's failure."
    )
    async def complete_upload(
        self, info: Info, input: Annotated[CompleteUploadInput, _INPUT]
    ) -> CompleteUploadPayload | None:
        act = info.context.gateway.uploads.complete(info.context.viewer, input.upload_id)
        return await CompleteUploadPayload.answer(info, act)

    @strawberry.mutation(description="Abort an upload. Its bytes are deleted, and its image is set to ERROR.")
    async def abort_upload(self, info: Info, input: Annotated[AbortUploadInput, _INPUT]) -> AbortUploadPayload | None:
        act = info.context.gateway.uploads.abort(info.context.viewer, input.upload_id)
        return await AbortUploadPayload.answer(info, act)

    @strawberry.mutation(
        description="Convert an image in ERROR again, from the uploaded bytes, which are kept until it is ACTIVE "
        "or deleted."
    )
    async def retry_image(self, info: Info, input: Annotated[RetryImageInput, _INPUT]) -> RetryImagePayload | None:
        act = info.context.gateway.uploads.retry(info.context.viewer, input.image_id, input.expected_revision)
        return await RetryImagePayload.answer(info, act)

    @strawberry.mutation(description="Change the name, operating system, labels or protection of an image.")
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

    @strawberry.mutation(description="Delete an image and free its storage.")
    async def delete_image(self, info: Info, input: Annotated[DeleteImageInput, _INPUT]) -> DeleteImagePayload | None:
        database, viewer = info.context.gateway.database, info.context.viewer
        act = deletion.delete_image(database, viewer, input.image_id, input.expected_revision)
        return await DeleteImagePayload.answer(info, act)

    @strawberry.mutation(
        description="Share an image with another project of its organization: at once if you administer both "
        "projects, otherwise, with `offer: true`, as an offer to the admins of the other one."
    )
    async def share_image(self, info: Info, input: Annotated[ShareImageInput, _INPUT]) -> ShareImagePayload | None:
        act = sharing.share_image(
            info.context.gateway.database,
            info.context.viewer,
            input.image_id,
            input.project_id,
            input.grant,
            offer=input.offer,
        )
        return await ShareImagePayload.answer(info, act)

    @strawberry.mutation(description="Change what the members of the other project may do with a shared image.")
    async def update_image_share(
        self, info: Info, input: Annotated[UpdateImageShareInput, _INPUT]
    ) -> UpdateImageSharePayload | None:
        database, viewer = info.context.gateway.database, info.context.viewer
        act = sharing.update_share(database, viewer, input.share_id, input.grant, input.expected_revision)
        return await UpdateImageSharePayload.answer(info, act)

    @strawberry.mutation(description="Accept a share that is offered to a project that you administer.")
    async def accept_image_share(
        self, info: Info, input: Annotated[AcceptImageShareInput, _INPUT]
    ) -> AcceptImageSharePayload | None:
        return await AcceptImageSharePayload.answer(info, _answer_share(info, input, ShareState.ACCEPTED))

    @strawberry.mutation(
        description="Decline a share that is offered to a project that you administer, or give up an accepted one."
    )
    async def decline_image_share(
        self, info: Info, input: Annotated[DeclineImageShareInput, _INPUT]
    ) -> DeclineImageSharePayload | None:
        return await DeclineImageSharePayload.answer(info, _answer_share(info, input, ShareState.DECLINED))

    @strawberry.mutation(description="Revoke a share: the other project no longer sees the image.")
    async def revoke_image_share(
        self, info: Info, input: Annotated[RevokeImageShareInput, _INPUT]
    ) -> RevokeImageSharePayload | None:
        database, viewer = info.context.gateway.database, info.context.viewer
        act = sharing.revoke_share(database, viewer, input.share_id, input.expected_revision)
        return await RevokeImageSharePayload.answer(info, act)

    @strawberry.mutation(
        description="Set limits of a project, as an owner of its organization or as an operator. A limit below "
        "what is used blocks only additions."
    )
    async def set_project_quota(
        self, info: Info, input: Annotated[SetProjectQuotaInput, _INPUT]
    ) -> SetProjectQuotaPayload | None:
        database, viewer = info.context.gateway.database, info.context.viewer
        act = quotas.set_quota(database, viewer, input.project_id, input.limits(), input.expected_revision)
        return await SetProjectQuotaPayload.answer(info, act)

    @strawberry.mutation(description="Add a member to a project that you administer, or change the role of one.")
    async def set_project_member(
        self, info: Info, input: Annotated[SetProjectMemberInput, _INPUT]
    ) -> SetProjectMemberPayload | None:
        act = members.set_member(
            info.context.gateway.database,
            info.context.viewer,
            input.project_id,
            input.subject,
            input.role,
            input.expected_revision,
        )
        return await SetProjectMemberPayload.answer(info, act)

    @strawberry.mutation(
        description="Remove a member from a project that you administer. The last admin can't be removed."
    )
    async def remove_project_member(
        self, info: Info, input: Annotated[RemoveProjectMemberInput, _INPUT]
    ) -> RemoveProjectMemberPayload | None:
        database, viewer = info.context.gateway.database, info.context.viewer
        act = members.remove_member(database, viewer, input.project_id, input.subject, input.expected_revision)
        return await RemoveProjectMemberPayload.answer(info, act)


def _answer_share(
    info: Info, input: AcceptImageShareInput | DeclineImageShareInput, answer: ShareState
) -> Awaitable[sharing.Changed]:
    database, viewer = info.context.gateway.database, info.context.viewer
    return sharing.answer_share(database, viewer, input.share_id, answer, input.expected_revision)
