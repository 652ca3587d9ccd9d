"""Uploads: opened when the image is created, sent part by part directly to the store, then sealed once or aborted."""

from collections.abc import Sequence
from datetime import timedelta

import structlog
from sqlalchemy import bindparam
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import images, sources
from app.catalog.catalogue import Catalogue, Written
from app.catalog.people import access, tenancy
from app.catalog.people.access import Right
from app.catalog.people.tenancy import LOCKED
from app.catalog.revisions import require_revision
from app.catalog.work import jobs
from app.catalog.work.kinds import Convert, InspectHead
from app.database.sessions import Transaction
from app.errors import (
    Conflict,
    ImageFailed,
    NotFound,
    NotReady,
    PartsArriving,
    PartsMissing,
    StoreError,
    UploadClosed,
    WrongPart,
)
from app.lifecycle import Aspect, FailureCode, ImageStatus, ProjectRole, UploadState
from app.models import Image, Source, Upload, now
from app.ports import UploadHandle, UploadReceipt
from app.sizes import counted, exactly
from app.viewer import Viewer

log = structlog.get_logger()


class UploadEnded(Conflict):
    """Raised when an upload has ended and can't do what was requested. `image` is its image."""

    def __init__(self, message: str, image: Image, *, hint: str | None) -> None:
        super().__init__(message, field=("uploadId",), hint=hint)
        self.image = image


# ---------------------------------------------------------------- while bytes arrive

# Built once: every part that arrives needs them.
_WITH_IMAGE = select(Upload, Image).join(Image).where(Upload.id == bindparam("id"))
_OPEN_SOURCE = (
    select(Source.id, Source.image_id)
    .join(Upload)
    .where(Source.key == bindparam("key"), Upload.state == UploadState.OPEN)
)


async def upload_for(
    session: AsyncSession,
    viewer: Viewer,
    upload_id: str,
    needed: ProjectRole = ProjectRole.READER,
    *,
    lock: bool = False,
) -> tuple[Upload, Image]:
    """An upload and its image, both locked until the transaction ends with `lock`. Raises NotFound, Forbidden.

    Only members of the image's own project see it: a share does not include it.
    """
    absent = NotFound("There is no such upload.", field=("uploadId",), hint="Read the id from image { upload { id } }.")
    upload: Upload | None = None
    if not tenancy.is_id(upload_id):
        raise absent
    if lock:
        # Without its image: once it is locked, the session would keep the values that it had before.
        upload = await session.get(Upload, upload_id)
    elif found := (await session.execute(_WITH_IMAGE, {"id": upload_id})).one_or_none():
        upload, image = found  # the session keeps the image for the check, as long as it is referenced
    if upload is None:
        raise absent
    try:
        image, held = await access.image_and_access(
            session, viewer, upload.image_id, Right.SEE, field=("uploadId",), lock=lock
        )
    except NotFound:
        raise absent from None  # the same words: a caller who may not see it must not learn that it exists
    if held.own is None:
        raise absent
    tenancy.require_role(held.own, needed, ("uploadId",))
    if lock:  # it was read before the image was locked
        await session.refresh(upload)
    return upload, image


async def receipt_of(catalogue: Catalogue, upload: Upload) -> UploadReceipt | None:
    """Which parts of an open upload have arrived; None if its bytes are gone. A wrong part ends the upload."""
    try:
        return await catalogue.store.receipt(handle_of(upload))
    except UploadClosed:
        return None
    except WrongPart as wrong:
        await _end(catalogue, upload, UploadState.REFUSED, _wrong_part(wrong))
        return None


async def received_bytes(catalogue: Catalogue, upload: Upload) -> int:
    """Bytes of the parts of an open upload that have arrived. A wrong part ends the upload."""
    receipt = await receipt_of(catalogue, upload)
    return 0 if receipt is None else receipt.received_bytes


async def head_arrived(catalogue: Catalogue, upload_key: str) -> None:
    """Start a job that inspects the beginning of an upload, which has arrived, while the rest arrives."""
    async with catalogue.database.transaction() as tx:
        source = (await tx.session.execute(_OPEN_SOURCE, {"key": upload_key})).one_or_none()
        if source is not None:
            jobs.start(tx, InspectHead(source=source.id), image_id=source.image_id)


# ---------------------------------------------------------------- the ends


