"""The mutations. Each takes one input, calls one use case, and returns its payload; mistakes are data in it."""

from typing import Annotated, Any

import strawberry

from app.catalog import creation, deletion, images, members, quotas, sharing, uploads
from app.catalog.catalogue import Written
from app.catalog.servers import servers, volumes
from app.catalog.snapshots.creating import create_snapshot
from app.graphql.context import Info
from app.graphql.inputs import (
    AbortUploadInput,
    AcceptImageShareInput,
    CompleteUploadInput,
    CreateImageInput,
    CreateSnapshotInput,
    CreateVolumeInput,
    DeclineImageShareInput,
    DeleteImageInput,
    DeleteServerInput,
    DeleteVolumeInput,
    LaunchServerInput,
    RemoveProjectMemberInput,
    RetryImageInput,
    RevokeImageShareInput,
    SetProjectMemberInput,
    SetProjectQuotaInput,
    ShareImageInput,
    StartServerInput,
    StopServerInput,
    UpdateImageInput,
    UpdateImageShareInput,
)
from app.graphql.payloads import (
    AbortUploadPayload,
    AcceptImageSharePayload,
    CompleteUploadPayload,
    CreateImagePayload,
    CreateSnapshotPayload,
    CreateVolumePayload,
    DeclineImageSharePayload,
    DeleteImagePayload,
    DeleteServerPayload,
    DeleteVolumePayload,
    LaunchServerPayload,
    RemoveProjectMemberPayload,
    RetryImagePayload,
    RevokeImageSharePayload,
    SetProjectMemberPayload,
    SetProjectQuotaPayload,
    ShareImagePayload,
    StartServerPayload,
    StopServerPayload,
    UpdateImagePayload,
    UpdateImageSharePayload,
    UserErrors,
)
from app.lifecycle import ShareState
from app.models import ImageShare

_INPUT = strawberry.argument(description="Input of the mutation.")


def _mutation(description: str) -> Any:
    """Declare a mutation. The mistakes that it raises become `userErrors` of the payload that it returns."""
    return strawberry.mutation(description=description, extensions=[UserErrors()])


