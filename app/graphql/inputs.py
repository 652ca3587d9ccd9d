"""The inputs of mutations and lists."""

from datetime import datetime
from typing import Any, TypeVar

import strawberry
from graphql import GraphQLOneOfDirective
from strawberry.schema_directive import Location
from strawberry.schema_directives import OneOf

from app.catalog import images, texts
from app.catalog.images import ImageOrder, ImagePatch
from app.catalog.new_images import NewCopy, NewPromotion, NewServerImage, NewSnapshot, NewUpload
from app.catalog.servers.requests import NewServer, NewVolume
from app.errors import InvalidInput
from app.graphql.enums import OrderDirection
from app.graphql.scalars import ByteSize
from app.lifecycle import (
    Architecture,
    Aspect,
    DiskFormat,
    ImageStatus,
    ImageType,
    ImageVisibility,
    ProjectRole,
    ServerFirmware,
    ShareGrant,
)
from app.sizes import GIB

Given = TypeVar("Given")

_EXPECTED_REVISION = (
    "The revision that you have read: the mutation fails with STALE_REVISION if the {} has changed since. "
    "Null skips the check."
)
_IMAGE_REVISION = _EXPECTED_REVISION.format("image")
_SHARE_REVISION = _EXPECTED_REVISION.format("share")
_PROJECT_REVISION = _EXPECTED_REVISION.format("project")
_SERVER_REVISION = _EXPECTED_REVISION.format("server")
_VOLUME_REVISION = _EXPECTED_REVISION.format("volume")
_IDEMPOTENCY_KEY = (
    "Key that makes the request safe to repeat, 1 to 255 characters: the same key and input return the same {0}; "
    "other input with that key is a CONFLICT."
)

_MAXIMUM_TEXT = 255
_MAXIMUM_TEXTS = 100


@strawberry.schema_directive(
    locations=[Location.INPUT_OBJECT], name="oneOf", description=GraphQLOneOfDirective.description
)
class ExactlyOne(OneOf):
    """`@oneOf` with a description; Strawberry's own, set by `one_of=True`, has none in the exported schema."""


@strawberry.input(description="The name of an image that a project can see.")
class ProjectImageName:
    project_id: strawberry.ID = strawberry.field(description="Id of the project.")
    name: str = strawberry.field(
        description="Name, ignoring case. The project's own images come first; of several, the newest ACTIVE one "
        "is returned, or else the newest."
    )


@strawberry.input(directives=[ExactlyOne()], description="How to find one image.")
class ImageLookup:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="By its id.")
    name: ProjectImageName | None = strawberry.field(default=strawberry.UNSET, description="By its name.")


@strawberry.input(
    description="Conditions that an image has to meet, all of them. A condition that is null or left out is ignored; "
    "an empty list matches no image."
)
class ImageFilter:
    types: list[ImageType] | None = strawberry.field(default=None, description="The type is one of these.")
    statuses: list[ImageStatus] | None = strawberry.field(default=None, description="The status is one of these.")
    visibilities: list[ImageVisibility] | None = strawberry.field(
        default=None, description="The visibility is one of these."
    )
    os_families: list[str] | None = strawberry.field(
        default=None, description="The family of the operating system is one of these, ignoring case."
    )
    name_contains: str | None = strawberry.field(
        default=None, description="The name contains this text, ignoring case; at most 64 characters."
    )
    launchable: bool | None = strawberry.field(
        default=None,
        description="True returns only images that servers can be launched from now; false only the others.",
    )
    created_after: datetime | None = strawberry.field(
        default=None, description="The image was created later than this."
    )
    created_before: datetime | None = strawberry.field(
        default=None, description="The image was created earlier than this."
    )

    def wanted(self) -> images.ImageFilter:
        """The catalogue's form of the filter, whose conditions have the same names. Raises InvalidInput."""
        if self.name_contains:
            texts.require_searchable(self.name_contains, ("filter", "nameContains"))
        for name, wanted in (("nameContains", [self.name_contains or ""]), ("osFamilies", self.os_families or [])):
            if len(wanted) > _MAXIMUM_TEXTS or any(len(text) > _MAXIMUM_TEXT for text in wanted):
                raise InvalidInput(
                    f"A filter may have at most {_MAXIMUM_TEXTS} texts of at most {_MAXIMUM_TEXT} characters.",
                    field=("filter", name),
                )
            for text in wanted:
                texts.require_text(text, ("filter", name))
        return images.ImageFilter(**vars(self))


