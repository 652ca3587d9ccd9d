"""An image and what belongs to it."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.catalog import images, sharing
from app.catalog.bill import billing
from app.catalog.conversions import minimum_boot_disk
from app.catalog.feed.details import Failure
from app.catalog.people import access
from app.catalog.people.access import Access, Right
from app.graphql.context import Info
from app.graphql.scalars import ByteSize, EventCursor
from app.graphql.types.billing import Money
from app.graphql.types.connections import Connection, Paging, paged
from app.graphql.types.node import Node, made_of
from app.graphql.types.sharing import ImageShare, share_page
from app.graphql.types.tenancy import Project
from app.graphql.types.uploads import ImageUpload, SignedRequest, asker_of, download_end, signed_request
from app.lifecycle import (
    Architecture,
    DiskFormat,
    FailureCode,
    ImagePhase,
    ImageStatus,
    ImageType,
    ImageVisibility,
    SourceKind,
)
from app.models import Blob, now
from app.models import Image as ImageRow
from app.ports import UploadReceipt

_UNDER_WAY = (ImageStatus.QUEUED, ImageStatus.SAVING)


@strawberry.type(description="The operating system on an image, as its owner states it.")
class OperatingSystem:
    family: str = strawberry.field(description="For example ubuntu, rocky or windows; lower case.")
    version: str | None = strawberry.field(description="For example 24.04.")
    display_name: str = strawberry.field(description="Family and version, for people.")


@strawberry.type(description="A key and a value that the owner put on an image.")
class Label:
    key: str = strawberry.field(description="The key; an image has each key once.")
    value: str = strawberry.field(description="The value.")


@strawberry.type(
    description="What you may do with an image now: in the project that the query is about, else in the one that the "
    "header X-Project names, else in any of yours."
)
class ImagePermissions:
    launch: bool = strawberry.field(description="Whether a server may be launched from it, or a copy made of it.")
    edit: bool = strawberry.field(description="Whether you may change its name, operating system and labels.")
    share: bool = strawberry.field(description="Whether you may share it with another project.")
    delete: bool = strawberry.field(description="Whether you may delete it.")


@strawberry.type(description="The image came from an uploaded file.")
class UploadSource:
    file_name: str = strawberry.field(description="What the file was called. It is data, never a path.")
    declared_format: DiskFormat | None = strawberry.field(description="The format that was declared.")
    detected_format: DiskFormat | None = strawberry.field(description="The format that the file turned out to be.")
    size: ByteSize = strawberry.field(description="Bytes of the file.")
    sha256: str | None = strawberry.field(description="The file's SHA-256 as it was declared, lower-case hex.")


@strawberry.type(description="The image is a copy of another one, of which it has all bytes.")
class CopySource:
    image_name: str = strawberry.field(description="What the other one was called when the copy was made.")
    sha256: str | None = strawberry.field(
        description="SHA-256 of what was copied, lower-case hex; null until shortly after the other one was ACTIVE."
    )
    image_id: strawberry.Private[str]

    @strawberry.field(description="The other one; null when it was deleted, or can't be seen by you any more.")
    async def image(self, info: Info) -> Annotated["Image", strawberry.lazy("app.graphql.types.images")] | None:
        row = await info.context.loaders.images.load(self.image_id)
        return None if row is None else Image.of(row)


ImageSource = Annotated[
    UploadSource | CopySource, strawberry.union("ImageSource", description="Where an image came from.")
]


@strawberry.type(description="How far an image is that is not there yet.")
class ImageProgress:
    phase: ImagePhase = strawberry.field(description="What is being done.")
    percent: float = strawberry.field(description="How much of this phase is done, 0 to 100.")
    bytes_done: ByteSize = strawberry.field(description="Bytes of this phase that are done.")
    bytes_total: ByteSize | None = strawberry.field(description="Bytes of this phase in all, when that is known.")
    eta_seconds: int | None = strawberry.field(description="Seconds that the phase will still take, estimated.")
    updated_at: datetime = strawberry.field(description="When this was so.")


@strawberry.type(description="Why an image is in ERROR, and what to do.")
class ImageFailure:
    code: FailureCode = strawberry.field(description="What kind of failure it is.")
    message: str = strawberry.field(description="What went wrong, for people.")
    hint: str = strawberry.field(description="What to do now.")
    retriable: bool = strawberry.field(description="Whether retryImage can help.")
    occurred_at: datetime = strawberry.field(description="When it happened.")

    @staticmethod
    def of(failure: Failure) -> "ImageFailure":
        """The GraphQL form of a failure."""
        return ImageFailure(
            code=failure.code,
            message=failure.message,
            hint=failure.hint,
            retriable=failure.retriable,
            occurred_at=failure.failed_at,
        )


@made_of(ImageRow)
@strawberry.type(description="A disk image that servers can be launched from, or that is on its way to that.")
class Image(Node):
    revision: int = strawberry.field(
        description="Grows by one with every change; send it back as expectedRevision to overwrite nobody."
    )
    name: str = strawberry.field(description="The name. It need not be unique.")
    type: ImageType = strawberry.field(description="Where it comes from.")
    status: ImageStatus = strawberry.field(description="How far it is.")
    visibility: ImageVisibility = strawberry.field(description="Who can see it.")
    architecture: Architecture | None = strawberry.field(description="The processor that it is made for.")
    virtual_size: ByteSize | None = strawberry.field(
        description="Bytes of the disk that a server sees; null until it is known."
    )
    min_boot_disk_gib: int | None = strawberry.field(
        description="The virtual size rounded up to whole GiB: the smallest boot disk."
    )
    stored_size: ByteSize | None = strawberry.field(description="Bytes of the qcow2's clusters: what is stored.")
    sha256: str | None = strawberry.field(
        description="SHA-256 of the stored qcow2, lower-case hex; null until shortly after ACTIVE."
    )
    protected: bool = strawberry.field(description="Whether it is protected against deletion.")
    warnings: list[str] = strawberry.field(description="What its owner should know, for example what was left out.")
    created_at: datetime = strawberry.field(description="When it was created.")
    updated_at: datetime = strawberry.field(description="When it changed last.")
    row: strawberry.Private[ImageRow]
    seen_from: strawberry.Private[str | None] = None

    @staticmethod
    def of(row: ImageRow, seen_from: str | None = None) -> "Image":
        """The node of a row; `seen_from` is the project that the query is about, if it is about one."""
        size = row.virtual_size
        return Image(
            id=strawberry.ID(row.id),
            revision=row.revision,
            name=row.name,
            type=row.type,
            status=row.status,
            visibility=row.visibility,
            architecture=row.architecture,
            virtual_size=None if size is None else ByteSize(size),
            min_boot_disk_gib=None if size is None else minimum_boot_disk(size),
            stored_size=None if row.stored_size is None else ByteSize(row.stored_size),
            sha256=row.sha256,
            protected=row.protected,
            warnings=row.warnings,
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
            seen_from=seen_from,
        )

    @strawberry.field(description="The operating system on it.")
    def os(self) -> OperatingSystem | None:
        family, version = self.row.os_family, self.row.os_version
        if family is None:
            return None
        shown = f"{family.capitalize()} {version}" if version else family.capitalize()
        return OperatingSystem(family=family, version=version, display_name=shown)

    @strawberry.field(description="The labels on it, by key.")
    def labels(self) -> list[Label]:
        return [Label(key=label["key"], value=label["value"]) for label in self.row.labels]

    @strawberry.field(description="The project that owns it; null for members of other projects.")
    async def project(self, info: Info) -> Project | None:
        row = await info.context.loaders.projects.load(self.row.project_id)
        return None if row is None else Project.of(row)

    @strawberry.field(description="Where it came from.")
    def source(self) -> ImageSource | None:
        if self.row.source_kind == SourceKind.IMAGE:
            return CopySource(
                image_name=self.row.source_name or "",
                sha256=self.row.sha256,
                image_id=self.row.source_image_id or "",
            )
        return UploadSource(
            file_name=self.row.source_file_name or "",
            declared_format=self.row.source_declared_format,
            detected_format=self.row.source_detected_format,
            size=ByteSize(self.row.source_size or 0),
            sha256=self.row.source_sha256,
        )

    @strawberry.field(
        description="Where its bytes go, while they are still expected; null for members of other projects."
    )
    async def upload(self, info: Info) -> ImageUpload | None:
        # Uploads are seen in the image's own project alone.
        if self.status != ImageStatus.QUEUED or await info.context.loaders.roles.load(self.row.project_id) is None:
            return None
        row = await info.context.loaders.open_uploads.load(self.id)
        return None if row is None else ImageUpload.of(row)

    @strawberry.field(description="How far it is, while it is QUEUED or SAVING.")
    async def progress(self, info: Info) -> ImageProgress | None:
        if self.status not in _UNDER_WAY:
            return None
        upload = await info.context.loaders.open_uploads.load(self.id) if self.status == ImageStatus.QUEUED else None
        known = progress_on_board(info, self.id)
        # What was last heard of an upload says nothing any more once all its bytes are there.
        if known is not None and (known.phase is ImagePhase.UPLOADING) == (upload is not None):
            return known
        if upload is None:
            return _progress(ImagePhase.WAITING, 0, self.row.source_size, self.updated_at)
        receipt = await info.context.gateway.uploads.receipt(upload) or UploadReceipt()
        phase = ImagePhase.AWAITING_UPLOAD if receipt.last_byte_at is None else ImagePhase.UPLOADING
        return _progress(phase, receipt.received_bytes, upload.source.size, receipt.last_byte_at or self.created_at)

    @strawberry.field(description="Why it is in ERROR.")
    def failure(self) -> ImageFailure | None:
        failure = images.failure_of(self.row) if self.status == ImageStatus.ERROR else None
        return None if failure is None else ImageFailure.of(failure)

    @strawberry.field(description="What you may do with it now.")
    async def viewer_can(self, info: Info) -> ImagePermissions:
        project_id = self.seen_from or info.context.project_id
        held = await info.context.loaders.accesses(project_id).load(self.id) or Access()
        return ImagePermissions(
            launch=held.may(Right.LAUNCH) and access.is_launchable(self.row),
            edit=held.may(Right.EDIT),
            share=held.may(Right.SHARE) and sharing.is_shareable(self.row),
            delete=held.may(Right.MANAGE) and not self.protected,
        )

    @paged(
        description="With whom it is shared, or offered to, the first one first; null for members of other projects."
    )
    async def shares(self, info: Info, paging: Paging) -> Connection[ImageShare] | None:
        if await info.context.loaders.roles.load(self.row.project_id) is None:
            return None
        return await share_page(
            info,
            paging,
            read=lambda session, window: sharing.shares_of(session, self.id, window),
            count=lambda session: sharing.count_shares(session, self.id),
        )

    @strawberry.field(
        description="What a whole month of its bytes costs at today's rate: nothing, when another image of its project "
        "pays for the same ones. Null until it is ACTIVE, and for members of other projects."
    )
    async def monthly_cost(self, info: Info) -> Money | None:
        loaders, settings = info.context.loaders, info.context.gateway.settings
        if self.row.stored_size is None or await loaders.roles.load(self.row.project_id) is None:
            return None
        stored_size = self.row.stored_size if await loaders.paying.load(self.id) else 0
        return Money.of(billing.monthly_cost(stored_size, settings, now()), settings.archive_currency)

    @strawberry.field(
        description="From where the qcow2 can be downloaded, with range requests; null until the image is ACTIVE."
    )
    async def download(self, info: Info) -> SignedRequest | None:
        if self.row.blob_id is None or self.row.status != ImageStatus.ACTIVE:
            return None
        async with info.context.gateway.database.read() as session:
            blob = await session.get(Blob, self.row.blob_id)
        if blob is None:
            return None
        end, asker = download_end(info.context), asker_of(info.context, self.id)
        request = info.context.gateway.store.sign_download(blob.key, f"{self.name}.qcow2", end, asker)
        return signed_request(info.context, request)


@strawberry.type(name="ImageConnection", description="A page of images.")
class ImageConnection(Connection[Image]):
    as_of: EventCursor = strawberry.field(
        description="Feed position as of which the page was read: subscribe after it, and nothing is missed."
    )


def progress_on_board(info: Info, image_id: str) -> ImageProgress | None:
    """The newest progress that this process has heard of."""
    known = info.context.gateway.board.of(image_id)
    if known is None:
        return None
    report = known.report
    return ImageProgress(
        phase=ImagePhase(report.phase),
        percent=known.percent,
        bytes_done=ByteSize(report.bytes_done),
        bytes_total=None if report.bytes_total is None else ByteSize(report.bytes_total),
        eta_seconds=known.eta_seconds,
        updated_at=report.updated_at,
    )


def _progress(phase: ImagePhase, done: int, total: int | None, at: datetime) -> ImageProgress:
    return ImageProgress(
        phase=phase,
        percent=round(100 * done / total, 1) if total else 0.0,
        bytes_done=ByteSize(done),
        bytes_total=None if total is None else ByteSize(total),
        eta_seconds=None,
        updated_at=at,
    )
