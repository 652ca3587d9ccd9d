"""The ledger: entries for what is stored and when. Bills are calculated from it, and deletions never remove entries.

A project pays once for bytes that several of its images share: the entry belongs to the image that has had them
longest. Each of several projects that share bytes pays for them. Entries are written within the caller's transaction,
with the blob's row locked or just inserted: of two transactions that release a blob at the same time, the second sees
the entries of the first.
"""

from datetime import datetime

from sqlmodel import col, select

from app.database.sessions import Transaction
from app.lifecycle import ImageStatus, ImageType
from app.models import Image, StorageEntry, now

# Stock images, which every project can use, are not billed.
BILLED = (ImageType.CUSTOM, ImageType.SNAPSHOT)
_INSTANT = "ledger.instant"


async def stored(tx: Transaction, image: Image) -> None:
    """Record that an image has a blob from now on, or that the `stored_size` of its blob has changed.

    Adds nothing if an image of its project already pays for these bytes.
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
    """Stop billing an image for a blob that its row no longer names.

    The entry passes to the oldest image of the project that still names the blob.
    """
    line = await open_line(tx, image.project_id, blob_id)
    if line is None or line.image_id != image.id:
        return
    heir = await oldest_image_of_blob(tx, image.project_id, blob_id)
    if heir is None:
        await close(tx, line, _instant(tx))
    else:
        await _go_on(tx, line, heir.id, line.stored_size)


async def open_line(tx: Transaction, project_id: str, blob_id: str) -> StorageEntry | None:
    """The open entry by which a project pays for a blob; None if there is none."""
    query = select(StorageEntry).where(
        StorageEntry.blob_id == blob_id, StorageEntry.project_id == project_id, col(StorageEntry.until).is_(None)
    )
    return (await tx.session.execute(query)).scalar_one_or_none()


async def oldest_image_of_blob(tx: Transaction, project_id: str, blob_id: str) -> Image | None:
    """The oldest billed and ACTIVE image of a project that names a blob; None if there is none."""
    query = (
        select(Image)
        .where(
            Image.blob_id == blob_id,
            Image.project_id == project_id,
            col(Image.type).in_(BILLED),
            col(Image.deleted_at).is_(None),
            Image.status == ImageStatus.ACTIVE,  # lost bytes are not billed
        )
        .order_by(col(Image.created_at), col(Image.id))
        .limit(1)
    )
    return (await tx.session.execute(query)).scalar_one_or_none()


async def _go_on(tx: Transaction, line: StorageEntry, image_id: str, stored_size: int) -> None:
    """Close an entry, and open one for the same bytes at the same time, without a gap or an overlap."""
    at = await close(tx, line, _instant(tx))
    entry = StorageEntry(
        project_id=line.project_id, image_id=image_id, blob_id=line.blob_id, stored_size=stored_size, since=at
    )
    tx.session.add(entry)


async def close(tx: Transaction, line: StorageEntry, at: datetime) -> datetime:
    """Close an entry. Returns the time, which is never before its beginning, even if clocks of machines differ."""
    line.until = until = max(at, line.since)
    # Written before the next entry, whatever the order of a flush: two open entries would violate a constraint.
    await tx.session.flush()
    return until


def _instant(tx: Transaction) -> datetime:
    """The time of a transaction. The clock is read once, so that entries that end and begin in it fit together."""
    at: datetime = tx.session.info.setdefault(_INSTANT, now())
    return at