@strawberry.input(name="ImageOrder", description="Sort order of images. Images that are equal are sorted by id.")
class ImageOrderInput:
    field: ImageOrder = strawberry.field(description="What to sort by.")
    direction: OrderDirection = strawberry.field(description="Which direction to sort in.")


@strawberry.input(description="The operating system on an image.")
class OperatingSystemInput:
    family: str = strawberry.field(
        description="Family, such as ubuntu, rocky or windows; 1 to 64 characters, converted to lower case."
    )
    version: str | None = strawberry.field(
        default=None, description="Version, such as 24.04; 1 to 64 characters. Null states none."
    )


@strawberry.input(description="A key and a value to attach to an image.")
class LabelInput:
    key: str = strawberry.field(description="Key, 1 to 63 characters, unique within the image.")
    value: str = strawberry.field(description="Value, at most 255 characters.")


@strawberry.input(description="A file to upload.")
class UploadInput:
    file_name: str = strawberry.field(
        description="Name of the file. Its extension (.qcow2, .raw, .vmdk, .vhd or .vhdx) states the format if "
        "`format` is null."
    )
    size: ByteSize = strawberry.field(description="Size of the file, in bytes.")
    format: DiskFormat | None = strawberry.field(
        default=None, description="Format of the file; null takes it from the file name."
    )
    sha256: str | None = strawberry.field(
        default=None,
        description="SHA-256 of the file in hex, checked before the image becomes ACTIVE. Null skips the check.",
    )
    multipart: bool | None = strawberry.field(
        default=None,
        description="False sends the file as one part, which may have up to 50 GiB. True or null sends it in as "
        "many parts as its size needs.",
    )


@strawberry.input(description="An image to copy. No bytes are copied, and the copy stays when the original is deleted.")
class CopyImageInput:
    image_id: strawberry.ID = strawberry.field(
        description="Id of the original: an ACTIVE image that the project may launch."
    )


@strawberry.input(
    description="A server whose boot volume to capture. It keeps running; the image has the bytes of one moment."
)
class ServerImageInput:
    server_id: strawberry.ID = strawberry.field(description="Id of the server, which the project owns.")


@strawberry.input(
    description="A snapshot to promote to an image. No bytes are copied, and the snapshot can't be deleted before the "
    "image."
)
class SnapshotImageInput:
    snapshot_id: strawberry.ID = strawberry.field(description="Id of an ACTIVE snapshot of the project.")


@strawberry.input(directives=[ExactlyOne()], description="What to make the image from.")
class ImageSourceInput:
    upload: UploadInput | None = strawberry.field(default=strawberry.UNSET, description="A file that you will upload.")
    image: CopyImageInput | None = strawberry.field(
        default=strawberry.UNSET,
        description="Another image. The copy is ACTIVE at once.",
    )
    server: ServerImageInput | None = strawberry.field(
        default=strawberry.UNSET, description="The boot volume of a server, which may be running."
    )
    snapshot: SnapshotImageInput | None = strawberry.field(
        default=strawberry.UNSET, description="A snapshot. The image is ACTIVE at once."
    )


