"""Wake-ups between the event loops of one process."""

import asyncio
from collections.abc import AsyncIterator

from app.ports import ProgressReport


class LocalWakeups:
    """`ports.Wakeups` for a process that runs API and workers in its own threads. Thread-safe."""

    def __init__(self) -> None:
        self._listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[ProgressReport | None]]] = []

    def feed_grew(self) -> None:
        """As the port says."""
        self._notify(None)

    def progressed(self, report: ProgressReport) -> None:
        """As the port says."""
        self._notify(report)

    async def listen(self) -> AsyncIterator[ProgressReport | None]:
        """As the port says."""
        listener = (asyncio.get_running_loop(), asyncio.Queue[ProgressReport | None]())
        self._listeners.append(listener)
        try:
            while True:
                yield await listener[1].get()
        finally:
            self._listeners.remove(listener)

    def _notify(self, news: ProgressReport | None) -> None:
        for loop, queue in list(self._listeners):
            try:
                loop.call_soon_threadsafe(queue.put_nowait, news)
            except RuntimeError:  # the loop has ended, and its listener with it
                continue
