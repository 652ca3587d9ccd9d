"""An image: its source, progress, failure, permissions and connections."""

from datetime import datetime
from typing import Annotated

import strawberry

from app import models
from app.catalog import images, promotions, sharing
from app.catalog.bill import billing
from app.catalog.feed.details import Failure
from app.catalog.people import access
from app.catalog.people.access import Access, Right
from app.catalog.servers import seeing
from app.catalog.uploads import receipt_of
from app.graphql.context import Info
from app.graphql.scalars import ByteSize, EventCursor
from app.graphql.types.billing import Money
from app.graphql.types.booting import BootCheck, BootReadiness, OperatingSystem
from app.graphql.types.connections import Connection, Paging, page_fields, paged
from app.graphql.types.image_pages import ImagePage, image_page
from app.graphql.types.node import Node, made_of
from app.graphql.types.servers import Server, Volume, server_page
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
from app.models import Blob, ImageRow, now
from app.ports import UploadReceipt

_UNDER_WAY = (ImageStatus.QUEUED, ImageStatus.SAVING)


@strawberry.type(description="A key and a value that the owner attached to an image.")
class Label:
    key: str = strawberry.field(description="Key of the label, unique within the image.")
    value: str = strawberry.field(description="Value of the label.")


@strawberry.type(
    description="What you may do with an image now: in the project that you query, else in the project that "
    "the header X-Project names, else in any of your projects."
)
class ImagePermissions:
    launch: bool = strawberry.field(description="Whether you may launch a server from it or copy it.")
    edit: bool = strawberry.field(description="Whether you may change its name, operating system and labels.")
    share: bool = strawberry.field(description="Whether you may share it with another project.")
    delete: bool = strawberry.field(description="Whether you may delete it.")


@strawberry.type(description="The image was made from an uploaded file.")
class UploadSource:
    file_name: str = strawberry.field(description="Name of the file. It is data, never a path.")
    declared_format: DiskFormat | None = strawberry.field(
        description="Format that was declared, by `format` or by the file name."
    )
    detected_format: DiskFormat | None = strawberry.field(
        description="Format that inspection found; null until the image is ACTIVE."
    )
    size: ByteSize = strawberry.field(description="Size of the file, in bytes.")
    sha256: str | None = strawberry.field(
        description="Declared SHA-256 of the file, in lower-case hex; null if none was declared."
    )


@strawberry.type(description="The image is a copy of another image and has all its bytes.")
class CopySource:
    image_name: str = strawberry.field(description="Name of the original when it was copied.")
    sha256: str | None = strawberry.field(
        description="SHA-256 of the copied qcow2, in lower-case hex; null until it is calculated, shortly after "
        "the original becomes ACTIVE."
    )
    image_id: strawberry.Private[str]

    @strawberry.field(description="The original; null if it has been deleted or you can't see it.")
    async def image(self, info: Info) -> Annotated["Image", strawberry.lazy("app.graphql.types.images")] | None:
        row = await info.context.loaders.images.load(self.image_id)
        return None if row is None else Image.of(row)


_CAPTURED_AT = "The moment whose bytes the image has; null until the host has taken the bytes."
_QUIET = (
    "Whether the guest's file systems were frozen at that moment, or no guest was running; otherwise, they are as "
    "after a power failure. Null until the host has taken the bytes."
)


@strawberry.type(description="The image has the bytes of a volume of a server at one moment.")
class ServerSource:
    server_name: str = strawberry.field(description="Name of the server at that moment.")
    captured_at: datetime | None = strawberry.field(description=_CAPTURED_AT)
    quiet: bool | None = strawberry.field(description=_QUIET)
    server_id: strawberry.Private[str]

    @strawberry.field(description="The server; null if it has been deleted or you can't see it.")
    async def server(self, info: Info) -> Server | None:
        row = await info.context.loaders.servers.load(self.server_id)
        return None if row is None else Server.of(row)


@strawberry.type(description="The image has the bytes that a volume had while no server used it.")
class VolumeSource:
    volume_name: str = strawberry.field(description="Name of the volume at that moment.")
    captured_at: datetime | None = strawberry.field(description=_CAPTURED_AT)
    quiet: bool | None = strawberry.field(description=_QUIET)


