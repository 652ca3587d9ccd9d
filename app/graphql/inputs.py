"""What mutations and lists take."""

from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import strawberry
from graphql import GraphQLOneOfDirective
from strawberry.schema_directive import Location
from strawberry.schema_directives import OneOf

from app.catalog import texts
from app.catalog.images import ImageFilter as Wanted
from app.catalog.images import ImageOrder, ImagePatch
from app.catalog.new_images import NewCopy, NewUpload
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
    ShareGrant,
)
from app.settings import GIB

Given = TypeVar("Given")
Member = TypeVar("Member", bound=StrEnum)

_MAXIMUM_TEXT = 255
_MAXIMUM_TEXTS = 100


@strawberry.schema_directive(
    locations=[Location.INPUT_OBJECT], name="oneOf", description=GraphQLOneOfDirective.description
)
class ExactlyOne(OneOf):
    """Strawberry's own, which is what `one_of=True` stands for, has no description in the exported schema."""


@strawberry.input(description="The name of an image in a project.")
class ProjectImageName:
    project_id: strawberry.ID = strawberry.field(description="The project.")
    name: str = strawberry.field(
        description="The name, without regard to case; of several, the newest that is ACTIVE is taken."
    )


@strawberry.input(directives=[ExactlyOne()], description="How to find one image.")
class ImageLookup:
    id: strawberry.ID | None = strawberry.field(default=strawberry.UNSET, description="By its id.")
    name: ProjectImageName | None = strawberry.field(default=strawberry.UNSET, description="By its name.")


@strawberry.input(description="Which images are wanted. What is left out does not matter.")
class ImageFilter:
    types: list[ImageType] | None = strawberry.field(default=None, description="Any of these types.")
    statuses: list[ImageStatus] | None = strawberry.field(default=None, description="Any of these statuses.")
    visibilities: list[ImageVisibility] | None = strawberry.field(
        default=None, description="Any of these visibilities."
    )
    os_families: list[str] | None = strawberry.field(
        default=None, description="Any of these families of operating systems."
    )
    name_contains: str | None = strawberry.field(
        default=None, description="This text in the name, ignoring case; at most 64 characters."
    )
    launchable: bool | None = strawberry.field(default=None, description="Whether servers can be launched from it now.")
    created_after: datetime | None = strawberry.field(default=None, description="Created later than this.")
    created_before: datetime | None = strawberry.field(default=None, description="Created earlier than this.")

    def wanted(self) -> Wanted:
        """The filter as the catalogue takes it. Raises InvalidInput."""
        if self.name_contains:
            texts.require_searchable(self.name_contains, ("filter", "nameContains"))
        for name, looked_for in (("nameContains", [self.name_contains or ""]), ("osFamilies", self.os_families or [])):
            if len(looked_for) > _MAXIMUM_TEXTS or any(len(text) > _MAXIMUM_TEXT for text in looked_for):
                raise InvalidInput(
                    f"At most {_MAXIMUM_TEXTS} texts of {_MAXIMUM_TEXT} characters can be looked for.",
                    field=("filter", name),
                )
            for text in looked_for:
                texts.require_text(text, ("filter", name))
        return Wanted(
            types=_each_once(self.types),
            statuses=_each_once(self.statuses),
            visibilities=_each_once(self.visibilities),
            os_families=self.os_families,
            name_contains=self.name_contains,
            launchable=self.launchable,
            created_after=self.created_after,
            created_before=self.created_before,
        )


@strawberry.input(name="ImageOrder", description="How images are sorted; those that are equal, by id.")
class ImageOrderInput:
    field: ImageOrder = strawberry.field(description="What by.")
    direction: OrderDirection = strawberry.field(description="Which way.")


@strawberry.input(description="The operating system on an image.")
class OperatingSystemInput:
    family: str = strawberry.field(description="For example ubuntu, rocky or windows.")
    version: str | None = strawberry.field(default=None, description="For example 24.04.")