async def complete_upload(catalogue: Catalogue, viewer: Viewer, upload_id: str) -> Written[Image]:
    """Seal the bytes of an upload and start their conversion. A completed upload is left unchanged.

    Raises NotFound, Forbidden, NotReady (parts are missing or arriving), UploadEnded (aborted, refused or expired).
    """
    async with catalogue.database.read() as session:
        upload, image = await upload_for(session, viewer, upload_id, ProjectRole.MEMBER)
    if upload.state == UploadState.COMPLETED:
        return Written(image, None)
    if upload.state != UploadState.OPEN:
        raise ended(upload, image)
    await _seal(catalogue, upload)
    async with catalogue.database.transaction() as tx:
        upload, image = await upload_for(tx.session, viewer, upload_id, ProjectRole.MEMBER, lock=True)
        if upload.state == UploadState.OPEN:
            await mark_completed(tx, upload, image, actor=viewer.subject)
    # Raised after the transaction: rows that were rolled back can no longer be read.
    if upload.state != UploadState.COMPLETED:  # expired, refused or aborted in the meantime
        raise ended(upload, image)
    return Written(image, tx.position)


async def _seal(catalogue: Catalogue, upload: Upload) -> None:
    """Seal the bytes of an open upload, or end it if the store lost it or has a wrong part. Raises NotReady."""
    try:
        await catalogue.store.seal_upload(handle_of(upload))
    except PartsMissing as missing:
        raise _parts_missing(missing.numbers, upload) from None
    except PartsArriving:
        raise NotReady(
            "A part is still arriving.",
            field=("uploadId",),
            hint="Wait until every PUT request has returned.",
        ) from None
    except UploadClosed:
        await _end(catalogue, upload, UploadState.EXPIRED, _UPLOAD_DROPPED)
    except WrongPart as wrong:
        await _end(catalogue, upload, UploadState.REFUSED, _wrong_part(wrong))


async def abort_upload(catalogue: Catalogue, viewer: Viewer, upload_id: str) -> Written[Image]:
    """Abort an upload; its image becomes ERROR. Raises NotFound, Forbidden, UploadEnded."""
    return await catalogue.database.freeing(lambda: _abort(catalogue, viewer, upload_id))


async def _abort(catalogue: Catalogue, viewer: Viewer, upload_id: str) -> Written[Image]:
    async with catalogue.database.transaction() as tx:
        upload, image = await upload_for(tx.session, viewer, upload_id, ProjectRole.MEMBER, lock=True)
        if upload.state == UploadState.OPEN:
            await give_up(tx, image, UploadState.ABORTED, _ABORTED, actor=viewer.subject)
    if upload.state != UploadState.ABORTED:
        raise ended(upload, image)
    return Written(image, tx.position)


async def retry_image(
    catalogue: Catalogue, viewer: Viewer, image_id: str, expected_revision: int | None
) -> Written[Image]:
    """Convert an image in ERROR again from the bytes that were kept.

    Raises NotFound, Forbidden, StaleRevision, Conflict.
    """
    async with catalogue.database.transaction() as tx:
        image = await access.image_for(tx.session, viewer, image_id, Right.MANAGE, lock=True)
        require_revision(image.revision, expected_revision)
        source = await sources.kept_source(tx.session, image.id)
        if image.status != ImageStatus.ERROR:
            raise Conflict(f"The image is {image.status}, not in ERROR.", field=("imageId",))
        if source is None or not image.failure_retriable:
            raise Conflict(
                "Retrying can't succeed: " + (image.failure_message or ""),
                field=("imageId",),
                hint=image.failure_hint,
            )
        await images.move(tx, image, ImageStatus.SAVING, actor=viewer.subject, **NO_FAILURE)
        jobs.start(tx, Convert(source=source.id), image_id=image.id)
    return Written(image, tx.position)


async def sweep(catalogue: Catalogue) -> None:
    """Expire uploads that have been idle for too long, and complete those whose sealing was interrupted."""
    async with catalogue.database.read() as session:
        query = select(Upload).where(Upload.state == UploadState.OPEN)
        open_uploads = (await session.execute(query)).scalars().all()
    for upload in open_uploads:
        try:
            await _settle(catalogue, upload)
        except StoreError:  # an unreadable upload must not block the others
            log.warning("upload.unreadable", upload=upload.id, exc_info=True)


async def _settle(catalogue: Catalogue, upload: Upload) -> None:
    try:
        receipt = await catalogue.store.receipt(handle_of(upload))
    except UploadClosed:
        return await _end(catalogue, upload, UploadState.EXPIRED, _UPLOAD_DROPPED)
    except WrongPart as wrong:
        return await _end(catalogue, upload, UploadState.REFUSED, _wrong_part(wrong))
    idle = timedelta(seconds=catalogue.settings.upload_idle_seconds)
    expires_at = max(upload.expires_at, (receipt.last_byte_at or upload.created_at) + idle)
    if not receipt.sealed and expires_at == upload.expires_at > now():
        return
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get(Image, upload.image_id, with_for_update=LOCKED)
        current = await tx.session.get(Upload, upload.id)
        if current is None or image is None or current.state != UploadState.OPEN:
            return
        current.expires_at = expires_at
        if receipt.sealed:
            # The bytes were sealed, and the process died before it could commit that.
            await mark_completed(tx, current, image)
        elif expires_at <= now():
            await give_up(tx, image, UploadState.EXPIRED, _expired(catalogue.settings.upload_idle_seconds))