@strawberry.type(description="The image was promoted from a snapshot and has all its bytes.")
class SnapshotSource:
    snapshot_name: str = strawberry.field(description="Name of the snapshot when it was promoted.")
    snapshot_id: strawberry.Private[str]

    @strawberry.field(description="The snapshot, which is kept as long as the image; null if you can't see it.")
    async def snapshot(self, info: Info) -> Annotated["Image", strawberry.lazy("app.graphql.types.images")] | None:
        row = await info.context.loaders.images.load(self.snapshot_id)
        return None if row is None else Image.of(row)


ImageSource = Annotated[
    UploadSource | CopySource | ServerSource | VolumeSource | SnapshotSource,
    strawberry.union("ImageSource", description="What an image was made from."),
]


@strawberry.type(description="Progress of an image that is QUEUED or SAVING.")
class ImageProgress:
    phase: ImagePhase = strawberry.field(description="Phase that the image is in.")
    percent: float = strawberry.field(description="How much of the phase is done, in percent: 0 to 100.")
    bytes_done: ByteSize = strawberry.field(description="Bytes processed in the phase so far.")
    bytes_total: ByteSize | None = strawberry.field(description="Bytes to process in the phase; null if unknown.")
    eta_seconds: int | None = strawberry.field(
        description="Estimated time until the phase ends, in seconds; null if unknown."
    )
    updated_at: datetime = strawberry.field(description="When this progress was measured.")


@strawberry.type(description="Why an image is in ERROR, and what to do about it.")
class ImageFailure:
    code: FailureCode = strawberry.field(description="Kind of failure.")
    message: str = strawberry.field(description="What went wrong, as text for people.")
    hint: str = strawberry.field(description="What to do about it, as text for people.")
    retriable: bool = strawberry.field(description="Whether `retryImage` can help.")
    occurred_at: datetime = strawberry.field(description="When the image failed.")

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