@strawberry.type(
    description="Everything that can be changed. Errors that you can correct are in `userErrors` of the "
    "payload; top-level `errors` are for authentication, limits and bugs."
)
class Mutation:
    @_mutation(
        description="Create an image. If the source is an upload, send its parts next, then call "
        "`completeUpload`. If it is another image or a snapshot, the new one is ACTIVE at once. If it is a server, the "
        "mutation returns as `createSnapshot` does."
    )
    async def create_image(self, info: Info, input: Annotated[CreateImageInput, _INPUT]) -> CreateImagePayload | None:
        written = await creation.create_image(info.context.catalogue, info.context.viewer, input.new_image())
        return await CreateImagePayload.of(info, written)

    @_mutation(
        description="Complete an upload when all its parts have been sent; the conversion then begins. If the "
        "upload was aborted, was refused or has expired, `userErrors` contains the message and the "
        "hint of the image's failure."
    )
    async def complete_upload(
        self, info: Info, input: Annotated[CompleteUploadInput, _INPUT]
    ) -> CompleteUploadPayload | None:
        written = await uploads.complete_upload(info.context.catalogue, info.context.viewer, input.upload_id)
        return await CompleteUploadPayload.of(info, written)

    @_mutation(description="Abort an upload. Its bytes are deleted, and its image is set to ERROR.")
    async def abort_upload(self, info: Info, input: Annotated[AbortUploadInput, _INPUT]) -> AbortUploadPayload | None:
        written = await uploads.abort_upload(info.context.catalogue, info.context.viewer, input.upload_id)
        return await AbortUploadPayload.of(info, written)

    @_mutation(
        description="Convert an image in ERROR again, from the uploaded bytes, which are kept until it is ACTIVE "
        "or deleted."
    )
    async def retry_image(self, info: Info, input: Annotated[RetryImageInput, _INPUT]) -> RetryImagePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await uploads.retry_image(catalogue, viewer, input.image_id, input.expected_revision)
        return await RetryImagePayload.of(info, written)

    @_mutation(description="Change the name, operating system, labels or protection of an image.")
    async def update_image(self, info: Info, input: Annotated[UpdateImageInput, _INPUT]) -> UpdateImagePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await images.update_image(catalogue, viewer, input.image_id, input.patch(), input.expected_revision)
        return await UpdateImagePayload.of(info, written)

    @_mutation(description="Delete an image and free its storage. A snapshot that was promoted to images is IN_USE.")
    async def delete_image(self, info: Info, input: Annotated[DeleteImageInput, _INPUT]) -> DeleteImagePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await deletion.delete_image(catalogue, viewer, input.image_id, input.expected_revision)
        return await DeleteImagePayload.of(info, written)

    @_mutation(
        description="Share an image with another project of its organization: at once if you administer both "
        "projects, otherwise, with `offer: true`, as an offer to the admins of the other one."
    )
    async def share_image(self, info: Info, input: Annotated[ShareImageInput, _INPUT]) -> ShareImagePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await sharing.share_image(
            catalogue, viewer, input.image_id, input.project_id, input.grant, offer=input.offer
        )
        return await ShareImagePayload.of(info, written)

    @_mutation(description="Change what the members of the other project may do with a shared image.")
    async def update_image_share(
        self, info: Info, input: Annotated[UpdateImageShareInput, _INPUT]
    ) -> UpdateImageSharePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await sharing.update_share(catalogue, viewer, input.share_id, input.grant, input.expected_revision)
        return await UpdateImageSharePayload.of(info, written)

    @_mutation(description="Accept a share that is offered to a project that you administer.")
    async def accept_image_share(
        self, info: Info, input: Annotated[AcceptImageShareInput, _INPUT]
    ) -> AcceptImageSharePayload | None:
        written = await _answer_share(info, input, ShareState.ACCEPTED)
        return await AcceptImageSharePayload.of(info, written)

    @_mutation(
        description="Decline a share that is offered to a project that you administer, or give up an accepted one."
    )
    async def decline_image_share(
        self, info: Info, input: Annotated[DeclineImageShareInput, _INPUT]
    ) -> DeclineImageSharePayload | None:
        written = await _answer_share(info, input, ShareState.DECLINED)
        return await DeclineImageSharePayload.of(info, written)

    @_mutation(description="Revoke a share: the other project no longer sees the image.")
    async def revoke_image_share(
        self, info: Info, input: Annotated[RevokeImageShareInput, _INPUT]
    ) -> RevokeImageSharePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await sharing.revoke_share(catalogue, viewer, input.share_id, input.expected_revision)
        return await RevokeImageSharePayload.of(info, written)

    @_mutation(
        description="Set limits of a project, as an owner of its organization or as an operator. A limit below "
        "what is used blocks only additions."
    )
    async def set_project_quota(
        self, info: Info, input: Annotated[SetProjectQuotaInput, _INPUT]
    ) -> SetProjectQuotaPayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await quotas.set_quota(catalogue, viewer, input.project_id, input.limits(), input.expected_revision)
        return await SetProjectQuotaPayload.of(info, written)

    @_mutation(description="Add a member to a project that you administer, or change the role of one.")
    async def set_project_member(
        self, info: Info, input: Annotated[SetProjectMemberInput, _INPUT]
    ) -> SetProjectMemberPayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await members.set_member(
            catalogue, viewer, input.project_id, input.subject, input.role, input.expected_revision
        )
        return await SetProjectMemberPayload.of(info, written)

    @_mutation(description="Remove a member from a project that you administer. The last admin can't be removed.")
    async def remove_project_member(
        self, info: Info, input: Annotated[RemoveProjectMemberInput, _INPUT]
    ) -> RemoveProjectMemberPayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await members.remove_member(
            catalogue, viewer, input.project_id, input.subject, input.expected_revision
        )
        return await RemoveProjectMemberPayload.of(info, written)

    @_mutation(
        description="Take a snapshot of a volume: an image of type SNAPSHOT with the bytes of one moment. Its server "
        "keeps running. The mutation returns when the host has taken the snapshot, usually within milliseconds: the "
        "image is then SAVING while the host reads the volume and stores the bytes, and `capturedAt` of its source is "
        "the moment. If the host does not answer in time, `capturedAt` is still null: watch the image. If it failed at "
        "once, the image is in ERROR. One capture of a volume runs at a time: meanwhile, others are NOT_READY. The "
        "oldest snapshot beyond the limit of the volume is deleted when the new one is ACTIVE, except those that are "
        "protected or were promoted."
    )
    async def create_snapshot(
        self, info: Info, input: Annotated[CreateSnapshotInput, _INPUT]
    ) -> CreateSnapshotPayload | None:
        written = await create_snapshot(info.context.catalogue, info.context.viewer, input.new_snapshot())
        return await CreateSnapshotPayload.of(info, written)

    @_mutation(
        description="Launch a server from an image. It is STARTING until its host has started it; the subscription "
        "`server` follows it. An image that is known not to boot is refused with WILL_NOT_BOOT."
    )
    async def launch_server(
        self, info: Info, input: Annotated[LaunchServerInput, _INPUT]
    ) -> LaunchServerPayload | None:
        written = await servers.launch_server(info.context.catalogue, info.context.viewer, input.new_server())
        return await LaunchServerPayload.of(info, written)

    @_mutation(description="Start a server that is STOPPED or in ERROR.")
    async def start_server(self, info: Info, input: Annotated[StartServerInput, _INPUT]) -> StartServerPayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await servers.start_server(catalogue, viewer, input.server_id, input.expected_revision)
        return await StartServerPayload.of(info, written)

    @_mutation(
        description="Stop a server: its guest is asked to shut down, and is powered off if it does not. The server is "
        "STOPPED once that is done."
    )
    async def stop_server(self, info: Info, input: Annotated[StopServerInput, _INPUT]) -> StopServerPayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await servers.stop_server(catalogue, viewer, input.server_id, input.expected_revision)
        return await StopServerPayload.of(info, written)

    @_mutation(description="Delete a server with its boot volume. Its other volumes are detached and kept.")
    async def delete_server(
        self, info: Info, input: Annotated[DeleteServerInput, _INPUT]
    ) -> DeleteServerPayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await servers.delete_server(catalogue, viewer, input.server_id, input.expected_revision)
        return await DeleteServerPayload.of(info, written)

    @_mutation(description="Create an empty volume, to attach to a server when that is launched.")
    async def create_volume(
        self, info: Info, input: Annotated[CreateVolumeInput, _INPUT]
    ) -> CreateVolumePayload | None:
        written = await volumes.create_volume(info.context.catalogue, info.context.viewer, input.new_volume())
        return await CreateVolumePayload.of(info, written)

    @_mutation(description="Delete a volume that no server uses. A boot volume is deleted with its server.")
    async def delete_volume(
        self, info: Info, input: Annotated[DeleteVolumeInput, _INPUT]
    ) -> DeleteVolumePayload | None:
        catalogue, viewer = info.context.catalogue, info.context.viewer
        written = await volumes.delete_volume(catalogue, viewer, input.volume_id, input.expected_revision)
        return await DeleteVolumePayload.of(info, written)


async def _answer_share(
    info: Info, input: AcceptImageShareInput | DeclineImageShareInput, answer: ShareState
) -> Written[ImageShare]:
    catalogue, viewer = info.context.catalogue, info.context.viewer
    return await sharing.answer_share(catalogue, viewer, input.share_id, answer, input.expected_revision)
