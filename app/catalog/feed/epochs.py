"""Epochs of the feed: a new one begins whenever positions that were already used may be used again.

After a restore from a backup, the feed continues from an older position. An earlier cursor would then point into
events that its client has never seen. So a cursor contains its epoch, and a cursor of another epoch causes a resync.

A new epoch begins when:
- an operator runs `images migrate --restored`;
- an API process starts and the tables are in a different place, as after pg_restore;
- a running process does not find the newest event that it has read;
- a client sends an authentic cursor for a position that the feed has not reached.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.feed.cursors import EPOCH_BYTES, KEY_BYTES, Mark
from app.database import sqlite
from app.database.sessions import Database
from app.errors import DatabaseUnavailable
from app.models import Event, FeedEpoch, now

_ROW = 1
# A table restored by pg_restore has the same name and rows, but a different OID.
_POSTGRES_PLACE = text("SELECT 'event'::regclass::oid::text")


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the feed: its key, epoch and newest position. `occurred_at` is the newest event's time, if any."""

    key: bytes
    epoch: bytes
    position: int
    occurred_at: datetime | None = None

    def holds(self, mark: Mark) -> bool:
        """Whether a mark belongs to this epoch and to a position that the feed has reached."""
        return mark.epoch == self.epoch and mark.position <= self.position

    def is_behind(self, mark: Mark) -> bool:
        """Whether a mark proves that the feed went back: positions are only issued once they are reached."""
        return mark.epoch == self.epoch and mark.position > self.position


async def head(session: AsyncSession) -> Head:
    """Read the end of the feed. Raises DatabaseUnavailable when the row of the epoch is missing."""
    row = await session.get(FeedEpoch, _ROW)
    if row is None:
        raise DatabaseUnavailable("the feed has no epoch: run `images migrate --restored`")
    newest = select(Event.seq, Event.occurred_at).order_by(col(Event.seq).desc()).limit(1)
    found = (await session.execute(newest)).one_or_none()
    position, occurred_at = found if found is not None else (0, None)
    return Head(bytes.fromhex(row.key), bytes.fromhex(row.epoch), position or 0, occurred_at)


async def renew(database: Database, expected: bytes | None = None) -> None:
    """Begin a new epoch; with `expected`, only if that is still the current one, so that only one process does.

    From then on, cursors of all earlier epochs cause a resync.
    """
    epoch = secrets.token_bytes(EPOCH_BYTES).hex()
    async with database.transaction() as tx:
        place = await _place(database, tx.session)
        if expected is None and await tx.session.get(FeedEpoch, _ROW) is None:
            key = secrets.token_bytes(KEY_BYTES).hex()
            tx.session.add(FeedEpoch(id=_ROW, key=key, epoch=epoch, place=place))
            return
        change = update(FeedEpoch).where(col(FeedEpoch.id) == _ROW)
        change = change.values(epoch=epoch, place=place, renewed_at=now())
        if expected is not None:
            change = change.where(col(FeedEpoch.epoch) == expected.hex())
        await tx.session.execute(change)


async def renew_if_moved(database: Database) -> None:
    """Begin a new epoch if the tables are in a different place than when this one began, as after a restore."""
    async with database.read() as session:
        row = await session.get(FeedEpoch, _ROW)
        moved = row is not None and row.place != await _place(database, session)
    if row is not None and moved:
        await renew(database, bytes.fromhex(row.epoch))


async def _place(database: Database, session: AsyncSession) -> str:
    if database.many_writers:
        place: str = (await session.execute(_POSTGRES_PLACE)).scalar_one()
        return place
    return sqlite.place_of(database.url)
