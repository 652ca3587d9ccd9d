"""Blobs: kept as long as an image, a volume or a capture names them, and then erased (architecture, rule 8)."""

from sqlalchemy import exists, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.work import jobs
from app.catalog.work.kinds import Erase
from app.database.sessions import Transaction
from app.models import Blob, Capture, Image, Volume


async def lock(tx: Transaction, blob_id: str) -> Blob:
    """Lock a blob that may be erased.

    The lock makes those who erase it check one after the other, and keeps new rows from naming it.
    """
    return await tx.session.get_one(Blob, blob_id, with_for_update=True)


async def has_others(session: AsyncSession, image: Image) -> bool:
    """Whether other images have the bytes of an image, too."""
    if image.blob_id is None:
        return False
    query = select(Image.id).where(Image.blob_id == image.blob_id, Image.id != image.id).limit(1)
    return (await session.execute(query)).first() is not None


async def erase_if_unused(tx: Transaction, blob_id: str) -> None:
    """Delete a blob that nothing names any longer, and start a job that erases its bytes."""
    blob = await lock(tx, blob_id)
    used = or_(
        exists().where(col(Image.blob_id) == blob_id),
        exists().where(col(Volume.base_id) == blob_id),
        exists().where(col(Capture.base_id) == blob_id),
    )
    if (await tx.session.execute(select(used))).scalar():
        return
    await tx.session.delete(blob)
    jobs.start(tx, Erase(keys=(blob.key,)))
