"""Publishes the progress of a conversion to the image's watchers: only the newest report, at a limited rate."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.lifecycle import ImagePhase
from app.models import now
from app.ports import ProgressReport, Wakeups


@dataclass(slots=True)
class ProgressReporter:
    """Publishes the progress of one image. `report` may be called from any thread, at any rate."""

    wakeups: Wakeups
    image_id: str
    project_id: str
    seconds: float
    _newest: ProgressReport | None = None

    def report(self, phase: ImagePhase, done: int, total: int | None) -> None:
        """Record `done` of `total` bytes. Published at the next interval, unless a newer report replaces it."""
        self._newest = ProgressReport(self.image_id, self.project_id, phase, done, total, now())

    @asynccontextmanager
    async def regularly(self) -> AsyncIterator[None]:
        """Publish the newest report every `seconds` during the block."""
        publishing = asyncio.create_task(self._publish())
        try:
            yield
        finally:
            publishing.cancel()

    async def _publish(self) -> None:
        published = None
        while True:
            await asyncio.sleep(self.seconds)
            newest = self._newest
            if newest is not None and newest is not published:
                self.wakeups.progressed(newest)
                published = newest