@made_of(models.Image)
@strawberry.type(description="A disk image. Servers can be launched from it once it is ACTIVE.")
class Image(Node):
    revision: int = strawberry.field(
        description="Number that grows by one with each change. Send it as `expectedRevision` so that a change "
        "made in the meantime is not overwritten."
    )
    name: str = strawberry.field(description="Name, 1 to 255 characters. Several images may have the same name.")
    type: ImageType = strawberry.field(description="Kind of image: STOCK, CUSTOM or SNAPSHOT.")
    status: ImageStatus = strawberry.field(description="Lifecycle status: QUEUED, SAVING, ACTIVE or ERROR.")
    visibility: ImageVisibility = strawberry.field(description="Who can see the image.")
    architecture: Architecture | None = strawberry.field(
        description="Processor architecture that the image is made for, as its owner states it, or else as found on "
        "its disk; null if neither is known."
    )
    virtual_size: ByteSize | None = strawberry.field(
        description="Size of the disk that a server sees, in bytes; null until the image is ACTIVE."
    )
    min_boot_disk_gib: int | None = strawberry.field(
        description="Size of the smallest boot disk, in GiB: `virtualSize` rounded up. Null until the image is ACTIVE."
    )
    stored_size: ByteSize | None = strawberry.field(
        description="Storage that the image takes, in bytes: the clusters of its qcow2. Null until the image is ACTIVE."
    )
    sha256: str | None = strawberry.field(
        description="SHA-256 of the stored qcow2, in lower-case hex; null until it is calculated, shortly after "
        "the image becomes ACTIVE."
    )
    protected: bool = strawberry.field(description="Whether the image is protected against deletion.")
    warnings: list[str] = strawberry.field(
        description="What the owner should know, for example what the conversion left out. Empty until the image "
        "is ACTIVE."
    )
    created_at: datetime = strawberry.field(description="When the image was created.")
    updated_at: datetime = strawberry.field(description="When the image last changed.")
    row: strawberry.Private[models.Image | ImageRow]
    seen_from: strawberry.Private[str | None] = None

    @staticmethod
    def of(row: models.Image | ImageRow, seen_from: str | None = None) -> "Image":
        """The node of a row; `seen_from` is the project that the query names, if it names one."""
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
            min_boot_disk_gib=None if size is None else images.minimum_boot_disk(size),
            stored_size=None if row.stored_size is None else ByteSize(row.stored_size),
            sha256=row.sha256,
            protected=row.protected,
            warnings=row.warnings,
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
            seen_from=seen_from,
        )

    @strawberry.field(
        description="Operating system on the image, as its owner states it, or else as found on its disk; null if "
        "neither is known."
    )
    def os(self) -> OperatingSystem | None:
        return OperatingSystem.of(self.row.os_family, self.row.os_version)

    @strawberry.field(
        description="Whether the image is ready to boot as a server, as found on its disk; null until it is checked, "
        "shortly after it became ACTIVE."
    )
    async def boot_readiness(self, info: Info) -> BootReadiness | None:
        blob = await self._blob(info)
        return None if blob is None else BootReadiness.of(blob)

    @strawberry.field(
        description="Whether a server that was launched from the image came up: the newest check of its bytes, "
        "requested with `verifyBoot`. Null if there was none yet."
    )
    async def boot_checked(self, info: Info) -> BootCheck | None:
        blob = await self._blob(info)
        return None if blob is None else BootCheck.of(blob)

    async def _blob(self, info: Info) -> Blob | None:
        return await info.context.loaders.blobs.load(self.row.blob_id) if self.row.blob_id else None

    @strawberry.field(description="Labels of the image, by key.")
    def labels(self) -> list[Label]:
        return [Label(key=label["key"], value=label["value"]) for label in self.row.labels]

    @strawberry.field(description="The project that owns the image; null if you have no role in that project.")
    async def project(self, info: Info) -> Project | None:
        row = await info.context.loaders.projects.load(self.row.project_id)
        return None if row is None else Project.of(row)

    @strawberry.field(description="What the image was made from.")
    def source(self) -> ImageSource | None:
        return _source_of(self.row)

    @strawberry.field(
        description="The volume that the image has the bytes of; null if it was not captured from one, and if the "
        "volume has been deleted or you can't see it."
    )
    async def volume(self, info: Info) -> Volume | None:
        row = await info.context.loaders.volumes.load(self.row.volume_id) if self.row.volume_id else None
        return None if row is None else Volume.of(row)

    @paged(
        description="Images that the snapshot was promoted to, oldest first; it can't be deleted before them. Null if "
        "the image is not a snapshot, and if you have no role in its project."
    )
    async def promoted_to(
        self, info: Info, paging: Paging
    ) -> Annotated["ImageConnection", strawberry.lazy("app.graphql.types.images")] | None:
        if self.type != ImageType.SNAPSHOT or await info.context.loaders.roles.load(self.row.project_id) is None:
            return None
        page: ImageConnection = await image_page(
            info,
            paging,
            read=lambda session, window: promotions.page_of(session, self.id, window),
            count=lambda session: promotions.count(session, self.id),
        )
        return page

    @strawberry.field(
        description="The upload of the image's file while bytes are expected; null otherwise, and if you have no role "
        "in the image's project."
    )
    async def upload(self, info: Info) -> ImageUpload | None:
        # Uploads are seen in the image's own project alone.
        if self.status != ImageStatus.QUEUED or await info.context.loaders.roles.load(self.row.project_id) is None:
            return None
        row = await info.context.loaders.open_uploads.load(self.id)
        return None if row is None else ImageUpload.of(row)

    @strawberry.field(description="Progress while the image is QUEUED or SAVING; null otherwise.")
    async def progress(self, info: Info) -> ImageProgress | None:
        if self.status not in _UNDER_WAY:
            return None
        upload = await info.context.loaders.open_uploads.load(self.id) if self.status == ImageStatus.QUEUED else None
        known = current_progress(info, self.id)
        # The last progress of an upload is out of date once all its bytes have arrived.
        if known is not None and (known.phase is ImagePhase.UPLOADING) == (upload is not None):
            return known
        if upload is None:
            phase = ImagePhase.WAITING if self.row.captured_at is None else ImagePhase.CAPTURING
            return _progress(phase, 0, self.row.source_size, self.updated_at)
        receipt = await receipt_of(info.context.catalogue, upload) or UploadReceipt()
        phase = ImagePhase.AWAITING_UPLOAD if receipt.last_byte_at is None else ImagePhase.UPLOADING
        return _progress(phase, receipt.received_bytes, upload.source.size, receipt.last_byte_at or self.created_at)

    @strawberry.field(description="Why the image failed; null unless it is in ERROR.")
    def failure(self) -> ImageFailure | None:
        failure = images.failure_of(self.row) if self.status == ImageStatus.ERROR else None
        return None if failure is None else ImageFailure.of(failure)

    @strawberry.field(description="What you may do with the image now.")
    async def viewer_can(self, info: Info) -> ImagePermissions:
        project_id = self.seen_from or info.context.project_id
        held = await info.context.loaders.accesses(project_id).load(self.id) or Access()
        return ImagePermissions(
            launch=held.may(Right.LAUNCH) and access.is_launchable(self.row),
            edit=held.may(Right.EDIT),
            share=held.may(Right.SHARE) and sharing.is_shareable(self.row),
            delete=held.may(Right.MANAGE) and not self.protected and not await self._is_pinned(info),
        )

    async def _is_pinned(self, info: Info) -> bool:
        return self.type == ImageType.SNAPSHOT and bool(await info.context.loaders.pinned.load(self.id))

    @paged(
        description="Shares of the image with other projects, and offers to them, oldest first; null if you have "
        "no role in the image's project."
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

    @paged(
        description="Servers that were launched from the image, oldest first: those of projects that you have a role "
        "in."
    )
    async def used_by(self, info: Info, paging: Paging) -> Connection[Server] | None:
        viewer = info.context.viewer
        return await server_page(
            info,
            paging,
            read=lambda session, window: seeing.servers_from(session, viewer, self.id, window),
            count=lambda session: seeing.count_servers_from(session, viewer, self.id),
        )

    @strawberry.field(
        description="When a server was last launched from the image, in any project; null if none was, and if you "
        "have no role in the image's project."
    )
    async def last_launched_at(self, info: Info) -> datetime | None:
        if await info.context.loaders.roles.load(self.row.project_id) is None:
            return None
        launched: datetime | None = self.row.last_launched_at
        return launched

    @strawberry.field(
        description="Cost of storing the image for a whole month at today's rate; 0 if another image of its "
        "project pays for the same bytes. Null until the image is ACTIVE, and if you have no role in "
        "its project."
    )
    async def monthly_cost(self, info: Info) -> Money | None:
        loaders, settings = info.context.loaders, info.context.catalogue.settings
        if self.row.stored_size is None or await loaders.roles.load(self.row.project_id) is None:
            return None
        stored_size = self.row.stored_size if await loaders.paying.load(self.id) else 0
        return Money.of(billing.monthly_cost(stored_size, settings, now()), settings.archive_currency)

    @strawberry.field(
        description="Request that downloads the qcow2; range requests are supported. Null unless the image is ACTIVE."
    )
    async def download(self, info: Info) -> SignedRequest | None:
        if self.row.blob_id is None or self.row.status != ImageStatus.ACTIVE:
            return None
        async with info.context.catalogue.database.read() as session:
            blob = await session.get(Blob, self.row.blob_id)
        if blob is None:
            return None
        end, asker = download_end(info.context), asker_of(info.context, self.id)
        request = info.context.catalogue.store.sign_download(blob.key, f"{self.name}.qcow2", end, asker)
        return signed_request(info.context, request)


@made_of(ImagePage)
@strawberry.type(name="ImageConnection", description="A page of images.")
class ImageConnection(Connection[Image]):
    as_of: EventCursor = strawberry.field(
        description="Feed position at which the page was read. Subscribe after it and you miss no event."
    )

    @staticmethod
    def of(found: ImagePage) -> "ImageConnection":
        """The connection of a page."""
        fields = page_fields(found.page, [Image.of(row) for row in found.page.rows], found.cursor_of)
        return ImageConnection(as_of=found.as_of, count=found.count, **fields)


def _source_of(row: models.Image | ImageRow) -> ImageSource:
    match row.source_kind:
        case SourceKind.IMAGE:
            return CopySource(image_name=row.source_name or "", sha256=row.sha256, image_id=row.source_image_id or "")
        case SourceKind.SNAPSHOT:
            return SnapshotSource(snapshot_name=row.source_name or "", snapshot_id=row.source_image_id or "")
        case SourceKind.SERVER:
            return ServerSource(
                server_name=row.source_name or "",
                captured_at=row.captured_at,
                quiet=row.quiet,
                server_id=row.source_server_id or "",
            )
        case SourceKind.VOLUME:
            return VolumeSource(volume_name=row.source_name or "", captured_at=row.captured_at, quiet=row.quiet)
        case _:
            return UploadSource(
                file_name=row.source_file_name or "",
                declared_format=row.source_declared_format,
                detected_format=row.source_detected_format,
                size=ByteSize(row.source_size or 0),
                sha256=row.source_sha256,
            )


def current_progress(info: Info, image_id: str) -> ImageProgress | None:
    """The newest progress that this process has received, if any."""
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
