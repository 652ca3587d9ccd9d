"""Deletes images: immediately from the catalogue, and from the store once nothing else uses the bytes."""

from app.catalog import blobs, captures, promotions, sharing, sources
from app.catalog.bill import ledger
from app.catalog.catalogue import Catalogue, Written
from app.catalog.feed import event_log
from app.catalog.feed.details import Deleted
from app.catalog.people import access
from app.catalog.people.access import Right
from app.catalog.revisions import require_revision
from app.catalog.work import jobs
from app.database.sessions import Transaction
from app.errors import ProtectedImage
from app.lifecycle import OF_BLOBS, UploadState
from app.models import Image, now
from app.viewer import Viewer


async def delete_image(
    catalogue: Catalogue, viewer: Viewer, image_id: str, expected_revision: int | None
) -> Written[Image]:
    """Delete an image, start the job that frees its bytes, and publish that to everyone who could see it.

    Raises NotFound, Forbidden, StaleRevision, ProtectedImage; InUse for a snapshot that was promoted.
    """
    return await catalogue.database.freeing(lambda: _delete(catalogue, viewer, image_id, expected_revision))


async def _delete(catalogue: Catalogue, viewer: Viewer, image_id: str, expected_revision: int | None) -> Written[Image]:
    async with catalogue.database.transaction() as tx:
        image = await access.image_for(tx.session, viewer, image_id, Right.MANAGE, lock=True)
        require_revision(image.revision, expected_revision)
        if image.protected:
            raise ProtectedImage(
                "The image is protected.", field=("imageId",), hint="Call updateImage with protected: false first."
            )
        await promotions.require_none(tx.session, image)
        await remove(tx, image, actor=viewer.subject)
    return Written(image, tx.position)


async def remove(tx: Transaction, image: Image, *, actor: str | None = None) -> None:
    """Delete an image, whose row must be locked. Without `actor`, the gateway deletes it."""
    # What is being found out about the bytes is for the other images that have them, too.
    kept = OF_BLOBS if await blobs.has_others(tx.session, image) else ()
    await jobs.cancel_of_image(tx, image.id, but_kinds=kept)
    await sources.drop_source(tx, image, UploadState.ABORTED)
    await event_log.append(tx, image, Deleted(image.name), actor=actor)
    await sharing.revoke_all(tx, image, actor=actor)
    blob_id, image.blob_id = image.blob_id, None
    image.deleted_at = image.updated_at = now()
    image.reserved_size = 0
    image.revision += 1
    if blob_id is not None:
        await _drop_blob(tx, image, blob_id)
    await captures.end(tx, image.id)


async def _drop_blob(tx: Transaction, image: Image, blob_id: str) -> None:
    """Stop billing an image for its blob, and erase the blob if nothing else names it (architecture, rule 8)."""
    await blobs.lock(tx, blob_id)
    await ledger.released(tx, image, blob_id)
    await blobs.erase_if_unused(tx, blob_id)
