"""Jobs while the broker is away: a worker finds them in the table, where a message would have told of them."""

import asyncio
from dataclasses import dataclass, field

import structlog

from app.errors import GatewayError
from app.ports import JobQueue
from workers.jobs.runner import Foreman
from workers.jobs.turn_clock import set_within

log = structlog.get_logger()


@dataclass(slots=True)
class Lookout:
    """Looks every so many `seconds` whether the broker is there. Lives in the workers' event loop."""

    queue: JobQueue
    foreman: Foreman
    seconds: float
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look until `stop`."""
        self._looking = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Look no more. What was begun goes on: it is the foreman's."""
        self._over.set()
        if self._looking is not None:
            await self._looking

    async def _look(self) -> None:
        while not await set_within(self._over, self.seconds):
            try:
                if await self._is_away():
                    await self.foreman.take_due()
            except Exception:  # a database that is away as well must not end this
                log.warning("lookout.failed", exc_info=True)

    async def _is_away(self) -> bool:
        try:
            await self.queue.check()
        except GatewayError:
            return True
        return False
