"""The rolling cap: the newest snapshots of a volume are kept, and a new one makes the oldest go.

Snapshots that are protected, or were promoted to an image, stay. Those in ERROR don't count, since they have no bytes;
as many of them are kept as of the others. An old snapshot is deleted in the transaction that makes the new one ACTIVE:
one that fails costs nothing.
"""

from collections.abc import Sequence

from sqlalchemy import ColumnElement, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app import metrics
from app.catalog import deletion, promotions
from app.database.sessions import Transaction
from app.errors import QuotaExceeded
from app.lifecycle import ImageStatus, ImageType
from app.models import Image
from app.sizes import counted


async def require_place(session: AsyncSession, volume_id: str, limit: int) -> None:
    """Raises QuotaExceeded when a volume has its `limit` of snapshots, and none of them may be deleted.

    The check holds only in a transaction that has the project's row locked.
    """
    used = await _count(session, _of(volume_id))
    if used < limit or (limit and await _oldest(session, _of(volume_id), 1)):
        return
    metrics.QUOTA_REFUSALS.labels("snapshots").inc()
    raise QuotaExceeded(
        f"The volume has {used} of {counted(limit, 'snapshot')}, and none of them can be replaced: each is protected "
        "or was promoted to an image."
        if limit
        else "The project keeps no snapshots: its limit per volume is 0.",
        limit=limit,
        used=used,
        requested=1,
        field=("volumeId",),
        hint="Delete snapshots that are no longer needed, after the images that they were promoted to, or have the "
        "limit raised.",
    )


async def surplus(session: AsyncSession, volume_id: str, limit: int, *, but: str | None = None) -> Sequence[str]:
    """The ids of the snapshots that have to go so that a volume has its `limit`; never the one with the id `but`."""
    over = await _count(session, _of(volume_id)) - limit
    return await _oldest(session, _of(volume_id, but), over) if over > 0 else ()


async def failed_surplus(session: AsyncSession, volume_id: str, limit: int) -> Sequence[str]:
    """The ids of the failed snapshots of a volume beyond its `limit`."""
    over = await _count(session, _failed(volume_id)) - limit
    return await _oldest(session, _failed(volume_id), over) if over > 0 else ()


async def evict(tx: Transaction, snapshots: Sequence[Image]) -> None:
    """Delete those of these snapshots that are still there and may still go. Their rows must be locked."""
    kept = await promotions.pinned(tx.session, [snapshot.id for snapshot in snapshots])
    for snapshot in snapshots:
        if snapshot.deleted_at is None and not snapshot.protected and snapshot.id not in kept:
            await deletion.remove(tx, snapshot)


async def stored_size(session: AsyncSession, ids: Sequence[str]) -> int:
    """The bytes that images take together."""
    total = select(func.sum(Image.stored_size)).where(col(Image.id).in_(ids))
    return int((await session.execute(total)).scalar_one() or 0)


def _of(volume_id: str, but: str | None = None) -> ColumnElement[bool]:
    return _all_of(volume_id) & (col(Image.status) != ImageStatus.ERROR) & (col(Image.id) != (but or ""))


def _failed(volume_id: str) -> ColumnElement[bool]:
    # One whose bytes were lost may get them back.
    return _all_of(volume_id) & (col(Image.status) == ImageStatus.ERROR) & col(Image.blob_id).is_(None)


def _all_of(volume_id: str) -> ColumnElement[bool]:
    return (
        (col(Image.volume_id) == volume_id) & (col(Image.type) == ImageType.SNAPSHOT) & col(Image.deleted_at).is_(None)
    )


async def _count(session: AsyncSession, snapshots: ColumnElement[bool]) -> int:
    return (await session.execute(select(func.count(col(Image.id))).where(snapshots))).scalar_one()


async def _oldest(session: AsyncSession, snapshots: ColumnElement[bool], limit: int) -> Sequence[str]:
    query = select(Image.id).where(snapshots, col(Image.protected).is_(False), ~promotions.is_pinned())
    return (await session.execute(query.order_by(col(Image.id)).limit(limit))).scalars().all()
