"""Creates images: from a file to upload, from a server, or from an image whose bytes they use (architecture, rule 8).

A copy takes the bytes of an image and is independent of it. A promotion takes those of a snapshot, and keeps it.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import idempotency, quotas
from app.catalog.bill import ledger
from app.catalog.catalogue import Catalogue, Written
from app.catalog.feed import event_log
from app.catalog.feed.details import Created
from app.catalog.new_images import NewCopy, NewImage, NewPromotion, NewServerImage, NewUpload, described, draft
from app.catalog.people import access, tenancy
from app.catalog.servers import boot_checks
from app.catalog.snapshots.creating import create_from_server
from app.database.sessions import Transaction
from app.errors import Forbidden, InvalidInput, UserMistake
from app.lifecycle import ImageStatus, ImageType, ProjectRole, SourceKind
from app.models import Blob, Image, Project, Upload
from app.viewer import Viewer

_SIZE = ("source", "upload", "size")
_ORIGINAL = ("source", "image", "imageId")
_SNAPSHOT = ("source", "snapshot", "snapshotId")
# Columns that a copy or a promotion always takes from its original.
_INHERITED = (
    "architecture",
    "size_key",
    "virtual_size",
    "stored_size",
    "blob_id",
    "source_file_name",
    "source_size",
    "source_sha256",
    "source_declared_format",
    "source_detected_format",
    "warnings",
)


async def create_image(
    catalogue: Catalogue, viewer: Viewer, new: NewUpload | NewCopy | NewPromotion | NewServerImage
) -> Written[Image]:
    """Create a custom image. Publishes nothing if an earlier request with the same idempotency key created it.

    From an upload, the image is QUEUED until its bytes have arrived. A copy is ACTIVE immediately, and stays when the
    original is deleted. So is a promotion, whose snapshot can't be deleted before it. From a server, the image is
    SAVING until the host has stored the bytes of the boot volume.

    Raises InvalidInput, QuotaExceeded, NotFound, Forbidden, Conflict, NoHypervisor; for an upload UnsupportedFormat and
    TooLarge; for the others NotReady.
    """
    match new:
        case NewUpload():
            return await _from_upload(catalogue, viewer, new)
        case NewServerImage():
            return await create_from_server(catalogue, viewer, new)
        case NewCopy() | NewPromotion():
            return await _from_image(catalogue, viewer, new)


# ---------------------------------------------------------------- from an upload


async def _from_upload(catalogue: Catalogue, viewer: Viewer, new: NewUpload) -> Written[Image]:
    image, upload = draft(viewer, new, catalogue.settings)
    catalogue.database.require_room()
    async with catalogue.database.read() as session:
        # Checked again in the transaction: here it only avoids opening an upload that would be refused.
        earlier = await _admitted(catalogue, session, viewer, new)
    if earlier is not None:
        return Written(earlier, None)
    handle = await catalogue.store.open_upload(upload.source.key, upload.source.size, upload.part_size)
    upload.reference = handle.reference
    try:
        written = await _insert(catalogue, viewer, new, image, upload)
    except UserMistake:
        await catalogue.store.abort_upload(handle)
        raise
    # After any other error, the rows may be committed: the reply to the commit may have been lost. If they are not, no
    # row names the upload, and the sweep removes it.
    if written.row is not image:
        await catalogue.store.abort_upload(handle)
    return written


async def _insert(catalogue: Catalogue, viewer: Viewer, new: NewUpload, image: Image, upload: Upload) -> Written[Image]:
    async with catalogue.database.transaction() as tx:
        # The same request may have been served concurrently since the first check.
        earlier = await _admitted(catalogue, tx.session, viewer, new, lock=True)
        if earlier is not None:
            return Written(earlier, None)
        await _add(tx, viewer, new, image)
        tx.session.add(upload)
    return Written(image, tx.position)


async def _admitted(
    catalogue: Catalogue, session: AsyncSession, viewer: Viewer, new: NewUpload, *, lock: bool = False
) -> Image | None:
    """Check role and quota. Returns the image of an earlier request with the same idempotency key, if there is one."""
    project = await _project_of(session, viewer, new, lock=lock)
    earlier = await _made_before(session, new)
    if earlier is None:
        await quotas.require_room(session, project, catalogue.settings, new.size, _SIZE)
        if new.verify_boot:
            await boot_checks.require_host(session, catalogue.settings, new.architecture)
    return earlier


# ---------------------------------------------------------------- from another image


async def _from_image(catalogue: Catalogue, viewer: Viewer, new: NewCopy | NewPromotion) -> Written[Image]:
    description = described(viewer, new)
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        project = await _project_of(tx.session, viewer, new, lock=True)
        earlier = await _made_before(tx.session, new)
        if earlier is not None:
            return Written(earlier, None)
        original, kind, field = await _original_of(tx.session, viewer, new)
        # The lock keeps the blob from being deleted, or getting its SHA-256, before the commit.
        blob = await tx.session.get_one(Blob, original.blob_id, with_for_update=tenancy.LOCKED)
        more = 0 if await _has_blob(tx.session, project.id, blob.id) else blob.stored_size
        await quotas.require_room(tx.session, project, catalogue.settings, more, field)
        copy = _copied(description, original, blob, kind)
        await _add(tx, viewer, new, copy)
        await ledger.stored(tx, copy)
        if new.verify_boot:
            await boot_checks.require_host(tx.session, catalogue.settings, copy.architecture)
            boot_checks.start(tx, copy, blob)
    return Written(copy, tx.position)


async def _original_of(
    session: AsyncSession, viewer: Viewer, new: NewCopy | NewPromotion
) -> tuple[Image, SourceKind, Sequence[str]]:
    """The image whose bytes to use, locked, what it is to the new one, and the path of its id in the input."""
    if isinstance(new, NewCopy):
        return await _launchable(session, viewer, new), SourceKind.IMAGE, _ORIGINAL
    return await _promotable(session, viewer, new), SourceKind.SNAPSHOT, _SNAPSHOT


async def _promotable(session: AsyncSession, viewer: Viewer, new: NewPromotion) -> Image:
    """The snapshot to promote, locked. Raises NotFound, Forbidden, InvalidInput, NotReady."""
    snapshot = await access.image_for(session, viewer, new.snapshot_id, field=_SNAPSHOT, lock=True)
    if snapshot.project_id != new.project_id:
        raise Forbidden(
            "The snapshot belongs to another project.",
            field=_SNAPSHOT,
            hint="Promote it in its own project, then copy or share the image.",
        )
    if snapshot.type != ImageType.SNAPSHOT:
        raise InvalidInput(
            f"The image has the type {snapshot.type}; only snapshots can be promoted.",
            field=_SNAPSHOT,
            hint="Copy it with `source: {image: {imageId: …}}`.",
        )
    access.require_active(snapshot, "promoted", _SNAPSHOT)
    return snapshot


async def _launchable(session: AsyncSession, viewer: Viewer, new: NewCopy) -> Image:
    """The image to copy, locked; the project must be allowed to launch it. Raises NotFound, Forbidden, NotReady."""
    refusal = Forbidden(
        "This project may not launch the image and therefore can't copy it.",
        field=_ORIGINAL,
        hint="Ask for the image to be shared with the project, or create the copy in the project that owns it.",
    )
    image = await access.image_to_launch(session, viewer, new.image_id, new.project_id, refusal)
    access.require_active(image, "copied", _ORIGINAL)
    return image


async def _has_blob(session: AsyncSession, project_id: str, blob_id: str) -> bool:
    """Whether a project already has an image with these bytes, which count once."""
    query = select(Image.id).where(
        Image.blob_id == blob_id, Image.project_id == project_id, col(Image.deleted_at).is_(None)
    )
    return (await session.execute(query.limit(1))).first() is not None


def _copied(description: dict[str, Any], original: Image, blob: Blob, kind: SourceKind) -> Image:
    """The row of a copy or a promotion: the values of the request, and otherwise those of the original."""
    values = dict(description)
    if values["os_family"] is None:
        values |= {"os_family": original.os_family, "os_version": original.os_version}
    if not values["labels"]:
        values["labels"] = original.labels
    return Image(
        **(values | {name: getattr(original, name) for name in _INHERITED}),
        status=ImageStatus.ACTIVE,
        sha256=blob.sha256,
        source_kind=kind,
        source_image_id=original.id,
        source_name=original.name,
    )


# ---------------------------------------------------------------- from either


async def _project_of(session: AsyncSession, viewer: Viewer, new: NewImage, *, lock: bool) -> Project:
    return await tenancy.project_for(session, viewer, new.project_id, ProjectRole.MEMBER, lock=lock)


async def _made_before(session: AsyncSession, new: NewImage) -> Image | None:
    """The image that an earlier request with the same idempotency key created. Raises Conflict, NotFound."""
    return await idempotency.made_before(session, Image, new)


async def _add(tx: Transaction, viewer: Viewer, new: NewImage, image: Image) -> None:
    """Insert the image, remember its idempotency key, and publish it."""
    tx.session.add(image)
    await tx.session.flush()
    idempotency.remember(tx, new, image.id)
    await event_log.append(tx, image, Created(), actor=viewer.subject)
