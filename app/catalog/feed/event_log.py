"""The feed: a log with cursors (architecture, rule 5; docs/feed.md)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy
from sqlalchemy import Select, delete, false, func, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.feed.details import Detail, MembersChanged, OfImages
from app.catalog.feed.items import Happened
from app.catalog.feed.server_details import OfServers, OfVolumes
from app.catalog.people import access
from app.catalog.people.tenancy import is_id
from app.database.postgres import Lock
from app.database.sessions import Database, Transaction
from app.lifecycle import WATCHED, EventKind, ProjectRole
from app.models import TABLES, Event, Image, Server, Volume, now
from app.viewer import includes

_EVENT = TABLES.tables["event"].c


async def append(tx: Transaction, image: Image, detail: OfImages, *, actor: str | None = None) -> Sequence[Event]:
    """Add an event about `image` to the feeds of its audience.

    They get their positions and are announced when the transaction commits. `actor` is the subject of the user, None
    for the gateway.
    """
    feeds = await access.audience(tx.session, image)
    return [publish(tx, feed, image.id, detail, actor=actor) for feed in feeds]


def append_server(tx: Transaction, server: Server, detail: OfServers, *, actor: str | None = None) -> Event:
    """Add an event about a server to the feed of its project, whose members alone see it; otherwise as `append`."""
    return publish(tx, server.project_id, server.id, detail, actor=actor)


def append_volume(tx: Transaction, volume: Volume, detail: OfVolumes, *, actor: str | None = None) -> Event:
    """Add an event about a volume to the feed of its project, whose members alone see it; otherwise as `append`."""
    return publish(tx, volume.project_id, volume.id, detail, actor=actor)


def publish(
    tx: Transaction,
    feed: str,
    subject_id: str,
    detail: Detail,
    *,
    actor: str | None,
    least_role: ProjectRole = ProjectRole.READER,
) -> Event:
    """Add an event about a subject to one feed, for followers with at least `least_role` in their project."""
    event = Event(
        kind=detail.kind,
        feed=feed,
        subject_id=subject_id,
        actor=actor,
        least_role=least_role,
        detail=dict(detail.to_row()),
    )
    tx.events.append(event)
    return event


def members_changed(tx: Transaction, project_id: str, *, actor: str | None = None) -> None:
    """Publish to all processes that the members of a project changed. Watchers don't get this event."""
    publish(tx, project_id, "", MembersChanged(), actor=actor)


async def newest_position(session: AsyncSession) -> int:
    """The position of the newest committed event; 0 if there is none yet."""
    newest: int | None = (await session.execute(select(func.max(Event.seq)))).scalar()
    return newest or 0


async def oldest_position(session: AsyncSession) -> int:
    """The oldest position after which every event is still stored."""
    oldest: int | None = (await session.execute(select(func.min(Event.seq)))).scalar()
    return (oldest or 1) - 1


async def events_after(session: AsyncSession, position: int, limit: int) -> Sequence[Event]:
    """Events of all feeds newer than `position`, oldest first, at most `limit`."""
    query = select(Event).where(col(Event.seq) > position).order_by(col(Event.seq)).limit(limit)
    return (await session.execute(query)).scalars().all()


@dataclass(frozen=True, slots=True)
class Wanted:
    """The events that a reader gets: of the feeds that they follow, and allowed by their role.

    Only those of one subject, if given, and of `kinds`. Kinds that are not WATCHED are left out in any case.
    """

    feeds: Sequence[str]
    role: ProjectRole
    subject_id: str | None = None
    kinds: Collection[EventKind] = WATCHED

    def includes(self, event: Happened) -> bool:
        """Whether the reader gets an event."""
        return (
            event.feed in self.feeds
            and self.subject_id in (None, event.subject_id)
            and event.kind in WATCHED
            and event.kind in self.kinds
            and includes(self.role, event.least_role)
        )

    def narrow(self, query: Select[Any], feed: str) -> Select[Any]:
        """Limit a query to these events in one of the feeds."""
        query = query.where(
            _EVENT.feed == feed,
            _EVENT.kind.in_(sorted(WATCHED.intersection(self.kinds))),
            _EVENT.least_role.in_([role for role in ProjectRole if includes(self.role, role)]),
        )
        if self.subject_id is None:
            return query
        return query.where(_EVENT.subject_id == self.subject_id) if is_id(self.subject_id) else query.where(false())


async def events_for(
    session: AsyncSession,
    wanted: Wanted,
    limit: int,
    *,
    after: int | None = None,
    before: int | None = None,
    newest: bool = False,
) -> Sequence[Event]:
    """Events between two positions, oldest first: the oldest `limit` of them, or the `newest`."""
    order = _EVENT.seq.desc() if newest else _EVENT.seq.asc()
    positions = sqlalchemy.select(_EVENT.seq)
    if after is not None:
        positions = positions.where(_EVENT.seq > after)
    if before is not None:
        positions = positions.where(_EVENT.seq < before)
    # Each feed is read in order from its index, only as far as the page goes. The positions are merged: see `pages`.
    pages = (wanted.narrow(positions, feed).order_by(order).limit(limit).subquery() for feed in wanted.feeds)
    merged = union_all(*(sqlalchemy.select(page.c.seq) for page in pages)).subquery()
    ordered = sqlalchemy.select(merged.c.seq).order_by(merged.c.seq.desc() if newest else merged.c.seq.asc())
    query = select(Event).where(_EVENT.seq.in_(ordered.limit(limit))).order_by(order)
    found: Sequence[Event] = (await session.execute(query)).scalars().all()
    return found[::-1] if newest else found


async def prune(database: Database, keep: timedelta) -> None:
    """Delete events older than `keep`. The newest event is always kept, since it marks the end of the feed.

    Times of events may be out of order, since clocks differ and transactions take time. Only events before the first
    one to keep are deleted, so that the feed has no gaps.
    """
    async with database.transaction() as tx:
        await tx.alone(Lock.PRUNING)
        kept = select(func.min(Event.seq)).where(col(Event.occurred_at) >= now() - keep)
        oldest: int | None = (await tx.session.execute(kept)).scalar()
        if oldest is None:
            oldest = await newest_position(tx.session)
        await tx.session.execute(delete(Event).where(col(Event.seq) < oldest))
