"""The connections of a process, and which of them give way when the limit is reached."""

import asyncio
from typing import Protocol

import structlog

log = structlog.get_logger()

# One address may use a quarter of all connections for heads that have not arrived. Only these are counted by address:
# behind a proxy or a NAT, many clients share one, but their heads arrive quickly.
_HEADS_SHARE = 4
_LOG_SECONDS = 60.0


class Occupant(Protocol):
    """A connection."""

    address: str
    """The client's network, as returned by `network_of`."""

    def give_way(self) -> None:
        """Close immediately."""


class Room:
    """Counts connections. Those that wait for their client give way to new ones, longest waiting first.

    A connection waits for its client before the head of a request is complete, while it is idle between requests,
    and after a WebSocket's handshake until the first message. While a request is served, it never gives way.
    """

    def __init__(self, limit: int) -> None:
        """Allows at most `limit` connections."""
        self._limit = limit
        self._heads_limit = max(1, limit // _HEADS_SHARE)
        self._all: set[Occupant] = set()
        self._waiting: dict[Occupant, None] = {}  # in the order in which they began to wait
        self._heads: dict[str, dict[Occupant, None]] = {}
        self._logged_at = float("-inf")

    def enter(self, occupant: Occupant) -> bool:
        """Admit a new connection; False when all others are in use."""
        if len(self._all) >= self._limit:
            self._log()
            if not self._waiting:
                return False
            self._evict(next(iter(self._waiting)))
        self._all.add(occupant)
        return True

    def join(self, occupant: Occupant) -> None:
        """Take the place of a connection that has just left."""
        self._all.add(occupant)
        self.wait(occupant)

    def wait_for_head(self, occupant: Occupant) -> None:
        """Mark a connection that waits for the head of a request, or for the rest of it."""
        self.wait(occupant)
        heads = self._heads.setdefault(occupant.address, {})
        if len(heads) >= self._heads_limit:
            self._evict(next(iter(heads)))
        # The eviction of an address's only head removes its entry.
        self._heads.setdefault(occupant.address, heads)[occupant] = None

    def wait(self, occupant: Occupant) -> None:
        """Mark a connection that waits until its client sends something."""
        self.serve(occupant)
        self._waiting[occupant] = None

    def serve(self, occupant: Occupant) -> None:
        """Mark a connection as in use."""
        self._waiting.pop(occupant, None)
        heads = self._heads.get(occupant.address)
        if heads is not None:
            heads.pop(occupant, None)
            if not heads:
                del self._heads[occupant.address]

    def leave(self, occupant: Occupant) -> None:
        """Remove a closed connection."""
        self.serve(occupant)
        self._all.discard(occupant)

    def _evict(self, occupant: Occupant) -> None:
        self.leave(occupant)
        occupant.give_way()

    def _log(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._logged_at > _LOG_SECONDS:
            self._logged_at = now
            log.warning("connections.at_limit", limit=self._limit, waiting=len(self._waiting))
