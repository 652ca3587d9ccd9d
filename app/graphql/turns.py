"""Turns: how many operations of one caller run at a time, and that its subscriptions start one after the other."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

# After a subscription has started, the caller's next one waits five times as long as that took, so that a flood of
# starts leaves most of the loop's time to other callers. The wait has a maximum (seconds), as the start may have been
# slow for other reasons.
_REST, _LONGEST_REST = 5, 0.25


@dataclass(frozen=True, slots=True)
class _Gates:
    """Semaphores of one caller: for all operations, and for those that start a subscription."""

    running: asyncio.Semaphore
    starting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


class Turn:
    """Permission to run one operation: a caller has a limited number at a time."""

    def __init__(self, gates: _Gates) -> None:
        self._gates = gates
        self._running = False
        self._started_at: float | None = None

    async def begin(self) -> None:
        """Wait until the caller may run another operation."""
        await self._gates.running.acquire()
        self._running = True

    async def start_alone(self) -> None:
        """Wait until no other operation of the caller is starting a subscription, or has just started one.

        Clients start hundreds of them at once.
        """
        # While this operation waits for others to start, the caller's other operations may run.
        self.end()
        await self._gates.starting.acquire()
        self._started_at = asyncio.get_running_loop().time()
        await self.begin()

    def end(self) -> None:
        """Release the turn for the caller's next operation. Does nothing if it has been released."""
        if self._running:
            self._running = False
            self._gates.running.release()
        if self._started_at is not None:
            loop = asyncio.get_running_loop()
            rest = min(_REST * (loop.time() - self._started_at), _LONGEST_REST)
            self._started_at = None
            loop.call_later(rest, self._gates.starting.release)


class Turns:
    """Lets at most `at_once` operations of each caller run at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._gates: dict[str, _Gates] = {}
        self._callers: Counter[str] = Counter()

    @asynccontextmanager
    async def taken(self, caller: str) -> AsyncIterator[Turn]:
        """Wait for a turn. It ends with the block, or earlier when a subscription starts to wait."""
        gates = self._gates.setdefault(caller, _Gates(asyncio.Semaphore(self._at_once)))
        self._callers[caller] += 1
        try:
            turn = Turn(gates)
            try:
                await turn.begin()
                yield turn
            finally:
                turn.end()
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller], self._gates[caller]