@strawberry.input(description="An image to create.")
class CreateImageInput:
    project_id: strawberry.ID = strawberry.field(description="Id of the project that will own the image.")
    name: str = strawberry.field(description="Name, 1 to 255 characters.")
    source: ImageSourceInput = strawberry.field(description="What to make the image from.")
    os: OperatingSystemInput | None = strawberry.field(
        default=None,
        description="Operating system on the image. Null states none: an upload then gets what is found on its disk, "
        "shortly after it became ACTIVE; another one takes that of its original, or of the image that its volume was "
        "created from.",
    )
    architecture: Architecture | None = strawberry.field(
        default=Architecture.X86_64,
        description="Processor architecture that the image is made for. Null states none: an upload then gets what "
        "is found on its disk. Another one always has that of its original, or of the image that its volume was "
        "created from.",
    )
    labels: list[LabelInput] | None = strawberry.field(
        default=None,
        description="Labels to attach, at most 64. If there are none, an image of another image or a snapshot takes "
        "those of its original.",
    )
    verify_boot: bool = strawberry.field(
        default=False,
        description="Whether to boot a throwaway server from the image once it is ACTIVE, and record in `bootChecked` "
        "whether it came up. A host has to run servers.",
    )
    idempotency_key: str | None = strawberry.field(
        default=None,
        description=_IDEMPOTENCY_KEY.format("image"),
    )

    def new_image(self) -> NewUpload | NewCopy | NewPromotion | NewServerImage:
        """The catalogue's form of the request. Raises InvalidInput."""
        said: dict[str, Any] = {
            "project_id": self.project_id,
            "name": self.name,
            "os_family": self.os.family if self.os else None,
            "os_version": self.os.version if self.os else None,
            "architecture": self.architecture,
            "labels": _pairs(self.labels or []),
            "verify_boot": self.verify_boot,
            "idempotency_key": self.idempotency_key,
        }
        if upload := self.source.upload:
            return NewUpload(
                file_name=upload.file_name,
                size=int(upload.size),
                format=upload.format,
                sha256=upload.sha256,
                multipart=upload.multipart,
                **said,
            )
        if image := self.source.image:
            return NewCopy(image_id=image.image_id, **said)
        if server := self.source.server:
            return NewServerImage(server_id=server.server_id, **said)
        if snapshot := self.source.snapshot:
            return NewPromotion(snapshot_id=snapshot.snapshot_id, **said)
        raise InvalidInput("An upload, an image, a server or a snapshot is required.", field=("source",))


@strawberry.input(description="A volume to take a snapshot of.")
class CreateSnapshotInput:
    volume_id: strawberry.ID = strawberry.field(
        description="Id of the volume. It must have been attached to a server once; that server may be running."
    )
    name: str = strawberry.field(description="Name of the snapshot, 1 to 255 characters.")
    labels: list[LabelInput] | None = strawberry.field(default=None, description="Labels to attach, at most 64.")
    idempotency_key: str | None = strawberry.field(default=None, description=_IDEMPOTENCY_KEY.format("snapshot"))

    def new_snapshot(self) -> NewSnapshot:
        """The catalogue's form of the request."""
        return NewSnapshot(
            volume_id=self.volume_id,
            name=self.name,
            labels=_pairs(self.labels or []),
            idempotency_key=self.idempotency_key,
        )


@strawberry.input(description="An upload to complete: all its parts have been sent.")
class CompleteUploadInput:
    upload_id: strawberry.ID = strawberry.field(description="Id of the upload.")


@strawberry.input(description="An upload to abort.")
class AbortUploadInput:
    upload_id: strawberry.ID = strawberry.field(description="Id of the upload.")


@strawberry.input(description="An image in ERROR to convert again.")
class RetryImageInput:
    image_id: strawberry.ID = strawberry.field(description="Id of the image.")
    expected_revision: int | None = strawberry.field(default=None, description=_IMAGE_REVISION)


@strawberry.input(description="Changes to an image. What is left out stays as it is.")
class UpdateImageInput:
    image_id: strawberry.ID = strawberry.field(description="Id of the image.")
    expected_revision: int | None = strawberry.field(default=None, description=_IMAGE_REVISION)
    name: strawberry.Maybe[str | None] = strawberry.field(
        description="New name, 1 to 255 characters. Must not be null.", default=None
    )
    os: strawberry.Maybe[OperatingSystemInput | None] = strawberry.field(
        description="New operating system; null removes it.", default=None
    )
    labels: strawberry.Maybe[list[LabelInput] | None] = strawberry.field(
        description="New labels, at most 64, in place of all present ones; null removes them.", default=None
    )
    protected: strawberry.Maybe[bool | None] = strawberry.field(
        description="Whether to protect the image against deletion. Must not be null.", default=None
    )

    def patch(self) -> ImagePatch:
        """The changes as the catalogue takes them. Raises InvalidInput."""
        values: dict[Aspect, dict[str, Any]] = {}
        if self.name is not None:
            name = texts.clean_name(_not_cleared(self.name.value, "name"))
            values[Aspect.NAME] = {"name": name, "name_key": texts.name_key(name)}
        if self.os is not None:
            system = self.os.value
            family, version = texts.clean_os(system.family, system.version) if system else (None, None)
            values[Aspect.OS] = {"os_family": family, "os_version": version}
        if self.labels is not None:
            values[Aspect.LABELS] = {"labels": texts.clean_labels(_pairs(self.labels.value or []))}
        if self.protected is not None:
            values[Aspect.PROTECTION] = {"protected": _not_cleared(self.protected.value, "protected")}
        return ImagePatch(values)


