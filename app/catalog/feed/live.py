"""Subscriptions: each process reads the feed once into a ring; a watcher is a cursor into it (docs/feed.md)."""

import asyncio
import secrets
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from datetime import datetime

import structlog
from sqlmodel import col, select

from app import metrics
from app.catalog.feed import epochs, event_log
from app.catalog.feed.cursors import Cursors, Mark
from app.catalog.feed.epochs import Head
from app.catalog.feed.event_log import Wanted
from app.catalog.feed.items import Happened, Item, Progressed, Resync, ends_sight, happened, resync_required
from app.catalog.feed.progress import ProgressBoard
from app.catalog.feed.subjects import Subject
from app.catalog.people import access, tenancy
from app.database.sessions import Database
from app.errors import DatabaseUnavailable, NotFound
from app.lifecycle import DELETIONS, SETTLED, WATCHED, EventKind, ImageVisibility, ProjectRole
from app.models import PUBLIC_FEED, Event, Image
from app.ports import Wakeups
from app.viewer import Viewer

log = structlog.get_logger()

# Events per read from the table.
_BATCH = 500


async def _nothing() -> None:
    """The default for `before_delivery`."""


@dataclass(slots=True)
class Feed:
    """The feed as this process sees it. `run` fills it; `follow` reads it at each watcher's own pace.

    `before_delivery` is awaited after events are read and before they are delivered, and at least every `poll_seconds`.
    It reads what may end a watcher's right to them.
    """

    database: Database
    wakeups: Wakeups
    board: ProgressBoard
    ring_size: int
    poll_seconds: float
    before_delivery: Callable[[], Awaitable[None]] = _nothing
    cursors: Cursors = field(init=False)
    epoch: bytes = b""
    # The time of the newest event that was read. It reveals a restored feed, in which its position may be used again.
    _newest_at: datetime | None = None
    _reading_on: asyncio.Lock = field(default_factory=asyncio.Lock)
    _readable: bool = True
    # Makes the cursors of progress differ from those of other processes.
    _salt: int = field(default_factory=lambda: secrets.randbits(62))
    # The events newer than `_ring_begins`, in ascending order, without their subjects, and their positions.
    _ring: list[Happened] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)
    _ring_begins: int = 0
    _newest: int = 0
    # The subjects of the events in the ring that still exist, as they are now. A subject has many events, and its row
    # is by far the largest part of each.
    _subjects: dict[str, Subject] = field(default_factory=dict)
    # By project: the event that its watchers wait for, their number, and who may watch.
    _grown: dict[str, asyncio.Event] = field(default_factory=dict)
    _watchers: Counter[str] = field(default_factory=Counter)
    _members: dict[str, dict[str, ProjectRole]] = field(default_factory=dict)

    async def start(self) -> None:
        """Begin at the newest event. Older events are read from the table on request."""
        await self.before_delivery()
        await epochs.renew_if_moved(self.database)
        async with self.database.read() as session:
            self._begin(await epochs.head(session))

    async def run(self) -> None:
        """Read new events whenever a wake-up reports some, and at least every `poll_seconds`."""
        woken = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(woken))
            tasks.create_task(self._poll_members())
            while True:
                try:
                    async with asyncio.timeout(self.poll_seconds):
                        await woken.wait()
                except TimeoutError:
                    pass
                woken.clear()
                await self._catch_up()

    async def _listen(self, woken: asyncio.Event) -> None:
        async for report in self.wakeups.listen():
            if report is None:
                woken.set()
            elif self.board.put(report):
                self._wake(report.project_id)

    async def _catch_up(self) -> None:
        async with self._reading_on:
            more = True
            while more:
                try:
                    news = await self._read_on()
                    await self.before_delivery()
                except Exception as error:  # the feed must survive a database that is temporarily unavailable
                    if self._readable:  # logged once, since this is retried every second
                        log.error(
                            "feed.unreadable", exc_info=not isinstance(error, DatabaseUnavailable), reason=str(error)
                        )
                    self._readable = False
                    return
                self._readable = True
                if any(item.kind == EventKind.MEMBERS_CHANGED for item in news):
                    # Before any later event is delivered.
                    await self._read_members()
                for item in news:
                    self._take(item)
                self._wake_followers({item.feed for item in news})
                more = len(news) == _BATCH
            metrics.FEED.read(behind=0)

    async def _read_on(self) -> list[Happened]:
        """Read new events from the table. When a new epoch has begun, the feed restarts there."""
        async with self.database.read() as session:
            head = await epochs.head(session)
            if (head.epoch, head.position, head.occurred_at) == (self.epoch, self._newest, self._newest_at):
                return []
            # The newest known event is read again: it must still exist and be the same.
            known = 1 if self._newest_at is not None else 0
            metrics.FEED.read(behind=max(0, head.position - self._newest))
            events = await event_log.events_after(session, self._newest - known, _BATCH + known)
            if head.epoch == self.epoch and self._continues(head, events[:known]):
                return await happened(session, events[known:], self.epoch)
        if head.epoch == self.epoch:
            head = await self._renewed(self.epoch)
        self._begin(head)
        return []

    def _continues(self, head: Head, known: Sequence[Event]) -> bool:
        """Whether the table still contains what this process has read; `known` is the newest event of that."""
        times = [event.occurred_at for event in known if event.seq == self._newest]
        return head.position >= self._newest and times == ([] if self._newest_at is None else [self._newest_at])

    async def _renewed(self, epoch: bytes) -> Head:
        """End an epoch, unless another process just did, and wake the others. Returns the new end of the feed."""
        log.warning("feed.went_back", hint="The database was restored: clients are asked to read the catalogue again.")
        await epochs.renew(self.database, epoch)
        self.wakeups.feed_grew()
        async with self.database.read() as session:
            return await epochs.head(session)

    def _begin(self, head: Head) -> None:
        """Discard everything that was read, and continue from `head`. Watchers of another epoch are asked to resync."""
        if self.epoch != head.epoch:
            self.cursors = Cursors(head.key)
        self.epoch, self._newest, self._newest_at = head.epoch, head.position, head.occurred_at
        self._ring_begins = head.position
        self._ring, self._positions, self._subjects = [], [], {}
        self._wake_followers({PUBLIC_FEED})

    def _take(self, item: Happened) -> None:
        if ends_sight(item):
            self._hide(item.feed, item.subject_id)
        self._ring.append(replace(item, subject=None, live=True))
        self._positions.append(item.position)
        self._newest, self._newest_at = item.position, item.occurred_at
        if item.subject is not None:
            self._subjects[item.subject_id] = item.subject
        elif item.kind in DELETIONS:
            self._subjects.pop(item.subject_id, None)
        moved = item.kind in (EventKind.STATUS_CHANGED, EventKind.DELETED)
        if moved and not (isinstance(item.subject, Image) and item.subject.status not in SETTLED):
            self.board.settle(item.subject_id, item.occurred_at)
        if len(self._ring) >= 2 * self.ring_size:  # cut in large steps, to keep the cost per event low
            self._cut()

    def _cut(self) -> None:
        self._ring_begins = self._positions[self.ring_size - 1]
        del self._ring[: self.ring_size], self._positions[: self.ring_size]
        kept = {item.subject_id for item in self._ring}
        self._subjects = {id_: subject for id_, subject in self._subjects.items() if id_ in kept}

    def _hide(self, feed: str, image_id: str) -> None:
        """Remove an image that a feed no longer shows from its older events, for watchers that are behind."""
        for at, item in enumerate(self._ring):
            if item.visible and (item.feed, item.subject_id) == (feed, image_id):
                self._ring[at] = replace(item, visible=False, live=False)

    def _with_subject(self, item: Happened) -> Happened:
        """An event of the ring with its subject."""
        subject = self._subjects.get(item.subject_id) if item.visible else None
        if subject is None or (item.feed == PUBLIC_FEED and not _is_public(subject)):
            return item
        return replace(item, subject=subject)

    def _wake_followers(self, feeds: Set[str]) -> None:
        """Wake the watchers that follow any of the feeds."""
        for project_id in list(self._grown) if PUBLIC_FEED in feeds else feeds:
            self._wake(project_id)

    def _wake(self, project_id: str) -> None:
        grown = self._grown.pop(project_id, None)
        if grown is not None:
            grown.set()

    async def _read(self, epoch: bytes, after: int, wanted: Wanted) -> list[Happened]:
        async with self.database.read() as session:
            events = await event_log.events_for(session, wanted, _BATCH, after=after)
            return await happened(session, events, epoch)

    async def _poll_members(self) -> None:
        """Poll the members of projects: changes made directly in the tables publish no event."""
        while True:
            await asyncio.sleep(self.poll_seconds)
            await self._read_members()

    async def _read_members(self) -> None:
        try:
            await self._refresh_members()
        except Exception:  # as above; until then, the role of each watcher is read from the table
            log.exception("feed.members_unreadable")
            self._members = {}

    async def _refresh_members(self) -> None:
        """Read the members of watched projects, and wake the watchers where they changed: some may have lost access."""
        watched = [project_id for project_id, count in self._watchers.items() if count > 0]
        members: dict[str, dict[str, ProjectRole]] = {}
        if watched:
            async with self.database.read() as session:
                members = await tenancy.roles_by_subject(session, watched)
        before, self._members = self._members, members
        for project_id in watched:
            if before.get(project_id) != members[project_id]:
                self._wake(project_id)

    # ------------------------------------------------------------ watchers

    async def follow(
        self,
        viewer: Viewer,
        project_id: str,
        *,
        after: Mark | None,
        subject_id: str | None = None,
        kinds: Collection[EventKind] = WATCHED,
        progress: bool = True,
        waiting: Callable[[], None] = lambda: None,
    ) -> AsyncIterator[Item]:
        """Yield items of the feeds that a project follows, after a mark or, without one, from now on.

        Of events, only those of `kinds`, and of one subject if given. Yields a Resync where events may be missing: at
        the start if the mark is of another epoch, later when a new epoch begins. Raises NotFound when the viewer may
        not see the project or the one subject that is followed, also as soon as they lose that right. Calls `waiting`
        whenever there is nothing to yield.
        """
        async with self.database.read() as session:
            await tenancy.project_for(session, viewer, project_id)
            head = await epochs.head(session)
        await self._keep_up_with(head, after)
        self._watchers[project_id] += 1
        try:
            epoch, position, _ = after or Mark(head.epoch, head.position)
            seen = self.board.version
            while True:
                if epoch != self.epoch:
                    epoch, position = self.epoch, self._newest
                    yield Resync(Mark(epoch, position), position)
                grown = self._grown.setdefault(project_id, asyncio.Event())
                role = await self._require_role(viewer, project_id)
                wanted = Wanted(access.feeds_followed_by(project_id), role, subject_id, kinds)
                items, position = await self._since(epoch, position, wanted)
                for item in items:
                    yield item
                    if subject_id is not None and isinstance(item, Happened) and ends_sight(item):
                        await self._require_sight(project_id, subject_id)
                if progress:
                    version, seen = seen, self.board.version
                    for made in await self._progress_since(version, Mark(epoch, position), project_id, subject_id):
                        yield made
                if not items and epoch == self.epoch:
                    waiting()
                    await grown.wait()
        finally:
            self._watchers[project_id] -= 1

    async def _keep_up_with(self, head: Head, mark: Mark | None) -> None:
        """Begin an epoch that is new to this process, or a new one if a mark proves that the feed went back."""
        if head.epoch == self.epoch and (mark is None or not head.is_behind(mark)):
            return
        async with self._reading_on:
            # Many clients come back at once after a restore: the first of them has already done it for the others.
            async with self.database.read() as session:
                head = await epochs.head(session)
            if mark is not None and head.is_behind(mark):
                head = await self._renewed(mark.epoch)
            if head.epoch != self.epoch:
                self._begin(head)

    async def positions_of(self, marks: Mapping[str, Mark]) -> dict[str, int]:
        """The positions of marks, by argument. Raises ResyncRequired for a mark that the feed can't continue from."""
        if not marks:
            return {}
        # In a session of its own, which ends first: catching up takes another connection, and many callers that each
        # kept one would leave none for it.
        async with self.database.read() as session:
            head = await epochs.head(session)
        for argument, mark in marks.items():
            if not head.holds(mark):
                await self._keep_up_with(head, mark)
                raise resync_required(argument)
        return {argument: mark.position for argument, mark in marks.items()}

    async def _require_role(self, viewer: Viewer, project_id: str) -> ProjectRole:
        role = ProjectRole.ADMIN if viewer.operator else self._members.get(project_id, {}).get(viewer.subject)
        if role is None:
            # The cached members may be older than the right: only the table proves that there is none.
            async with self.database.read() as session:
                role = await tenancy.role_in(session, viewer, project_id)
        if role is None:
            raise NotFound("You no longer have access to this project.")
        return role

    async def _require_sight(self, project_id: str, image_id: str) -> None:
        # It may have been shared again in the meantime.
        async with self.database.read() as session:
            if not await access.seen_in_feeds(session, {(project_id, image_id)}):
                raise NotFound("This image is no longer shared with the project.")

    async def _since(self, epoch: bytes, position: int, wanted: Wanted) -> tuple[Sequence[Item], int]:
        """The items that a watcher has not seen yet, and its position after them."""
        if epoch != self.epoch:
            return [], position
        if position >= self._ring_begins:
            news = self._ring[bisect_right(self._positions, position) :]
            return [self._with_subject(item) for item in news if wanted.includes(item)], max(position, self._newest)
        known = self._newest
        async with self.database.read() as session:
            oldest = await event_log.oldest_position(session)
        if position < oldest:
            return [Resync(Mark(epoch, known), oldest)], known
        items = await self._read(epoch, position, wanted)
        if len(items) == _BATCH:
            return items, items[-1].position
        return items, max([known, *(item.position for item in items)])

    async def _progress_since(
        self, version: int, mark: Mark, project_id: str, image_id: str | None
    ) -> list[Progressed]:
        news = [
            progress
            for progress in self.board.newer_than(version)
            if progress.report.project_id == project_id and image_id in (None, progress.report.image_id)
        ]
        missing = {progress.report.image_id for progress in news} - self._subjects.keys()
        if missing:
            existing = select(Image).where(col(Image.id).in_(missing), col(Image.deleted_at).is_(None))
            async with self.database.read() as session:
                read = (await session.execute(existing)).scalars().all()
            for image in read:
                # In the meantime, the ring may have got a newer row, or the event that the image was deleted.
                if self.board.of(image.id) is not None:
                    self._subjects.setdefault(image.id, image)
        found = ((progress, self._subjects.get(progress.report.image_id)) for progress in reversed(news))
        return [
            Progressed(mark.unlinked(self._salt + progress.version), progress, image)
            for progress, image in found
            if isinstance(image, Image)
        ]


def _is_public(subject: Subject) -> bool:
    return isinstance(subject, Image) and subject.visibility == ImageVisibility.PUBLIC
