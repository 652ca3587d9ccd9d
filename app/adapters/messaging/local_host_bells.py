"""Wakes the hosts that run in this process."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator


class LocalHostBells:
    """`ports.HostBells` for a process that runs API and host in its own threads. Thread-safe."""

    def __init__(self) -> None:
        self._listeners: defaultdict[str, list[tuple[asyncio.AbstractEventLoop, asyncio.Event]]] = defaultdict(list)

    def ring(self, host_id: str) -> None:
        """As the port says."""
        for loop, rung in list(self._listeners.get(host_id, ())):
            try:
                loop.call_soon_threadsafe(rung.set)
            except RuntimeError:  # the loop has ended, and its listener with it
                continue

    async def listen(self, host_id: str) -> AsyncIterator[None]:
        """As the port says."""
        listener = (asyncio.get_running_loop(), asyncio.Event())
        self._listeners[host_id].append(listener)
        try:
            yield
            while True:
                await listener[1].wait()
                listener[1].clear()
                yield
        finally:
            self._listeners[host_id].remove(listener)
