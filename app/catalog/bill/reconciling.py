"""Repairs the ledger after a rolling upgrade in which older processes did not write to it.

During an upgrade, the tables are migrated first, while processes of the previous version keep running. An image that
one of them deletes leaves its entry open, and an image that one of them sets to ACTIVE gets no entry.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy
import structlog
from sqlalchemy import Select, exists, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.bill import ledger
from app.catalog.people.tenancy import LOCKED
from app.database.sessions import Database, Transaction
from app.lifecycle import ImageStatus
from app.models import Blob, Event, Image, StorageEntry, now

log = structlog.get_logger()

# No index finds the images that changed recently, and scanning a million of them every hour costs too much. But
# processes of every version publish all changes of images in the feed, so the images of its newest events are checked.
# One hour would suffice; two days allow for a schedule that was stopped for a while.
_RECENT = timedelta(days=2)


async def reconcile(database: Database) -> None:
    """Close entries of deleted images, and add missing ones. Several processes can run this at the same time."""
    for project_id, blob_id in await _inconsistent(database):
        async with database.transaction() as tx:
            repair = await _repair(tx, project_id, blob_id)
        if repair is not None:
            log.info("ledger.repaired", project=project_id, blob=blob_id, closed=repair.closed, opened=repair.opened)


# ------------------------------------------------------------ finding inconsistencies


async def _inconsistent(database: Database) -> list[tuple[str, str]]:
    """Pairs of project and blob with a recently changed image whose entries are inconsistent."""
    async with database.read() as session:
        # Read before the queries are planned: the number of events decides the best way to find the images.
        position = await _position_before(session, now() - _RECENT)
        found = [
            (project_id, blob_id)
            for query in (_unclosed(position), _unopened(position))
            for project_id, blob_id in (await session.execute(query)).all()
        ]
    return sorted(set(found))


async def _position_before(session: AsyncSession, at: datetime) -> int:
    """The position in the feed after which events are newer than `at`; 0 if all are. Searches backward."""
    query = select(Event.seq).where(col(Event.occurred_at) < at).order_by(col(Event.seq).desc()).limit(1)
    return (await session.execute(query)).scalar() or 0


def _changed(position: int) -> Select[str]:
    """Select the ids of what events after a position are about, images among them."""
    return sqlalchemy.select(col(Event.subject_id)).where(col(Event.seq) > position)


def _unclosed(position: int) -> Select[Any, Any]:
    """Select the open entries whose image is deleted."""
    return (
        sqlalchemy.select(col(StorageEntry.project_id), col(StorageEntry.blob_id))
        # There is an index for the images of a project, but none for images alone.
        .join(Image, (col(Image.id) == StorageEntry.image_id) & (col(Image.project_id) == StorageEntry.project_id))
        .where(
            col(StorageEntry.until).is_(None),
            col(Image.deleted_at).is_not(None),
            col(Image.id).in_(_changed(position)),
        )
    )


def _unopened(position: int) -> Select[Any, Any]:
    """Select the billed images whose project has no open entry for their bytes."""
    paid = exists().where(
        col(StorageEntry.blob_id) == Image.blob_id,
        col(StorageEntry.project_id) == Image.project_id,
        col(StorageEntry.until).is_(None),
    )
    return sqlalchemy.select(col(Image.project_id), col(Image.blob_id)).where(
        col(Image.blob_id).is_not(None),
        col(Image.status) == ImageStatus.ACTIVE,
        col(Image.deleted_at).is_(None),
        col(Image.type).in_(ledger.BILLED),
        col(Image.id).in_(_changed(position)),
        ~paid,
    )


# ------------------------------------------------------------ repairing


@dataclass(frozen=True, slots=True)
class _Repair:
    """The ids of the images whose entries were closed and opened; None if none was."""

    closed: str | None
    opened: str | None


async def _repair(tx: Transaction, project_id: str, blob_id: str) -> _Repair | None:
    """Repair a project's entries for a blob. Returns None if another process already has."""
    # Copying or deleting an image with these bytes takes the same lock. The row is deleted with the last such image.
    await tx.session.get(Blob, blob_id, with_for_update=LOCKED)
    line = await ledger.open_line(tx, project_id, blob_id)
    if line is not None and not await _closed(tx, line):
        return None
    image = await ledger.oldest_image_of_blob(tx, project_id, blob_id)
    if image is not None:
        # An entry passes to a copy, which has had its bytes since it was created. No row says when other images got
        # their bytes, but they had them when they last changed.
        await _open(tx, image, image.updated_at if line is None else image.created_at)
    elif line is None:
        return None
    return _Repair(closed=line.image_id if line else None, opened=image.id if image else None)


async def _closed(tx: Transaction, line: StorageEntry) -> bool:
    """Close an entry if its image is deleted, at the time of the deletion. Returns whether it is deleted."""
    image = await tx.session.get_one(Image, line.image_id)
    if image.deleted_at is None:
        return False
    await ledger.close(tx, line, image.deleted_at)
    return True


async def _open(tx: Transaction, image: Image, since: datetime) -> None:
    """Open an entry for an image at `since`, or when its project's last entry for the bytes ended, if that is later."""
    # Closed entries can only be found by their project, which is acceptable since repairs are rare.
    ends = select(func.max(StorageEntry.until)).where(
        StorageEntry.project_id == image.project_id, StorageEntry.blob_id == image.blob_id
    )
    ended: datetime | None = (await tx.session.execute(ends)).scalar()
    blob = await tx.session.get_one(Blob, image.blob_id)
    entry = StorageEntry(
        project_id=image.project_id,
        image_id=image.id,
        blob_id=blob.id,
        stored_size=blob.stored_size,
        since=max(since, ended or since),
    )
    tx.session.add(entry)
