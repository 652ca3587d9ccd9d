"""Watching: each process reads the feed once into a ring; a watcher is a cursor into it (design/feed.md)."""

import asyncio
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import structlog
from sqlmodel import col, select

from app.catalog import feed, tenancy
from app.catalog.progress import Progress, ProgressBoard
from app.database import Database
from app.errors import NotFound
from app.lifecycle import SETTLED, EventKind
from app.models import Event, Image, Membership
from app.ports import Wakeups
from app.viewer import Viewer

log = structlog.get_logger()

# How many events are read from the table at once, when a watcher has fallen behind the ring.
_BATCH = 500
# Images whose newest state is kept at hand for progress events.
_IMAGES_AT_HAND = 10_000


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the feed, with its image as it was when this process read the event; None when deleted.

    `live` says that it was read when it came, and not later for somebody who had fallen behind.
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


@dataclass(slots=True)
class Feed:
    """The feed as this process sees it. `run` fills it; `follow` reads it, at each watcher's own pace."""

    database: Database
    wakeups: Wakeups
    board: ProgressBoard
    ring_size: int
    poll_seconds: float
    # Events that are newer than `_ring_begins`, ascending, and their positions.
    _ring: list[Happened] = field(default_factory=list)
    _positions: list[int] = field(default_factory=list)
    _ring_begins: int = 0
    _newest: int = 0
    _images: OrderedDict[str, Image] = field(default_factory=OrderedDict)
    # By project: what its watchers wait for, how many they are, and who may watch.
    _grown: dict[str, asyncio.Event] = field(default_factory=dict)
    _watchers: Counter[str] = field(default_factory=Counter)
    _members: dict[str, set[str]] = field(default_factory=dict)

    async def start(self) -> None:
        """Begin at the newest event: what is older is read from the table when somebody asks for it."""
        async with self.database.read() as session:
            self._newest = self._ring_begins = await feed.newest_position(session)

    async def run(self) -> None:
        """Read what is new whenever the feed is said to have grown, and by itself every `poll_seconds`."""
        woken = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(woken))
            tasks.create_task(self._look_at_members())
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
                happened = await self._read(self._newest)
            except Exception:  # a database that is away for a while must not end the feed
                log.exception("feed.unreadable")
                return
            for item in happened:
                self._take(replace(item, live=True))
            for project_id in {item.event.project_id for item in happened}:
                self._wake(project_id)
            more = len(happened) == _BATCH

    def _take(self, item: Happened) -> None:
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

    def _at_hand(self, image: Image) -> None:
        self._images[image.id] = image
        self._images.move_to_end(image.id)
        while len(self._images) > _IMAGES_AT_HAND:
            self._images.popitem(last=False)

    def _wake(self, project_id: str) -> None:
        grown = self._grown.pop(project_id, None)
        if grown is not None:
            grown.set()

    async def _read(self, after: int, project_id: str | None = None, image_id: str | None = None) -> list[Happened]:
        async with self.database.read() as session:
            events = await feed.events_after(session, after, _BATCH, project_id=project_id, image_id=image_id)
            ids = {event.image_id for event in events}
            query = select(Image).where(col(Image.id).in_(ids), col(Image.deleted_at).is_(None))
            images = {image.id: image for image in (await session.execute(query)).scalars()} if ids else {}
        return [Happened(event, images.get(event.image_id)) for event in events]

    async def _look_at_members(self) -> None:
        """Wake the watchers of a project whose members have changed: some may not watch any more."""
        while True:
            await asyncio.sleep(self.poll_seconds)
            try:
                await self._refresh_members()
            except Exception:  # as above
                log.exception("feed.members_unreadable")

    async def _refresh_members(self) -> None:
        watched = [project_id for project_id, count in self._watchers.items() if count > 0]
        members: dict[str, set[str]] = {project_id: set() for project_id in watched}
        query = select(Membership.project_id, Membership.subject).where(col(Membership.project_id).in_(watched))
        if watched:
            async with self.database.read() as session:
                for project_id, subject in (await session.execute(query)).all():
                    members[project_id].add(subject)
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

        Raises NotFound when the viewer may not see the project, at once or as soon as the right is taken away.
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
                await self._require_member(viewer, project_id)
                items, position = await self._since(position, project_id, image_id)
                for item in items:
                    yield item
                if progress:
                    version, seen = seen, self.board.version
                    for made in await self._progress_since(version, position, project_id, image_id):
                        yield made
                if not items:
                    await grown.wait()
        finally:
            self._watchers[project_id] -= 1

    async def _require_member(self, viewer: Viewer, project_id: str) -> None:
        members = self._members.get(project_id)
        if members is None or viewer.subject in members:
            return
        # What is known here may be older than the right: only the table can say that it is gone.
        async with self.database.read() as session:
            if await tenancy.role_in(session, viewer, project_id) is None:
                raise NotFound("This project can't be seen any more: the right was taken away.")

    async def _since(self, position: int, project_id: str, image_id: str | None) -> tuple[Sequence[Item], int]:
        """What a watcher has not seen yet, and where it stands after that."""
        if position >= self._ring_begins:
            news = self._ring[bisect_right(self._positions, position) :]
            return [item for item in news if _concerns(item, project_id, image_id)], max(position, self._newest)
        known = self._newest
        async with self.database.read() as session:
            oldest = await feed.oldest_position(session)
        if position < oldest:
            return [Resync(known, oldest)], known
        items = await self._read(position, project_id, image_id)
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


def _concerns(item: Happened, project_id: str, image_id: str | None) -> bool:
    return item.event.project_id == project_id and image_id in (None, item.event.image_id)
