"""Watching: each process reads the feed once into a ring; a watcher is a cursor into it (design/feed.md)."""

import asyncio
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import access, feed, tenancy
from app.catalog.feed import Wanted
from app.catalog.progress import Progress, ProgressBoard
from app.database import Database
from app.errors import NotFound
from app.lifecycle import SETTLED, EventKind, ProjectRole
from app.models import Event, Image
from app.ports import Wakeups
from app.viewer import Viewer

log = structlog.get_logger()

# How many events are read from the table at once, when a watcher has fallen behind the ring.
_BATCH = 500
# Images whose newest state is kept at hand for progress events.
_IMAGES_AT_HAND = 10_000


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the feed, with its image as it was when this process read the event.

    The image is None when it was deleted, or when the project whose event it is could not see it any more. `live`
    says that the event was read when it came, and not later for somebody who had fallen behind.
    """

    event: Event
    image: Image | None
    live: bool = False

    @property
    def position(self) -> int:
        """Where in the feed this is."""
        return self.event.seq or 0


@dataclass(frozen=True, slots=True)
class Progressed:
    """The newest progress of an image; `position` is that of the newest stored event."""

    position: int
    progress: Progress
    image: Image


@dataclass(frozen=True, slots=True)
class Resync:
    """The cursor is not in the feed any more: read the catalogue again and go on from `position`."""

    position: int
    oldest: int


Item = Happened | Progressed | Resync


async def _nothing() -> None:
    """What a feed that is told of nothing else does before it delivers events."""


@dataclass(slots=True)
class Feed:
    """The feed as this process sees it. `run` fills it; `follow` reads it, at each watcher's own pace.

    `before_delivery` is awaited between the reading of events and their delivery, and at least every `poll_seconds`:
    it reads what takes watchers their right to them.
    """

    database: Database
    wakeups: Wakeups
    board: ProgressBoard
    ring_size: int
    poll_seconds: float
    before_delivery: Callable[[], Awaitable[None]] = _nothing
    # Events that are newer than `_ring_begins`, ascending, and their positions.
    _ring: list[Happened] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)
    _ring_begins: int = 0
    _newest: int = 0
    _images: OrderedDict[str, Image] = field(default_factory=OrderedDict)
    # By project: what its watchers wait for, how many they are, and who may watch.
    _grown: dict[str, asyncio.Event] = field(default_factory=dict)
    _watchers: Counter[str] = field(default_factory=Counter)
    _members: dict[str, dict[str, ProjectRole]] = field(default_factory=dict)

    async def start(self) -> None:
        """Begin at the newest event: what is older is read from the table when somebody asks for it."""
        await self.before_delivery()
        async with self.database.read() as session:
            self._newest = self._ring_begins = await feed.newest_position(session)

    async def run(self) -> None:
        """Read what is new whenever the feed is said to have grown, and by itself every `poll_seconds`."""
        woken = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(woken))
            tasks.create_task(self._keep_looking_at_members())
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
        more = True
        while more:
            try:
                news = await self._read(self._newest)
                await self.before_delivery()
            except Exception:  # a database that is away for a while must not end the feed
                log.exception("feed.unreadable")
                return
            if any(item.event.kind == EventKind.MEMBERS_CHANGED for item in news):
                # Before what came after it is told to anybody.
                await self._look_at_members()
            for item in news:
                self._take(replace(item, live=True))
            for project_id in {item.event.project_id for item in news}:
                self._wake(project_id)
            more = len(news) == _BATCH

    def _take(self, item: Happened) -> None:
        if takes_sight(item.event):
            self._hide(item.event.project_id, item.event.image_id)
        self._ring.append(item)
        self._positions.append(item.position)
        self._newest = item.position
        if item.image is not None:
            self._at_hand(item.image)
        moved = item.event.kind in (EventKind.STATUS_CHANGED, EventKind.DELETED)
        if moved and (item.image is None or item.image.status in SETTLED):
            self.board.settle(item.event.image_id, item.event.occurred_at)
        if len(self._ring) >= 2 * self.ring_size:  # cut in large steps, so that it costs nothing per event
            self._ring_begins = self._positions[self.ring_size - 1]
            del self._ring[: self.ring_size], self._positions[: self.ring_size]

    def _hide(self, project_id: str, image_id: str) -> None:
        """What a project may not see any more, it is not shown by older events either, to watchers that come late."""
        for at, item in enumerate(self._ring):
            if item.image is not None and (item.event.project_id, item.event.image_id) == (project_id, image_id):
                self._ring[at] = replace(item, image=None, live=False)

    def _at_hand(self, image: Image) -> None:
        self._images[image.id] = image
        self._images.move_to_end(image.id)
        while len(self._images) > _IMAGES_AT_HAND:
            self._images.popitem(last=False)

    def _wake(self, project_id: str) -> None:
        grown = self._grown.pop(project_id, None)
        if grown is not None:
            grown.set()

    async def _read(self, after: int, wanted: Wanted | None = None) -> list[Happened]:
        async with self.database.read() as session:
            if wanted is None:
                events = await feed.events_after(session, after, _BATCH)
            else:
                events = await feed.events_for(session, wanted, _BATCH, after=after)
            return await happened(session, events)

    async def _keep_looking_at_members(self) -> None:
        """The feed tells of members that have changed; but who changes the tables by hand says nothing."""
        while True:
            await asyncio.sleep(self.poll_seconds)
            await self._look_at_members()

    async def _look_at_members(self) -> None:
        try:
            await self._refresh_members()
        except Exception:  # as above; meanwhile nobody is known, and each is looked up
            log.exception("feed.members_unreadable")
            self._members = {}

    async def _refresh_members(self) -> None:
        """Wake the watchers of a project whose members have changed: some may not watch any more."""
        watched = [project_id for project_id, count in self._watchers.items() if count > 0]
        members: dict[str, dict[str, ProjectRole]] = {}
        if watched:
            async with self.database.read() as session:
                members = await tenancy.everybody_in(session, watched)
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
        after: int | None,
        image_id: str | None = None,
        progress: bool = True,
    ) -> AsyncIterator[Item]:
        """What happens in a project after a position, or, without one, from now on.

        Raises NotFound when the viewer may not see the project, or the one image that is followed, at once or as soon
        as the right is taken away.
        """
        async with self.database.read() as session:
            await tenancy.project_for(session, viewer, project_id)
            newest = await feed.newest_position(session)
        self._watchers[project_id] += 1
        try:
            if after is not None and after > newest:
                yield Resync(newest, newest)
            position = newest if after is None or after > newest else after
            seen = self.board.version
            while True:
                grown = self._grown.setdefault(project_id, asyncio.Event())
                wanted = Wanted(project_id, await self._require_role(viewer, project_id), image_id)
                items, position = await self._since(position, wanted)
                for item in items:
                    yield item
                    if image_id is not None and isinstance(item, Happened) and takes_sight(item.event):
                        await self._require_sight(project_id, image_id)
                if progress:
                    version, seen = seen, self.board.version
                    for made in await self._progress_since(version, position, project_id, image_id):
                        yield made
                if not items:
                    await grown.wait()
        finally:
            self._watchers[project_id] -= 1

    async def _require_role(self, viewer: Viewer, project_id: str) -> ProjectRole:
        role = ProjectRole.ADMIN if viewer.operator else self._members.get(project_id, {}).get(viewer.subject)
        if role is None:
            # What is known here may be older than the right: only the table can say that it is gone.
            async with self.database.read() as session:
                role = await tenancy.role_in(session, viewer, project_id)
        if role is None:
            raise NotFound("This project can't be seen any more: the right was taken away.")
        return role

    async def _require_sight(self, project_id: str, image_id: str) -> None:
        # It may have been shared again since.
        async with self.database.read() as session:
            if not await access.seen_by_projects(session, {(project_id, image_id)}):
                raise NotFound("This image can't be seen any more: it is not shared with the project now.")

    async def _since(self, position: int, wanted: Wanted) -> tuple[Sequence[Item], int]:
        """What a watcher has not seen yet, and where it stands after that."""
        if position >= self._ring_begins:
            news = self._ring[bisect_right(self._positions, position) :]
            return [item for item in news if wanted.includes(item.event)], max(position, self._newest)
        known = self._newest
        async with self.database.read() as session:
            oldest = await feed.oldest_position(session)
        if position < oldest:
            return [Resync(known, oldest)], known
        items = await self._read(position, wanted)
        if len(items) == _BATCH:
            return items, items[-1].position
        return items, max([known, *(item.position for item in items)])

    async def _progress_since(
        self, version: int, position: int, project_id: str, image_id: str | None
    ) -> list[Progressed]:
        news = [
            progress
            for progress in self.board.newer_than(version)
            if progress.report.project_id == project_id and image_id in (None, progress.report.image_id)
        ]
        missing = {progress.report.image_id for progress in news} - self._images.keys()
        if missing:
            async with self.database.read() as session:
                for image in (await session.execute(select(Image).where(col(Image.id).in_(missing)))).scalars():
                    self._at_hand(image)
        return [
            Progressed(position, progress, self._images[progress.report.image_id])
            for progress in reversed(news)
            if progress.report.image_id in self._images
        ]


async def happened(session: AsyncSession, events: Sequence[Event]) -> list[Happened]:
    """Events with their images, as far as the projects whose events they are can see them by now."""
    seen = await access.seen_by_projects(session, {(event.project_id, event.image_id) for event in events})
    return [Happened(event, seen.get((event.project_id, event.image_id))) for event in events]


def takes_sight(event: Event) -> bool:
    """Whether with this event its project stops to see an image that was shared with it."""
    return event.kind == EventKind.SHARE_CHANGED and bool(event.detail["ends"])
