"""The feed: a log with cursors (architecture, rule 5; docs/feed.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, delete, false, func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.people import access
from app.catalog.people.tenancy import is_id
from app.database.postgres import Lock
from app.database.sessions import Database, Transaction
from app.lifecycle import EventKind, ProjectRole
from app.models import Event, Image, now
from app.viewer import includes


async def append(
    tx: Transaction, kind: EventKind, image: Image, *, actor: str | None = None, **detail: Any
) -> Sequence[Event]:
    """Add an event about `image` to the feed of every project that can see it.

    They get their places, and are announced, when the transaction commits. `actor` is who did it, None the gateway.
    """
    projects = await access.audience(tx.session, image)
    return [tell(tx, kind, project_id, image.id, actor=actor, **detail) for project_id in projects]


def tell(
    tx: Transaction,
    kind: EventKind,
    project_id: str,
    image_id: str,
    *,
    actor: str | None,
    least_role: ProjectRole = ProjectRole.READER,
    **detail: Any,
) -> Event:
    """Add an event about an image to the feed of one project; members that are less than `least_role` don't see it."""
    event = Event(
        kind=kind, project_id=project_id, image_id=image_id, actor=actor, least_role=least_role, detail=detail
    )
    tx.events.append(event)
    return event


def members_changed(tx: Transaction, project_id: str, *, actor: str | None = None) -> None:
    """Have every process look anew at who may watch a project. No watcher is told of it."""
    tx.events.append(Event(kind=EventKind.MEMBERS_CHANGED, project_id=project_id, image_id="", actor=actor))


async def newest_position(session: AsyncSession) -> int:
    """The position of the newest committed event; 0 when there was none yet."""
    newest: int | None = (await session.execute(select(func.max(Event.seq)))).scalar()
    return newest or 0


async def oldest_position(session: AsyncSession) -> int:
    """The least cursor from which every later event is still kept."""
    oldest: int | None = (await session.execute(select(func.min(Event.seq)))).scalar()
    return (oldest or 1) - 1


async def events_after(session: AsyncSession, position: int, limit: int) -> Sequence[Event]:
    """Events of all projects newer than `position`, oldest first, at most `limit`."""
    query = select(Event).where(col(Event.seq) > position).order_by(col(Event.seq)).limit(limit)
    return (await session.execute(query)).scalars().all()


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which events somebody may be told: of a project, as what they are there, and of one image if asked."""

    project_id: str
    role: ProjectRole
    image_id: str | None = None

    def includes(self, event: Event) -> bool:
        """Whether an event is among them."""
        return (
            event.project_id == self.project_id
            and self.image_id in (None, event.image_id)
            and event.kind != EventKind.MEMBERS_CHANGED
            and includes(self.role, event.least_role)
        )

    def narrow(self, query: Select[Any]) -> Select[Any]:
        """The same as a condition of a query."""
        query = query.where(
            col(Event.project_id) == self.project_id,
            col(Event.kind) != EventKind.MEMBERS_CHANGED,
            col(Event.least_role).in_([role for role in ProjectRole if includes(self.role, role)]),
        )
        if self.image_id is None:
            return query
        return query.where(col(Event.image_id) == self.image_id) if is_id(self.image_id) else query.where(false())


async def events_for(
    session: AsyncSession,
    wanted: Wanted,
    limit: int,
    *,
    after: int | None = None,
    before: int | None = None,
    newest: bool = False,
) -> Sequence[Event]:
    """Events between two positions, oldest first, at most `limit`: of more, the oldest, or the `newest`."""
    query = wanted.narrow(select(Event))
    if after is not None:
        query = query.where(col(Event.seq) > after)
    if before is not None:
        query = query.where(col(Event.seq) < before)
    seq = col(Event.seq)
    query = query.order_by(seq.desc() if newest else seq.asc()).limit(limit)
    found: Sequence[Event] = (await session.execute(query)).scalars().all()
    return found[::-1] if newest else found


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