@strawberry.input(description="An image to delete.")
class DeleteImageInput:
    image_id: strawberry.ID = strawberry.field(description="Id of the image.")
    expected_revision: int | None = strawberry.field(default=None, description=_IMAGE_REVISION)


@strawberry.input(description="An ACTIVE custom image to share.")
class ShareImageInput:
    image_id: strawberry.ID = strawberry.field(description="Id of the image.")
    project_id: strawberry.ID = strawberry.field(
        description="Id of the project to share it with, in the same organization."
    )
    grant: ShareGrant = strawberry.field(description="What the members of the other project may do with the image.")
    offer: bool = strawberry.field(
        default=False,
        description="If you are not an admin of the other project: true offers the image to its admins; false "
        "fails with NOT_TARGET_ADMIN.",
    )


@strawberry.input(description="A share whose grant to change.")
class UpdateImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="Id of the share.")
    grant: ShareGrant = strawberry.field(
        description="What the members of the other project may do with the image from now on."
    )
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(description="An offered share to accept.")
class AcceptImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="Id of the share.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(description="An offered share to decline, or an accepted one to give up.")
class DeclineImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="Id of the share.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(description="A share to revoke.")
class RevokeImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="Id of the share.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(
    description="Limits of a project. What is left out stays as it is; null restores the default of this installation."
)
class SetProjectQuotaInput:
    project_id: strawberry.ID = strawberry.field(description="Id of the project.")
    custom_images: strawberry.Maybe[int | None] = strawberry.field(
        description="Maximum number of custom images.", default=None
    )
    image_storage_gib: strawberry.Maybe[int | None] = strawberry.field(
        description="Maximum storage of custom images and snapshots together, in GiB.", default=None
    )
    snapshots_per_volume: strawberry.Maybe[int | None] = strawberry.field(
        description="Maximum number of snapshots kept per volume.", default=None
    )
    servers: strawberry.Maybe[int | None] = strawberry.field(description="Maximum number of servers.", default=None)
    volumes: strawberry.Maybe[int | None] = strawberry.field(
        description="Maximum number of volumes, including boot volumes.", default=None
    )
    volume_storage_gib: strawberry.Maybe[int | None] = strawberry.field(
        description="Maximum size of all volumes together, in GiB.", default=None
    )
    expected_revision: int | None = strawberry.field(default=None, description=_PROJECT_REVISION)

    def limits(self) -> dict[str, int | None]:
        """The limits that are set, by column, with storage in bytes."""
        given = {
            "custom_images_limit": self.custom_images,
            "image_storage_limit": self.image_storage_gib,
            "snapshots_per_volume_limit": self.snapshots_per_volume,
            "servers_limit": self.servers,
            "volumes_limit": self.volumes,
            "volume_storage_limit": self.volume_storage_gib,
        }
        limits = {column: limit.value for column, limit in given.items() if limit is not None}
        in_gib = {column: limits.get(column) for column in ("image_storage_limit", "volume_storage_limit")}
        return limits | {column: limit * GIB for column, limit in in_gib.items() if limit is not None}


@strawberry.input(description="A user to add to a project, or a member whose role to change.")
class SetProjectMemberInput:
    project_id: strawberry.ID = strawberry.field(description="Id of the project.")
    subject: str = strawberry.field(description="The user: the `sub` claim of their token.")
    role: ProjectRole = strawberry.field(description="Role in the project from now on.")
    expected_revision: int | None = strawberry.field(default=None, description=_PROJECT_REVISION)


@strawberry.input(description="A member to remove from a project.")
class RemoveProjectMemberInput:
    project_id: strawberry.ID = strawberry.field(description="Id of the project.")
    subject: str = strawberry.field(description="The member: the `sub` claim of their token.")
    expected_revision: int | None = strawberry.field(default=None, description=_PROJECT_REVISION)


