"""What becomes of images whose bytes the store has lost: they end in ERROR, cost nothing, and may come back.

The image keeps naming its blob. So the loss of a whole store, or a wrong address of it, can be undone: when the objects
are there again, `restore` makes the images ACTIVE.
"""

from sqlalchemy import ColumnElement, and_
from sqlmodel import col, select

from app.catalog import images, sources
from app.catalog.bill import ledger
from app.catalog.people.tenancy import LOCKED
from app.catalog.uploads import NO_FAILURE
from app.database.sessions import Database, Transaction
from app.errors import ImageFailed
from app.lifecycle import Aspect, FailureCode, ImageStatus
from app.models import Blob, Image, Project

_LOST = ImageFailed(
    FailureCode.DATA_LOST,
    "The object store has lost the bytes of this image, or holds other ones.",
    "Ask the operator whether they can be restored. Otherwise delete this image and upload the file again.",
)
_SOURCE_LOST = ImageFailed(
    FailureCode.DATA_LOST,
    "The object store has lost the uploaded bytes of this image.",
    "Delete this image and upload the file again.",
)


async def lose(database: Database, image_id: str, blob_id: str) -> bool:
    """Set an ACTIVE image to ERROR: the bytes of its blob are lost. False when it has changed in the meantime.

    It no longer counts against the quota, and its line of the ledger is closed.
    """
    async with database.transaction() as tx:
        image = await _locked(tx, image_id)
        if image is None or image.status != ImageStatus.ACTIVE or image.blob_id != blob_id:
            return False
        await tx.session.get_one(Blob, blob_id, with_for_update=True)
        await images.fail(tx, image, _LOST, stored_size=None)
        await ledger.released(tx, image, blob_id)
    return True


async def restore(database: Database, image_id: str) -> bool:
    """Make an image ACTIVE again whose bytes were lost and are there again. False when it has changed meanwhile."""
    async with database.transaction() as tx:
        image = await _locked(tx, image_id)
        if image is None or image.failure_code != FailureCode.DATA_LOST or image.blob_id is None:
            return False
        blob = await tx.session.get_one(Blob, image.blob_id, with_for_update=True)
        await images.move(tx, image, ImageStatus.ACTIVE, stored_size=blob.stored_size, **NO_FAILURE)
        await ledger.stored(tx, image)
    return True


async def lose_source(database: Database, image_id: str) -> bool:
    """No retry can help an image in ERROR: its uploaded bytes are lost. False when it has changed meanwhile."""
    async with database.transaction() as tx:
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


def reserved_by_nothing() -> ColumnElement[bool]:
    """The condition that an image reserves quota, and has no source that could use it."""
    return and_(col(Image.reserved_size) > 0, ~sources.is_kept())


async def free_quota(database: Database, image_id: str) -> bool:
    """Reserve nothing for an image that has no source. False when that is no longer so."""
    async with database.transaction() as tx:
        image = await _locked(tx, image_id)
        if image is None:
            return False
        stale = select(Image.id).where(Image.id == image_id, reserved_by_nothing())
        if (await tx.session.execute(stale)).scalar_one_or_none() is None:
            return False
        image.reserved_size = 0
    return True


async def _locked(tx: Transaction, image_id: str) -> Image | None:
    """An image that is not deleted. What counts against a quota is written with the project's row locked first."""
    image = await tx.session.get(Image, image_id)
    if image is None:
        return None
    await tx.session.get_one(Project, image.project_id, with_for_update=LOCKED)
    image = await tx.session.get_one(Image, image_id, with_for_update=LOCKED, populate_existing=True)
    return None if image.deleted_at is not None else image
