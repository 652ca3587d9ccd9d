"""What all bells of hosts owe, whatever carries them.

A test module of an adapter subclasses HostBellsContract and provides the fixture `place`.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from app.ports import HostBells


@dataclass
class BellsPlace:
    """Bells to test: `here` rings them, `there` is the process of a host."""

    here: HostBells
    there: HostBells


@dataclass
class Sleeper:
    """A host that counts how often it was woken."""

    woken: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def sleep(self, bells: HostBells, host_id: str) -> None:
        async for _ in bells.listen(host_id):
            async with self.changed:
                self.woken += 1
                self.changed.notify_all()

    async def until(self, times: int) -> None:
        """Wait until it was woken that often. Raises TimeoutError."""
        async with asyncio.timeout(30), self.changed:
            await self.changed.wait_for(lambda: self.woken >= times)


@asynccontextmanager
async def sleeping(bells: HostBells, host_id: str) -> AsyncIterator[Sleeper]:
    """A host that hears every ring from here on, and has been woken once."""
    sleeper = Sleeper()
    task = asyncio.create_task(sleeper.sleep(bells, host_id))
    try:
        await sleeper.until(1)
        yield sleeper
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class HostBellsContract:
    """The tests."""

    pytestmark = pytest.mark.anyio

    async def test_a_host_is_woken_when_it_listens_and_when_its_bell_rings(self, place: BellsPlace) -> None:
        async with sleeping(place.there, "hst_1") as sleeper:
            for times in (2, 3):
                place.here.ring("hst_1")
                await sleeper.until(times)

    async def test_the_bell_of_one_host_does_not_wake_another(self, place: BellsPlace) -> None:
        async with sleeping(place.there, "hst_1") as sleeper, sleeping(place.there, "hst_2") as other:
            for times in range(2, 5):
                place.here.ring("hst_1")
                await sleeper.until(times)
            place.here.ring("hst_2")
            await other.until(2)
            assert other.woken == 2

    async def test_any_thread_may_ring(self, place: BellsPlace) -> None:
        async with sleeping(place.there, "hst_1") as sleeper:
            thread = threading.Thread(target=place.here.ring, args=("hst_1",))
            thread.start()
            await sleeper.until(2)
            thread.join()

    async def test_ringing_for_a_host_that_does_not_listen_is_harmless(self, place: BellsPlace) -> None:
        place.here.ring("hst_1")
        async with sleeping(place.there, "hst_1"):
            pass
        place.here.ring("hst_1")
        async with sleeping(place.there, "hst_1") as sleeper:
            place.here.ring("hst_1")
            await sleeper.until(2)
