"""Uploads: opened with the image, filled part by part around the gateway, sealed once, or given up."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import PurePosixPath

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import feed, images, jobs, quotas, tenancy
from app.database import Database, Transaction
from app.errors import (
    Conflict,
    ImageFailed,
    InvalidInput,
    NotFound,
    NotReady,
    PartsArriving,
    PartsMissing,
    StoreError,
    TooLarge,
    UnsupportedFormat,
    UploadClosed,
)
from app.lifecycle import (
    Architecture,
    DiskFormat,
    EventKind,
    FailureCode,
    ImageStatus,
    JobKind,
    ProjectRole,
    UploadState,
)
from app.models import IdempotencyKey, Image, Upload, new_id, now
from app.ports import ObjectStore, UploadHandle, UploadReceipt
from app.settings import GIB, MIB, TIB, Settings
from app.viewer import Viewer

log = structlog.get_logger()

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAXIMUM_FILE_NAME = 16_384
_MAXIMUM_KEY = 255

_FORMATS = {
    ".qcow2": DiskFormat.QCOW2,
    ".raw": DiskFormat.RAW,
    ".vmdk": DiskFormat.VMDK,
    ".vhd": DiskFormat.VHD,
    ".vhdx": DiskFormat.VHDX,
}
_TAKEN = "qcow2, raw, vmdk, vhd and vhdx are taken"


@dataclass(frozen=True, slots=True)
class NewImage:
    """What `createImage` is asked for with an upload as the source. Size in bytes, `sha256` of the file."""

    project_id: str
    name: str
    file_name: str
    size: int
    format: DiskFormat | None = None
    sha256: str | None = None
    multipart: bool | None = None
    os_family: str | None = None
    os_version: str | None = None
    architecture: Architecture | None = Architecture.X86_64
    labels: tuple[tuple[str, str], ...] = ()
    idempotency_key: str | None = None

    def fingerprint(self) -> str:
        """Equal for equal requests, whatever their idempotency key."""
        said = {name: value for name, value in asdict(self).items() if name != "idempotency_key"}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Uploads:
    """The use cases of uploads, over a database and an object store."""

    database: Database
    store: ObjectStore
    settings: Settings

    async def create_image(self, viewer: Viewer, new: NewImage) -> tuple[Image, int | None]:
        """Make an image that waits for its bytes; the feed position of that.

        Raises InvalidInput, UnsupportedFormat, TooLarge, QuotaExceeded, NotFound, Forbidden, Conflict.
        """
        image, disk_format, part_size = self._checked(viewer, new)
        async with self.database.read() as session:
            project = await tenancy.project_for(session, viewer, new.project_id, ProjectRole.MEMBER)
            made_before = await _made_before(session, new)
            if made_before is not None:
                return made_before
            # Asked again in the transaction: here it only spares the store what has to be refused anyway.
            await quotas.require_room(session, project, self.settings, new.size)
        upload = Upload(
            image_id=image.id,
            key="",
            size=new.size,
            part_size=part_size,
            format=disk_format,
            expires_at=self._expiry(now()),
        )
        upload.key = f"uploads/{upload.id}"
        handle = await self.store.open_upload(upload.key, upload.size, upload.part_size)
        upload.reference = handle.reference
        made: Image | None = None
        try:
            made, position = await self._insert(viewer, new, image, upload)
            return made, position
        finally:
            if made is not image:
                await self.store.abort_upload(handle)

    async def _insert(self, viewer: Viewer, new: NewImage, image: Image, upload: Upload) -> tuple[Image, int | None]:
        async with self.database.transaction() as tx:
            project = await tenancy.project_for(tx.session, viewer, new.project_id, ProjectRole.MEMBER)
            # The same request may have been served beside this one since it was looked for.
            made_before = await _made_before(tx.session, new)
            if made_before is not None:
                return made_before
            await quotas.require_room(tx.session, project, self.settings, new.size)
            tx.session.add(image)
            await tx.session.flush()
            tx.session.add(upload)
            if new.idempotency_key is not None:
                tx.session.add(
                    IdempotencyKey(
                        project_id=new.project_id,
                        key=new.idempotency_key,
                        fingerprint=new.fingerprint(),
                        image_id=image.id,
                    )
                )
            await feed.append(tx, EventKind.CREATED, image, actor=viewer.subject)
            return image, tx.position

    def _checked(self, viewer: Viewer, new: NewImage) -> tuple[Image, DiskFormat, int]:
        """The image as it will be stored, its format and the size of a part."""
        name = images.clean_name(new.name)
        labels = images.clean_labels(new.labels)
        os_family, os_version = new.os_family, new.os_version
        if os_family is not None:
            os_family, os_version = images.clean_os(os_family, os_version)
        if new.idempotency_key is not None:
            _check_key(new.idempotency_key)
        sha256 = _clean_sha256(new.sha256)
        disk_format = _declared_format(new)
        image = Image(
            id=new_id("img"),
            project_id=new.project_id,
            name=name,
            name_key=images.name_key(name),
            labels=labels,
            os_family=os_family,
            os_version=os_version,
            architecture=new.architecture,
            created_by=viewer.subject,
            source_file_name=clean_file_name(new.file_name),
            source_size=new.size,
            source_sha256=sha256,
            source_declared_format=disk_format,
            reserved_size=new.size,
        )
        return image, disk_format, self._part_size(new)

    def _part_size(self, new: NewImage) -> int:
        settings, field = self.settings, ("source", "upload", "size")
        if new.size < 1:
            raise InvalidInput("The file is empty.", field=field, hint="Upload a disk image.")
        if new.size > settings.upload_limit:
            raise TooLarge(
                f"{new.size} bytes are more than the {_spelled(settings.upload_limit)} that an upload may have.",
                field=field,
                hint="Make the file smaller, for example with qemu-img convert -O qcow2, which leaves out holes.",
            )
        if new.multipart is False:
            if new.size > settings.single_part_limit:
                raise TooLarge(
                    f"{new.size} bytes are more than the {_spelled(settings.single_part_limit)} of one part.",
                    field=field,
                    hint="Leave multipart out or make it true: then the file is sent in parts, of any size in all.",
                )
            return new.size
        least = -(-new.size // settings.maximum_parts)
        return max(settings.minimum_part_size, -(-least // MIB) * MIB)

    # ------------------------------------------------------------ while bytes arrive

    async def upload_for(
        self,
        session: AsyncSession,
        viewer: Viewer,
        upload_id: str,
        needed: ProjectRole = ProjectRole.READER,
    ) -> tuple[Upload, Image]:
        """An upload and its image. Raises NotFound, Forbidden."""
        upload = await session.get(Upload, upload_id) if tenancy.is_id(upload_id) else None
        absent = NotFound("There is no such upload.", field=("uploadId",), hint="image { upload { id } } names it.")
        if upload is None:
            raise absent
        try:
            image = await tenancy.image_for(session, viewer, upload.image_id, needed, field=("uploadId",))
        except NotFound:
            raise absent from None  # word for word the same: who may not see it must not learn that it is there
        return upload, image

    async def receipt(self, upload: Upload) -> UploadReceipt:
        """What of the upload has arrived; nothing when its bytes are gone."""
        try:
            return await self.store.receipt(handle_of(upload))
        except UploadClosed:
            return UploadReceipt()

    async def head_arrived(self, upload_key: str) -> None:
        """The beginning of an upload is there: have it looked at while the rest arrives."""
        async with self.database.transaction() as tx:
            query = select(Upload).where(Upload.key == upload_key, Upload.state == UploadState.OPEN)
            upload = (await tx.session.execute(query)).scalar_one_or_none()
            if upload is not None:
                jobs.start(tx, JobKind.INSPECT_HEAD, image_id=upload.image_id, upload=upload.id)

    # ------------------------------------------------------------ the ends

    async def complete(self, viewer: Viewer, upload_id: str) -> tuple[Image, int | None]:
        """All parts are there: seal the bytes and have them converted. Harmless when done before.

        Raises NotFound, Forbidden, NotReady (parts are missing or arriving), Conflict (aborted or expired).
        """
        async with self.database.read() as session:
            upload, image = await self.upload_for(session, viewer, upload_id, ProjectRole.MEMBER)
        if upload.state == UploadState.COMPLETED:
            return image, None
        if upload.state != UploadState.OPEN:
            raise _closed(upload.state)
        try:
            await self.store.seal_upload(handle_of(upload))
        except PartsMissing as missing:
            raise _parts_missing(missing.numbers, upload) from None
        except PartsArriving:
            raise NotReady(
                "A part is still arriving.",
                field=("uploadId",),
                hint="Wait until every PUT has been answered.",
            ) from None
        except UploadClosed:
            raise _closed(UploadState.EXPIRED) from None
        async with self.database.transaction() as tx:
            upload, image = await self.upload_for(tx.session, viewer, upload_id, ProjectRole.MEMBER)
            if upload.state == UploadState.OPEN:
                await mark_completed(tx, upload, image, actor=viewer.subject)
            elif upload.state != UploadState.COMPLETED:  # given up while its bytes were being sealed
                raise _closed(upload.state)
            return image, tx.position

    async def abort(self, viewer: Viewer, upload_id: str) -> tuple[Image, int | None]:
        """Give an upload up; its image ends in ERROR. Raises NotFound, Forbidden, Conflict."""
        async with self.database.transaction() as tx:
            upload, image = await self.upload_for(tx.session, viewer, upload_id, ProjectRole.MEMBER)
            if upload.state == UploadState.ABORTED:
                return image, None
            if upload.state != UploadState.OPEN:
                raise _closed(upload.state)
            await give_up(
                tx,
                image,
                UploadState.ABORTED,
                ImageFailed(
                    FailureCode.UPLOAD_ABORTED,
                    "The upload was aborted.",
                    "Delete this image, and create it again when you want it after all.",
                ),
            )
            return image, tx.position

    async def retry(self, viewer: Viewer, image_id: str) -> tuple[Image, int | None]:
        """Convert an image in ERROR again from the bytes that were kept. Raises NotFound, Forbidden, Conflict."""
        async with self.database.transaction() as tx:
            image = await tenancy.image_for(tx.session, viewer, image_id, ProjectRole.MEMBER)
            upload = await completed_upload(tx.session, image.id)
            if image.status != ImageStatus.ERROR:
                raise Conflict(f"The image is {image.status}, not in ERROR.", field=("imageId",))
            if upload is None or not image.failure_retriable:
                raise Conflict(
                    "Another attempt can't end better: " + (image.failure_message or ""),
                    field=("imageId",),
                    hint=image.failure_hint,
                )
            await images.move(tx, image, ImageStatus.SAVING, actor=viewer.subject, **NO_FAILURE)
            jobs.start(tx, JobKind.CONVERT, image_id=image.id, upload=upload.id)
            return image, tx.position

    async def sweep(self) -> None:
        """End the uploads that got no byte for too long, and finish those whose sealing was cut short."""
        async with self.database.read() as session:
            query = select(Upload).where(Upload.state == UploadState.OPEN)
            open_uploads = (await session.execute(query)).scalars().all()
        for upload in open_uploads:
            try:
                await self._settle(upload)
            except StoreError:  # one that can't be read must not keep the others from their ends
                log.warning("upload.unreadable", upload=upload.id, exc_info=True)

    async def _settle(self, upload: Upload) -> None:
        receipt = await self.receipt(upload)
        expires_at = max(upload.expires_at, self._expiry(receipt.last_byte_at or upload.created_at))
        if not receipt.sealed and expires_at == upload.expires_at > now():
            return
        async with self.database.transaction() as tx:
            current = await tx.session.get(Upload, upload.id)
            image = await tx.session.get(Image, upload.image_id)
            if current is None or image is None or current.state != UploadState.OPEN:
                return
            current.expires_at = expires_at
            if receipt.sealed:
                # The bytes were sealed, and the process died before it could say so.
                await mark_completed(tx, current, image)
            elif expires_at <= now():
                await give_up(tx, image, UploadState.EXPIRED, _expired(self.settings.upload_idle_seconds))

    def _expiry(self, last: datetime) -> datetime:
        return last + timedelta(seconds=self.settings.upload_idle_seconds)


NO_FAILURE: dict[str, None] = dict.fromkeys(
    ("failure_code", "failure_message", "failure_hint", "failure_retriable", "failed_at")
)


def handle_of(upload: Upload) -> UploadHandle:
    """The upload as the store knows it."""
    return UploadHandle(upload.key, upload.reference, upload.size, upload.part_size)


async def completed_upload(session: AsyncSession, image_id: str) -> Upload | None:
    """The upload of an image whose bytes are all there and still kept."""
    query = select(Upload).where(
        Upload.image_id == image_id,
        Upload.state == UploadState.COMPLETED,
        col(Upload.source_kept).is_(True),
    )
    return (await session.execute(query)).scalar_one_or_none()


async def open_uploads_of(session: AsyncSession, image_ids: Sequence[str]) -> dict[str, Upload]:
    """The uploads that still take bytes, by the id of their image."""
    query = select(Upload).where(col(Upload.image_id).in_(image_ids), Upload.state == UploadState.OPEN)
    return {upload.image_id: upload for upload in (await session.execute(query)).scalars()}


async def mark_completed(tx: Transaction, upload: Upload, image: Image, *, actor: str | None = None) -> None:
    """The bytes are sealed: have them converted."""
    upload.state = UploadState.COMPLETED
    await images.change(tx, image, ["upload", "progress"], actor=actor)
    jobs.start(tx, JobKind.CONVERT, image_id=image.id, upload=upload.id)


async def give_up(tx: Transaction, image: Image, state: UploadState, failure: ImageFailed) -> None:
    """End an open upload without an image; its bytes are freed and nothing stays reserved."""
    await jobs.cancel_of_image(tx, image.id)
    await images.drop_source(tx, image, state)
    await images.fail(tx, image, failure, reserved_size=0)


def clean_file_name(file_name: str) -> str:
    """What a file was called, for people to read. It is data and never becomes a path. Raises InvalidInput."""
    if not file_name.strip() or len(file_name) > _MAXIMUM_FILE_NAME:
        raise InvalidInput(
            f"A file name has 1 to {_MAXIMUM_FILE_NAME} characters.", field=("source", "upload", "fileName")
        )
    return file_name


def _declared_format(new: NewImage) -> DiskFormat:
    """The format that the request or the file's name declares; raw is never guessed."""
    suffix = PurePosixPath(new.file_name.replace("\0", "").lower()).suffix
    by_name = _FORMATS.get(suffix)
    declared = new.format or by_name
    if declared is None:
        raise UnsupportedFormat(
            f"The file's name does not tell its format: {_TAKEN}.",
            field=("source", "upload", "format"),
            hint="Say format. `qemu-img info FILE` tells it; an archive has to be unpacked first.",
        )
    return declared


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= _MAXIMUM_KEY:
        raise InvalidInput(f"An idempotency key has 1 to {_MAXIMUM_KEY} characters.", field=("idempotencyKey",))
    images.require_text(key, ("idempotencyKey",))


