"""The ledger of what is stored from when to when: the bill is worked out from it, and no deletion takes it away.

A project pays once for bytes that several of its images share: their line is that of the image that has had them for
longest. Projects that share bytes pay each for themselves. All of it is written within somebody's transaction, with
the blob's row locked (or just inserted): of two that let go of a blob at once, the second one sees the lines of the
first.
"""

from datetime import datetime

from sqlmodel import col, select

from app.database.sessions import Transaction
from app.lifecycle import ImageStatus, ImageType
from app.models import Image, StorageEntry, now

# What is offered to everybody is nobody's to pay.
BILLED = (ImageType.CUSTOM, ImageType.SNAPSHOT)
_INSTANT = "ledger.instant"


async def stored(tx: Transaction, image: Image) -> None:
    """The image has a blob from now on, or the `stored_size` of the one that it has is another one than before.

    Adds nothing when an image of its project pays for these bytes already.
    """
    if image.type not in BILLED or image.blob_id is None or image.stored_size is None:
        return
    line = await open_line(tx, image.project_id, image.blob_id)
    if line is None:
        entry = StorageEntry(
            project_id=image.project_id,
            image_id=image.id,
            blob_id=image.blob_id,
            stored_size=image.stored_size,
            since=_instant(tx),
        )
        tx.session.add(entry)
    elif line.stored_size != image.stored_size:
        await _go_on(tx, line, line.image_id, image.stored_size)


async def released(tx: Transaction, image: Image, blob_id: str) -> None:
    """The image has let go of a blob, as its row says by now: it pays for it no longer.

    The line passes on to the first image that was created of those of the project that still name the blob.
    """
    line = await open_line(tx, image.project_id, blob_id)
    if line is None or line.image_id != image.id:
        return
    heir = await first_that_names(tx, image.project_id, blob_id)
    if heir is None:
        await close(tx, line, _instant(tx))
    else:
        await _go_on(tx, line, heir.id, line.stored_size)


async def open_line(tx: Transaction, project_id: str, blob_id: str) -> StorageEntry | None:
    """The line by which a project pays for a blob, if it does."""
    query = select(StorageEntry).where(
        StorageEntry.blob_id == blob_id, StorageEntry.project_id == project_id, col(StorageEntry.until).is_(None)
    )
    return (await tx.session.execute(query)).scalar_one_or_none()


async def first_that_names(tx: Transaction, project_id: str, blob_id: str) -> Image | None:
    """The first image that was created of those that a project pays for, are not deleted, and name a blob."""
    query = (
        select(Image)
        .where(
            Image.blob_id == blob_id,
            Image.project_id == project_id,
            col(Image.type).in_(BILLED),
            col(Image.deleted_at).is_(None),
            Image.status == ImageStatus.ACTIVE,  # bytes that are lost are not paid for
        )
        .order_by(col(Image.created_at), col(Image.id))
        .limit(1)
    )
    return (await tx.session.execute(query)).scalar_one_or_none()


async def _go_on(tx: Transaction, line: StorageEntry, image_id: str, stored_size: int) -> None:
    """Close a line, and open one for the same bytes at the same instant: there is neither a gap nor an overlap."""
    at = await close(tx, line, _instant(tx))
    entry = StorageEntry(
        project_id=line.project_id, image_id=image_id, blob_id=line.blob_id, stored_size=stored_size, since=at
    )
    tx.session.add(entry)


async def close(tx: Transaction, line: StorageEntry, at: datetime) -> datetime:
    """Close a line; gives the instant, which is not before its beginning even where clocks of machines differ."""
    line.until = until = max(at, line.since)
    # Before the next line is written, in whatever order a flush does that: two open lines are one too many.
    await tx.session.flush()
    return until


def _instant(tx: Transaction) -> datetime:
    """When a transaction happens: the clock is read once, so that what ends and what begins by it fit together."""
    at: datetime = tx.session.info.setdefault(_INSTANT, now())
    return at
