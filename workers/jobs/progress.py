"""Tells the watchers of an image how far its conversion is: the newest report only, and never too often."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.lifecycle import ImagePhase
from app.models import now
from app.ports import ProgressReport, Wakeups


@dataclass(slots=True)
class Telling:
    """The progress of one image. `report` may be called from any thread, as often as it likes."""

    wakeups: Wakeups
    image_id: str
    project_id: str
    seconds: float
    _newest: ProgressReport | None = None

    def report(self, phase: ImagePhase, done: int, total: int | None) -> None:
        """The conversion is so far, in bytes. Told by the next turn of the clock, if nothing newer comes first."""
        self._newest = ProgressReport(self.image_id, self.project_id, phase, done, total, now())

    @asynccontextmanager
    async def regularly(self) -> AsyncIterator[None]:
        """Tell the newest report every `seconds` during the block."""
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _tell(self) -> None:
        told = None
        while True:
            await asyncio.sleep(self.seconds)
            newest = self._newest
            if newest is not None and newest is not told:
                self.wakeups.progressed(newest)
                told = newest
