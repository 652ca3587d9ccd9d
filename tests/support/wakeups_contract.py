"""What all wake-ups owe, whatever carries them.

A test module of an adapter subclasses WakeupsContract and provides the fixture `place`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from app.lifecycle import ImagePhase
from app.ports import ProgressReport, Wakeups

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def report(image_id: str = "img_1", done: int = 1, total: int | None = 10) -> ProgressReport:
    """A report of an image that is so far, in bytes and in microseconds after noon."""
    return ProgressReport(image_id, "prj_1", ImagePhase.CONVERTING, done, total, NOON + timedelta(microseconds=done))


@dataclass
class WakeupsPlace:
    """Wake-ups to test: `here` sends them, and each of `there` is another process that listens."""

    here: Wakeups
    there: list[Wakeups]


@dataclass
class Ear:
    """What one process has heard so far."""

    heard: list[ProgressReport | None] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def reports(self) -> list[ProgressReport]:
        return [item for item in self.heard if item is not None]

    async def listen(self, wakeups: Wakeups) -> None:
        async for item in wakeups.listen():
            async with self.changed:
                self.heard.append(item)
                self.changed.notify_all()

    async def until(self, holds: Callable[["Ear"], bool]) -> None:
        """Wait for what has to come. Raises TimeoutError."""
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: holds(self))


@asynccontextmanager
async def listening(wakeups: Wakeups, tell: Callable[[], None]) -> AsyncIterator[Ear]:
    """An ear that hears every message from here on; `tell` sends messages until one arrives."""
    ear = Ear()
    task = asyncio.create_task(ear.listen(wakeups))
    try:
        async with asyncio.timeout(30):
            # There is no signal that a listener is ready, except that it hears something.
            while "img_probe" not in {item.image_id for item in ear.reports}:
                tell()
                await asyncio.sleep(0.01)
        ear.heard.clear()
        yield ear
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def heard(ear: Ear) -> list[ProgressReport]:
    """The reports of images, without those that woke the ear."""
    return [item for item in ear.reports if item.image_id != "img_probe"]


class WakeupsContract:
    """The tests."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    async def ear(self, place: WakeupsPlace) -> AsyncIterator[Ear]:
        """The first of the processes that listen."""
        async with listening(place.there[0], lambda: place.here.progressed(report("img_probe"))) as ear:
            yield ear

    async def test_who_listens_hears_that_the_feed_grew(self, place: WakeupsPlace, ear: Ear) -> None:
        place.here.feed_grew()
        await ear.until(lambda ear: None in ear.heard)

    @pytest.mark.parametrize(
        "sent", [report(), report(total=None), report(done=2**45, total=2**46), report(done=0, total=0)]
    )
    async def test_a_report_arrives_unchanged(self, place: WakeupsPlace, ear: Ear, sent: ProgressReport) -> None:
        place.here.progressed(sent)
        await ear.until(lambda ear: bool(heard(ear)))
        assert heard(ear) == [sent]

    async def test_everybody_who_listens_hears_it(self, place: WakeupsPlace, ear: Ear) -> None:
        async with listening(place.there[1], lambda: place.here.progressed(report("img_probe"))) as other:
            place.here.progressed(report())
            for each in (ear, other):
                await each.until(lambda each: bool(heard(each)))
                assert heard(each) == [report()]

    async def test_the_newest_report_of_every_image_comes_last(self, place: WakeupsPlace, ear: Ear) -> None:
        images = ("img_1", "img_2")
        for done in range(1, 101):
            for image_id in images:
                place.here.progressed(report(image_id, done, 100))
        await ear.until(lambda ear: {report(image_id, 100, 100) for image_id in images} <= set(ear.reports))
        for image_id in images:
            steps = [item.bytes_done for item in ear.reports if item.image_id == image_id]
            assert steps == sorted(steps)

    async def test_any_thread_may_tell(self, place: WakeupsPlace, ear: Ear) -> None:
        thread = threading.Thread(target=place.here.progressed, args=(report(),))
        thread.start()
        await ear.until(lambda ear: bool(heard(ear)))
        thread.join()

    async def test_telling_nobody_is_harmless(self, place: WakeupsPlace) -> None:
        place.here.feed_grew()
        place.here.progressed(report())

    async def test_one_who_has_gone_keeps_nobody_else_from_hearing(self, place: WakeupsPlace, ear: Ear) -> None:
        async with listening(place.there[1], lambda: place.here.progressed(report("img_probe"))):
            pass
        place.here.progressed(report())
        await ear.until(lambda ear: bool(heard(ear)))
