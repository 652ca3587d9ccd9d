"""Limits how long a conversion may keep its worker while others wait: to the time expected for its size.

A conversion that takes longer is stopped and requeued. Each time it may take twice as long as before; if it has lost
its turn too often, its image is set to ERROR. Nothing happens while no other image waits.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.catalog.conversions import Assignment
from app.catalog.work import turns
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Conversion
from app.database.sessions import Database
from app.errors import DatabaseUnavailable, ImageFailed
from app.settings import Settings
from app.sizes import MIB, spelled
from workers.errors import Cancelled, TurnLost
from workers.inspection.refusals import corrupt

log = structlog.get_logger()

# How often an image may lose its turn before it fails.
MOST_LOST = 3
_BYTES_A_SECOND = 4 * MIB


def budget(settings: Settings, source_size: int, lost: int) -> float:
    """Seconds for a conversion of `source_size` bytes while others wait, after it has lost `lost` turns."""
    return (settings.turn_seconds + source_size / _BYTES_A_SECOND) * 2.0**lost


def too_slow(source_size: int, lost: int) -> ImageFailed:
    """The failure of an image that has lost its turn too often."""
    return corrupt(
        f"Converting this image takes too long for a file of {spelled(source_size)}: it was stopped {lost} times "
        "because other images were waiting.",
        "Retry once. If it fails again, create a smaller file with `qemu-img convert -O qcow2 FILE image.qcow2` and "
        "upload that.",
        retriable=True,
    )


@dataclass(frozen=True, slots=True)
class TurnClock:
    """The clock of one conversion; `cancelled` is the event that stops its work."""

    database: Database
    settings: Settings
    claim: Claim[Conversion]
    assignment: Assignment
    cancelled: threading.Event

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Wrap the work. Raises TurnLost instead of Cancelled if the clock stopped the work."""
        done = asyncio.Event()
        watching = asyncio.create_task(self._watch(done))
        try:
            yield
        except Cancelled as ended:
            done.set()
            if await watching:
                raise TurnLost(self.assignment.source_size) from ended
            raise
        finally:
            done.set()
            # The task is asked to end, not cancelled: it may be reading from the database.
            await watching

    async def _watch(self, done: asyncio.Event) -> bool:
        """Watch the clock; return whether it stopped the work because another image was waiting."""
        pause = budget(self.settings, self.assignment.source_size, self.claim.detail.lost)
        while not await set_within(done, pause):
            if await self._others_wait():
                log.info("turn.lost", image=self.assignment.image_id, lost=self.claim.detail.lost + 1)
                self.cancelled.set()
                return True
            pause = self.settings.poll_seconds
        return False

    async def _others_wait(self) -> bool:
        # A free worker may still take an image that has only just been queued.
        waiting = timedelta(seconds=2 * self.settings.poll_seconds)
        limit = self.settings.conversions_per_project
        try:
            return await turns.others_wait(self.database, self.assignment.image_id, limit, waiting)
        except DatabaseUnavailable as error:
            log.warning("turn.unknown", image=self.assignment.image_id, reason=str(error))
            return False


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait up to `seconds` for an event; return whether it was set in time."""

    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