@strawberry.input(description="A label to put on an image.")
class LabelInput:
    key: str = strawberry.field(description="The key, 1 to 63 characters.")
    value: str = strawberry.field(description="The value, at most 255 characters.")


@strawberry.input(description="A file that will be uploaded.")
class UploadInput:
    file_name: str = strawberry.field(
        description="What the file is called. Its ending tells the format, unless format does."
    )
    size: ByteSize = strawberry.field(description="Bytes of the file.")
    format: DiskFormat | None = strawberry.field(default=None, description="The format of the file.")
    sha256: str | None = strawberry.field(
        default=None, description="SHA-256 of the file in hex, checked before the image becomes ACTIVE."
    )
    multipart: bool | None = strawberry.field(
        default=None,
        description="False asks for one part, allowed up to 50 GiB; larger images are always sent in parts.",
    )


@strawberry.input(description="An image to make a copy of. No byte is copied, and the copy outlives the original.")
class CopyImageInput:
    image_id: strawberry.ID = strawberry.field(description="The image: ACTIVE, and one that the project may launch.")


@strawberry.input(directives=[ExactlyOne()], description="Where the image comes from.")
class ImageSourceInput:
    upload: UploadInput | None = strawberry.field(
        default=strawberry.UNSET, description="From a file that will be uploaded."
    )
    image: CopyImageInput | None = strawberry.field(
        default=strawberry.UNSET,
        description="From another image: the new one is ACTIVE at once. What is not said about it is taken over.",
    )