async def _end(catalogue: Catalogue, upload: Upload, state: UploadState, failure: ImageFailed) -> None:
    """End an upload because of the state of its bytes in the store, unless it has already ended."""
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get(Image, upload.image_id, with_for_update=LOCKED)
        current = await tx.session.get(Upload, upload.id)
        if current is None or image is None or current.state != UploadState.OPEN:
            return
        await give_up(tx, image, state, failure)


# ---------------------------------------------------------------- for other use cases


NO_FAILURE: dict[str, None] = dict.fromkeys(
    ("failure_code", "failure_message", "failure_hint", "failure_retriable", "failed_at")
)


def handle_of(upload: Upload) -> UploadHandle:
    """The handle by which the store knows an upload."""
    source = upload.source
    return UploadHandle(source.key, upload.reference, source.size, upload.part_size)


async def open_uploads_of(session: AsyncSession, image_ids: Sequence[str]) -> dict[str, Upload]:
    """The open uploads of these images, by the id of the image."""
    query = select(Upload).where(col(Upload.image_id).in_(image_ids), Upload.state == UploadState.OPEN)
    return {upload.image_id: upload for upload in (await session.execute(query)).scalars()}


async def mark_completed(tx: Transaction, upload: Upload, image: Image, *, actor: str | None = None) -> None:
    """Mark an upload as completed, and start its conversion. The image's row must be locked."""
    upload.state = UploadState.COMPLETED
    await images.change(tx, image, [Aspect.UPLOAD, Aspect.PROGRESS], actor=actor)
    jobs.start(tx, Convert(source=upload.source_id), image_id=image.id)


async def give_up(
    tx: Transaction, image: Image, state: UploadState, failure: ImageFailed, *, actor: str | None = None
) -> None:
    """End an open upload, set its image to ERROR, and free its bytes and its quota. The image's row must be locked."""
    await jobs.cancel_of_image(tx, image.id)
    await sources.drop_source(tx, image, state)
    await images.fail(tx, image, failure, actor=actor, reserved_size=0)


def _parts_missing(numbers: Sequence[int], upload: Upload) -> NotReady:
    named = ", ".join(str(number) for number in numbers[:5]) + (", …" if len(numbers) > 5 else "")
    count = handle_of(upload).part_count
    return NotReady(
        f"{len(numbers)} of {counted(count, 'part')} {'is' if len(numbers) == 1 else 'are'} missing: {named}.",
        field=("uploadId",),
        hint="Send the parts that upload { parts(status: MISSING) } lists.",
    )


def ended(upload: Upload, image: Image) -> UploadEnded:
    """The error for an upload that is not open: the failure of its image, if the image has failed."""
    if upload.state == UploadState.COMPLETED or image.failure_message is None:
        return UploadEnded(f"The upload is {upload.state}.", image, hint="Delete the image if you no longer want it.")
    return UploadEnded(image.failure_message, image, hint=image.failure_hint)


_ABORTED = ImageFailed(
    FailureCode.UPLOAD_ABORTED,
    "The upload was aborted.",
    "Delete this image and create a new one to upload the file again.",
)
# MinIO discards uploads that are a day old.
_UPLOAD_DROPPED = ImageFailed(
    FailureCode.UPLOAD_EXPIRED,
    "The object store discarded the upload because it was open for too long.",
    "Delete this image and upload the file again, sending more parts at once.",
)


def _wrong_part(wrong: WrongPart) -> ImageFailed:
    due = "the upload has no such part" if wrong.expected is None else f"it should have {exactly(wrong.expected)}"
    return ImageFailed(
        FailureCode.UPLOAD_REFUSED,
        f"Part {wrong.number} has {exactly(wrong.size)}, but {due}. The upload was refused.",
        "Create the image again and send every part exactly as its `request` says.",
    )


def _expired(idle_seconds: float) -> ImageFailed:
    return ImageFailed(
        FailureCode.UPLOAD_EXPIRED,
        f"The upload has expired: no byte arrived for {counted(idle_seconds / 3600, 'hour')}.",
        "Delete this image and upload the file again; `images upload` resumes after an interruption.",
    )
