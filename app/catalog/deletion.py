"""Deleting an image: it leaves the catalogue at once, and its bytes go when no other image names them."""

from sqlalchemy import exists
from sqlmodel import col, select

from app.catalog import sharing, sources
from app.catalog.bill import ledger
from app.catalog.feed import event_log
from app.catalog.feed.details import Deleted
from app.catalog.people import access
from app.catalog.people.access import Right
from app.catalog.revisions import require_revision
from app.catalog.work import jobs
from app.catalog.work.kinds import Erase
from app.database.sessions import Database, Transaction
from app.errors import ProtectedImage
from app.lifecycle import UploadState
from app.models import Blob, Image, now
from app.viewer import Viewer


async def delete_image(
    database: Database, viewer: Viewer, image_id: str, expected_revision: int | None
) -> tuple[str, int | None]:
    """Remove an image from the catalogue and have its bytes freed; everybody who could see it is told.

    Raises NotFound, Forbidden, StaleRevision, ProtectedImage.
    """
    return await database.freeing(lambda: _delete(database, viewer, image_id, expected_revision))


async def _delete(
    database: Database, viewer: Viewer, image_id: str, expected_revision: int | None
) -> tuple[str, int | None]:
    async with database.transaction() as tx:
        image = await access.image_for(tx.session, viewer, image_id, Right.MANAGE, lock=True)
        require_revision(image.revision, expected_revision)
        if image.protected:
            raise ProtectedImage(
                "The image is protected.", field=("imageId",), hint="updateImage with protected: false first."
            )
        await jobs.cancel_of_image(tx, image.id)
        await sources.drop_source(tx, image, UploadState.ABORTED)
        await event_log.append(tx, image, Deleted(image.name), actor=viewer.subject)
        await sharing.end_all(tx, image, actor=viewer.subject)
        blob_id, image.blob_id = image.blob_id, None
        image.deleted_at = image.updated_at = now()
        image.reserved_size = 0
        image.revision += 1
        if blob_id is not None:
            await _drop_blob(tx, image, blob_id)
    return image.id, tx.position


async def _drop_blob(tx: Transaction, image: Image, blob_id: str) -> None:
    """End what an image pays for a blob, and erase one that no image names any more (architecture, rule 8)."""
    # Of two that let go of it at once, the second looks when the first is through; and nobody can name it meanwhile.
    blob = await tx.session.get_one(Blob, blob_id, with_for_update=True)
    await ledger.released(tx, image, blob_id)
    if (await tx.session.execute(select(exists().where(col(Image.blob_id) == blob_id)))).scalar():
        return
    await tx.session.delete(blob)
    jobs.start(tx, Erase(keys=(blob.key,)))
