"""Wakes the hosts that run in this process when they have a new job."""

import threading
from collections.abc import Callable


class HostBells:
    """A bell per host. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._bells: dict[str, Callable[[], object]] = {}

    def listen(self, host_id: str, ring: Callable[[], object]) -> None:
        """Call `ring` whenever the host has a job. It is called from any thread, and must neither block nor raise."""
        with self._guard:
            self._bells[host_id] = ring

    def leave(self, host_id: str) -> None:
        """Stop calling the host."""
        with self._guard:
            self._bells.pop(host_id, None)

    def ring(self, host_id: str) -> None:
        """Wake a host, if it is in this process. Never blocks for long, and never raises."""
        with self._guard:
            ring = self._bells.get(host_id)
        if ring is not None:
            ring()