def _clean_sha256(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    cleaned = sha256.strip().lower()
    if not _SHA256.fullmatch(cleaned):
        raise InvalidInput(
            "A SHA-256 has 64 hexadecimal digits.",
            field=("source", "upload", "sha256"),
            hint="sha256sum FILE",
        )
    return cleaned


async def _made_before(session: AsyncSession, new: NewImage) -> tuple[Image, int | None] | None:
    """The image that an earlier request with the same key made. Raises Conflict, NotFound."""
    if new.idempotency_key is None:
        return None
    known = await session.get(IdempotencyKey, (new.project_id, new.idempotency_key))
    if known is None:
        return None
    if known.fingerprint != new.fingerprint():
        raise Conflict(
            "The idempotency key was used for another request.",
            field=("idempotencyKey",),
            hint="Use a new key for what is a new image.",
        )
    image = await session.get_one(Image, known.image_id)
    if image.deleted_at is not None:
        raise NotFound(
            "The image that was made with this idempotency key has been deleted.",
            field=("idempotencyKey",),
            hint="Use a new key.",
        )
    return image, None


def _parts_missing(numbers: Sequence[int], upload: Upload) -> NotReady:
    named = ", ".join(str(number) for number in numbers[:5]) + (", …" if len(numbers) > 5 else "")
    return NotReady(
        f"{len(numbers)} of {handle_of(upload).part_count} parts have not arrived: {named}.",
        field=("uploadId",),
        hint="upload { parts(status: MISSING) } tells where to send them.",
    )


def _closed(state: UploadState) -> Conflict:
    return Conflict(
        f"The upload is {state}.", field=("uploadId",), hint="Create the image again to send its bytes anew."
    )


def _expired(idle_seconds: float) -> ImageFailed:
    return ImageFailed(
        FailureCode.UPLOAD_EXPIRED,
        f"The upload got no byte for {idle_seconds / 3600:g} hours and has expired.",
        "Delete this image and upload the file again; `images upload` goes on by itself after a break.",
    )


def _spelled(size: int) -> str:
    return f"{size // TIB} TiB" if size >= TIB else f"{size / GIB:g} GiB"