@strawberry.input(description="An image to create.")
class CreateImageInput:
    project_id: strawberry.ID = strawberry.field(description="The project that will own it.")
    name: str = strawberry.field(description="Its name, 1 to 255 characters.")
    source: ImageSourceInput = strawberry.field(description="Where it comes from.")
    os: OperatingSystemInput | None = strawberry.field(default=None, description="The operating system on it.")
    architecture: Architecture | None = strawberry.field(
        default=Architecture.X86_64,
        description="The processor that it is made for; a copy is made for that of its original.",
    )
    labels: list[LabelInput] | None = strawberry.field(default=None, description="Labels to put on it.")
    idempotency_key: str | None = strawberry.field(
        default=None, description="The same key and input again give the same image, not another one."
    )

    def new_image(self) -> NewUpload | NewCopy:
        """The request as the catalogue takes it. Raises InvalidInput."""
        said: dict[str, Any] = {
            "project_id": self.project_id,
            "name": self.name,
            "os_family": self.os.family if self.os else None,
            "os_version": self.os.version if self.os else None,
            "architecture": self.architecture,
            "labels": _pairs(self.labels or []),
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
        raise InvalidInput("Say where the image comes from.", field=("source",))


@strawberry.input(description="An upload whose parts have all been sent.")
class CompleteUploadInput:
    upload_id: strawberry.ID = strawberry.field(description="The upload.")


@strawberry.input(description="An upload to give up.")
class AbortUploadInput:
    upload_id: strawberry.ID = strawberry.field(description="The upload.")


@strawberry.input(description="An image in ERROR to convert again.")
class RetryImageInput:
    image_id: strawberry.ID = strawberry.field(description="The image.")
    expected_revision: int | None = strawberry.field(
        default=None, description="Refuse when the image has another revision by now."
    )


@strawberry.input(description="Changes to an image. What is left out stays as it is; null clears what may be cleared.")
class UpdateImageInput:
    image_id: strawberry.ID = strawberry.field(description="The image.")
    expected_revision: int | None = strawberry.field(
        default=None, description="Refuse the change when the image has another revision by now."
    )
    name: strawberry.Maybe[str | None] = strawberry.field(description="A new name.", default=None)
    os: strawberry.Maybe[OperatingSystemInput | None] = strawberry.field(
        description="Another operating system; null clears it.", default=None
    )
    labels: strawberry.Maybe[list[LabelInput] | None] = strawberry.field(
        description="All labels from now on; null clears them.", default=None
    )
    protected: strawberry.Maybe[bool | None] = strawberry.field(
        description="Whether it is protected against deletion.", default=None
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
    image_id: strawberry.ID = strawberry.field(description="The image.")
    expected_revision: int | None = strawberry.field(
        default=None, description="Refuse when the image has another revision by now."
    )


_SHARE_REVISION = "Refuse when the share has another revision by now."
_PROJECT_REVISION = "Refuse when the project has another revision by now."


@strawberry.input(description="A share to make of a custom, ACTIVE image.")
class ShareImageInput:
    image_id: strawberry.ID = strawberry.field(description="The image.")
    project_id: strawberry.ID = strawberry.field(description="The project of the same organization to share it with.")
    grant: ShareGrant = strawberry.field(description="What its members may do with the image.")
    offer: bool = strawberry.field(
        default=False, description="Offer it to the admins of that project, when you are none of them."
    )


@strawberry.input(description="A share whose grant is to change.")
class UpdateImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="The share.")
    grant: ShareGrant = strawberry.field(description="What the project's members may do from now on.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(description="An offered share to accept.")
class AcceptImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="The share.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(description="An offered share to decline, or an accepted one to give up.")
class DeclineImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="The share.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(description="A share to take back.")
class RevokeImageShareInput:
    share_id: strawberry.ID = strawberry.field(description="The share.")
    expected_revision: int | None = strawberry.field(default=None, description=_SHARE_REVISION)


@strawberry.input(
    description="Limits of a project. What is left out stays as it is; null takes the default of this installation."
)
class SetProjectQuotaInput:
    project_id: strawberry.ID = strawberry.field(description="The project.")
    custom_images: strawberry.Maybe[int | None] = strawberry.field(
        description="How many custom images there may be.", default=None
    )
    image_storage_gib: strawberry.Maybe[int | None] = strawberry.field(
        description="How many GiB custom images and snapshots may take together.", default=None
    )
    snapshots_per_volume: strawberry.Maybe[int | None] = strawberry.field(
        description="How many snapshots of a volume are kept.", default=None
    )
    expected_revision: int | None = strawberry.field(default=None, description=_PROJECT_REVISION)

    def limits(self) -> dict[str, int | None]:
        """The limits that are said, by the column that holds each, storage in bytes."""
        given = {
            "custom_images_limit": self.custom_images,
            "image_storage_limit": self.image_storage_gib,
            "snapshots_per_volume_limit": self.snapshots_per_volume,
        }
        limits = {column: limit.value for column, limit in given.items() if limit is not None}
        storage = limits.get("image_storage_limit")
        return limits | ({"image_storage_limit": storage * GIB} if storage is not None else {})


@strawberry.input(description="What somebody is to be in a project, whether or not they belong to it.")
class SetProjectMemberInput:
    project_id: strawberry.ID = strawberry.field(description="The project.")
    subject: str = strawberry.field(description="Who it is: the `sub` of their token.")
    role: ProjectRole = strawberry.field(description="What they may do.")
    expected_revision: int | None = strawberry.field(default=None, description=_PROJECT_REVISION)


@strawberry.input(description="Somebody to take out of a project.")
class RemoveProjectMemberInput:
    project_id: strawberry.ID = strawberry.field(description="The project.")
    subject: str = strawberry.field(description="Who it is: the `sub` of their token.")
    expected_revision: int | None = strawberry.field(default=None, description=_PROJECT_REVISION)


def _not_cleared(value: Given | None, field: str) -> Given:
    """Strawberry lets a null through where a field may be left out. Raises InvalidInput."""
    if value is None:
        raise InvalidInput("This can't be cleared.", field=(field,), hint="Leave it out to keep it as it is.")
    return value


def _each_once(members: list[Member] | None) -> list[Member] | None:
    return None if members is None else sorted(set(members))


def _pairs(labels: list[LabelInput]) -> tuple[tuple[str, str], ...]:
    return tuple((label.key, label.value) for label in labels)
