"""The feed: a log with cursors (architecture, rule 5; design/feed.md)."""

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.tenancy import is_id
from app.database import Database, Transaction
from app.errors import InvalidInput
from app.lifecycle import EventKind
from app.models import Event, Image, now
from app.postgres import Lock

_CURSOR = re.compile(r"feed1:(0|[1-9][0-9]{0,17})")


def cursor_of(position: int) -> str:
    """The opaque form of a feed position."""
    return base64.urlsafe_b64encode(f"feed1:{position}".encode()).decode().rstrip("=")


def position_of(cursor: str) -> int:
    """The feed position that a cursor stands for. Raises InvalidInput for anything that is not one of ours."""
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        match = _CURSOR.fullmatch(base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii"))
    except (binascii.Error, ValueError):
        match = None
    # Only the very text that was given out comes through, and no other spelling of it.
    if match is None or cursor_of(int(match[1])) != cursor:
        raise InvalidInput(
            "This is not a cursor of the event feed.",
            field=("after",),
            hint="Take it from eventCursor, asOf, an event or a mutation's payload.",
        )
    return int(match[1])


def append(tx: Transaction, kind: EventKind, image: Image, *, actor: str | None = None, **detail: Any) -> Event:
    """Add an event about `image` to the feed: it gets its place, and is announced, when the transaction commits."""
    event = Event(kind=kind, project_id=image.project_id, image_id=image.id, actor=actor, detail=detail)
    tx.events.append(event)
    return event


async def newest_position(session: AsyncSession) -> int:
    """The position of the newest committed event; 0 when there was none yet."""
    newest: int | None = (await session.execute(select(func.max(Event.seq)))).scalar()
    return newest or 0


async def oldest_position(session: AsyncSession) -> int:
    """The least cursor from which every later event is still kept."""
    oldest: int | None = (await session.execute(select(func.min(Event.seq)))).scalar()
    return (oldest or 1) - 1


async def events_after(
    session: AsyncSession,
    position: int,
    limit: int,
    *,
    project_id: str | None = None,
    image_id: str | None = None,
) -> Sequence[Event]:
    """Events newer than `position`, oldest first, at most `limit`, of one project or image if asked."""
    query = select(Event).where(col(Event.seq) > position).order_by(col(Event.seq)).limit(limit)
    if project_id is not None:
        query = query.where(col(Event.project_id) == project_id)
    if image_id is not None:
        if not is_id(image_id):
            return []
        query = query.where(col(Event.image_id) == image_id)
    return (await session.execute(query)).scalars().all()


async def prune(database: Database, keep: timedelta) -> None:
    """Drop events older than `keep`. The newest one stays always: it says where the feed stands.

    Clocks differ, and transactions take their time: what goes is a beginning of the feed, without a gap after it.
    """
    async with database.transaction() as tx:
        await tx.alone(Lock.PRUNING)
        kept = select(func.min(Event.seq)).where(col(Event.occurred_at) >= now() - keep)
        oldest: int | None = (await tx.session.execute(kept)).scalar()
        if oldest is None:
            oldest = await newest_position(tx.session)
        await tx.session.execute(delete(Event).where(col(Event.seq) < oldest))