@strawberry.input(description="A server to launch from an image.")
class LaunchServerInput:
    project_id: strawberry.ID = strawberry.field(description="Id of the project that will own the server.")
    image_id: strawberry.ID = strawberry.field(description="Id of an ACTIVE image that the project may launch.")
    name: str = strawberry.field(
        description="Name, 1 to 255 characters. The guest's host name is derived from it, if its image has cloud-init."
    )
    boot_disk_gib: int | None = strawberry.field(
        default=None,
        description="Size of the boot disk, in GiB. Null takes the smallest that the image allows: `minBootDiskGib`.",
    )
    vcpus: int = strawberry.field(default=1, description="Number of virtual processors.")
    memory_mib: int = strawberry.field(default=1024, description="Memory, in MiB.")
    ssh_keys: list[str] | None = strawberry.field(
        default=None,
        description="Public SSH keys that may log in, at most 32, each as one line of OpenSSH. This needs an image "
        "with cloud-init.",
    )
    user_data: str | None = strawberry.field(
        default=None,
        description="User data for cloud-init, such as a `#cloud-config` document; at most 64 KiB. It can't be read "
        "back.",
    )
    data_volume_ids: list[strawberry.ID] | None = strawberry.field(
        default=None, description="Ids of volumes of the project to attach, at most 16."
    )
    firmware: ServerFirmware | None = strawberry.field(
        default=None,
        description="Firmware of the virtual machine. Null takes UEFI if the image boots with UEFI only, and BIOS "
        "otherwise.",
    )
    force: bool = strawberry.field(
        default=False,
        description="Whether to launch an image that is known not to boot. False refuses it with WILL_NOT_BOOT.",
    )
    idempotency_key: str | None = strawberry.field(default=None, description=_IDEMPOTENCY_KEY.format("server"))

    def new_server(self) -> NewServer:
        """The catalogue's form of the request."""
        return NewServer(
            project_id=self.project_id,
            image_id=self.image_id,
            name=self.name,
            boot_disk_gib=self.boot_disk_gib,
            vcpus=self.vcpus,
            memory_mib=self.memory_mib,
            ssh_keys=tuple(self.ssh_keys or ()),
            user_data=self.user_data,
            data_volume_ids=tuple(self.data_volume_ids or ()),
            firmware=self.firmware,
            force=self.force,
            idempotency_key=self.idempotency_key,
        )


@strawberry.input(description="A server to start.")
class StartServerInput:
    server_id: strawberry.ID = strawberry.field(description="Id of the server.")
    expected_revision: int | None = strawberry.field(default=None, description=_SERVER_REVISION)


@strawberry.input(description="A server to stop.")
class StopServerInput:
    server_id: strawberry.ID = strawberry.field(description="Id of the server.")
    expected_revision: int | None = strawberry.field(default=None, description=_SERVER_REVISION)


@strawberry.input(description="A server to delete, with its boot volume.")
class DeleteServerInput:
    server_id: strawberry.ID = strawberry.field(description="Id of the server.")
    expected_revision: int | None = strawberry.field(default=None, description=_SERVER_REVISION)


@strawberry.input(description="An empty volume to create.")
class CreateVolumeInput:
    project_id: strawberry.ID = strawberry.field(description="Id of the project that will own the volume.")
    name: str = strawberry.field(description="Name, 1 to 255 characters.")
    size_gib: int = strawberry.field(description="Size, in GiB.")
    idempotency_key: str | None = strawberry.field(default=None, description=_IDEMPOTENCY_KEY.format("volume"))

    def new_volume(self) -> NewVolume:
        """The catalogue's form of the request."""
        return NewVolume(
            project_id=self.project_id,
            name=self.name,
            size_gib=self.size_gib,
            idempotency_key=self.idempotency_key,
        )


@strawberry.input(description="A volume to delete, which no server uses.")
class DeleteVolumeInput:
    volume_id: strawberry.ID = strawberry.field(description="Id of the volume.")
    expected_revision: int | None = strawberry.field(default=None, description=_VOLUME_REVISION)


def _not_cleared(value: Given | None, field: str) -> Given:
    """Reject null: Strawberry accepts it for every field that may be left out. Raises InvalidInput."""
    if value is None:
        raise InvalidInput("This must not be null.", field=(field,), hint="Leave it out to keep it as it is.")
    return value


def _pairs(labels: list[LabelInput]) -> tuple[tuple[str, str], ...]:
    return tuple((label.key, label.value) for label in labels)
