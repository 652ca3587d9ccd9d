"""Images whose bytes the store has lost: sets them to ERROR, stops billing them, and restores them.

The image keeps its blob. So the loss of a whole store, or a wrong address of it, can be undone: once the objects are
back, `restore` sets the images to ACTIVE.
"""

from sqlalchemy import ColumnElement, and_
from sqlmodel import col, select

from app.catalog import images, sources
from app.catalog.bill import ledger
from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.uploads import NO_FAILURE
from app.database.sessions import Transaction
from app.errors import ImageFailed
from app.lifecycle import Aspect, FailureCode, ImageStatus
from app.models import Blob, Image, Project

_LOST = ImageFailed(
    FailureCode.DATA_LOST,
    "The object store has lost or changed the bytes of this image.",
    "Ask the operator whether they can be restored; if not, delete this image and create it again.",
)
_SOURCE_LOST = ImageFailed(
    FailureCode.DATA_LOST,
    "The object store has lost the uploaded bytes of this image.",
    "Delete this image and upload the file again.",
)


async def lose(catalogue: Catalogue, image_id: str, blob_id: str) -> bool:
    """Set an ACTIVE image to ERROR because its bytes are lost. Returns False when it has changed in the meantime.

    It no longer counts against the quota, and its entry in the ledger is closed.
    """
    async with catalogue.database.transaction() as tx:
        image = await _locked(tx, image_id)
        if image is None or image.status != ImageStatus.ACTIVE or image.blob_id != blob_id:
            return False
        await tx.session.get_one(Blob, blob_id, with_for_update=True)
        await images.fail(tx, image, _LOST, stored_size=None)
        await ledger.released(tx, image, blob_id)
    return True


async def restore(catalogue: Catalogue, image_id: str) -> bool:
    """Set an image whose lost bytes are back to ACTIVE. Returns False when it has changed in the meantime."""
    async with catalogue.database.transaction() as tx:
        image = await _locked(tx, image_id)
        if image is None or image.failure_code != FailureCode.DATA_LOST or image.blob_id is None:
            return False
        blob = await tx.session.get_one(Blob, image.blob_id, with_for_update=True)
        await images.move(tx, image, ImageStatus.ACTIVE, stored_size=blob.stored_size, **NO_FAILURE)
        await ledger.stored(tx, image)
    return True


async def lose_source(catalogue: Catalogue, image_id: str) -> bool:
    """Mark an image in ERROR as not retriable: its uploaded bytes are lost. Returns False when it has changed."""
    async with catalogue.database.transaction() as tx:
        image = await _locked(tx, image_id)
        source = await sources.kept_source(tx.session, image_id)
        if image is None or source is None or image.status != ImageStatus.ERROR:
            return False
        source.kept = False
        await images.change(
            tx,
            image,
            [Aspect.FAILURE],
            failure_code=_SOURCE_LOST.code,
            failure_message=_SOURCE_LOST.message,
            failure_hint=_SOURCE_LOST.hint,
            failure_retriable=False,
            reserved_size=0,
        )
    return True


def reserved_without_source() -> ColumnElement[bool]:
    """The condition that an image reserves quota, but has no source that could use it."""
    return and_(col(Image.reserved_size) > 0, ~sources.is_kept())


async def free_quota(catalogue: Catalogue, image_id: str) -> bool:
    """Release the quota of an image that has no source. Returns False when that is no longer the case."""
    async with catalogue.database.transaction() as tx:
        image = await _locked(tx, image_id)
        if image is None:
            return False
        stale = select(Image.id).where(Image.id == image_id, reserved_without_source())
        if (await tx.session.execute(stale)).scalar_one_or_none() is None:
            return False
        image.reserved_size = 0
    return True


async def _locked(tx: Transaction, image_id: str) -> Image | None:
    """Lock an image and its project, whose lock guards the quota. Returns None when the image is deleted."""
    image = await tx.session.get(Image, image_id)
    if image is None:
        return None
    await tx.session.get_one(Project, image.project_id, with_for_update=LOCKED)
    image = await tx.session.get_one(Image, image_id, with_for_update=LOCKED, populate_existing=True)
    return None if image.deleted_at is not None else image
