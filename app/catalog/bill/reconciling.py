"""The ledger, mended after processes that know nothing of it.

While a gateway is brought to a new version, the tables are migrated first, and processes of the version before run on
for a while: an image that one of them deletes leaves its line open, and one that it makes ACTIVE gets none.
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

# No index says which images have changed lately, and to go through a million of them every hour is too much. But
# whatever is done to an image is told in the feed, by processes of every version: what the newest events are about is
# looked at. An hour of them would do; two days leave room for a schedule that stood still for a while.
_RECENT = timedelta(days=2)


async def reconcile(database: Database) -> None:
    """Close lines of images that are deleted, and open those that are missing; harmless when several do it at once."""
    for project_id, blob_id in await _astray(database):
        async with database.transaction() as tx:
            mended = await _mend(tx, project_id, blob_id)
        if mended is not None:
            log.info("ledger.mended", project=project_id, blob=blob_id, closed=mended.closed, opened=mended.opened)


# ------------------------------------------------------------ what is astray


async def _astray(database: Database) -> list[tuple[str, str]]:
    """Projects and blobs, of which an image has changed lately, whose lines are not what they should be."""
    async with database.read() as session:
        # Known before the queries are planned: how few events there are decides how images are best found.
        position = await _position_before(session, now() - _RECENT)
        found = [
            (project_id, blob_id)
            for query in (_unclosed(position), _unopened(position))
            for project_id, blob_id in (await session.execute(query)).all()
        ]
    return sorted(set(found))


async def _position_before(session: AsyncSession, at: datetime) -> int:
    """The position in the feed after which events are newer than `at`; 0 when all are. It is looked for backward."""
    query = select(Event.seq).where(col(Event.occurred_at) < at).order_by(col(Event.seq).desc()).limit(1)
    return (await session.execute(query)).scalar() or 0


def _changed(position: int) -> Select[str]:
    """The ids of the images that events after a position are about."""
    return sqlalchemy.select(col(Event.image_id)).where(col(Event.seq) > position)


def _unclosed(position: int) -> Select[Any, Any]:
    """Lines that are open, and whose image is deleted."""
    return (
        sqlalchemy.select(col(StorageEntry.project_id), col(StorageEntry.blob_id))
        # There is an index of the images of a project, and none of images alone.
        .join(Image, (col(Image.id) == StorageEntry.image_id) & (col(Image.project_id) == StorageEntry.project_id))
        .where(
            col(StorageEntry.until).is_(None),
            col(Image.deleted_at).is_not(None),
            col(Image.id).in_(_changed(position)),
        )
    )


def _unopened(position: int) -> Select[Any, Any]:
    """Images, to be paid for, of whose bytes their project has no line that is open."""
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


# ------------------------------------------------------------ how it is mended


@dataclass(frozen=True, slots=True)
class _Mended:
    """The ids of the images whose lines were closed, and opened."""

    closed: str | None
    opened: str | None


async def _mend(tx: Transaction, project_id: str, blob_id: str) -> _Mended | None:
    """Bring a project's lines of a blob in order; None when they are, since somebody else has come first."""
    # Held by whoever copies or deletes an image with these bytes, too; gone with the last image that named it.
    await tx.session.get(Blob, blob_id, with_for_update=LOCKED)
    line = await ledger.open_line(tx, project_id, blob_id)
    if line is not None and not await _closed(tx, line):
        return None
    image = await ledger.first_that_names(tx, project_id, blob_id)
    if image is not None:
        # What a line passes on to is a copy: its bytes are as old as it is. Of other images nobody has written down
        # when they came to have theirs; when they changed last, they had them.
        await _open(tx, image, image.updated_at if line is None else image.created_at)
    elif line is None:
        return None
    return _Mended(closed=line.image_id if line else None, opened=image.id if image else None)


async def _closed(tx: Transaction, line: StorageEntry) -> bool:
    """Close a line if its image is deleted, at the instant when it was; tells whether it is."""
    image = await tx.session.get_one(Image, line.image_id)
    if image.deleted_at is None:
        return False
    await ledger.close(tx, line, image.deleted_at)
    return True


async def _open(tx: Transaction, image: Image, since: datetime) -> None:
    """Open the line of an image, at the end of what its project has paid for the same bytes, if that is later."""
    # Lines that are closed are found by their project alone: what there is to mend is little.
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
