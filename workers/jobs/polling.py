"""Polls the job table while the broker is down."""

import asyncio
from dataclasses import dataclass, field

import structlog

from app.errors import GatewayError
from app.ports import JobQueue
from workers.jobs.runner import JobRunner
from workers.jobs.turn_clock import set_within

log = structlog.get_logger()


@dataclass(slots=True)
class JobPolling:
    """Checks the broker every `seconds`, and starts due jobs while it is down. Lives in the workers' event loop."""

    queue: JobQueue
    runner: JobRunner
    seconds: float
    _over: asyncio.Event = field(default_factory=asyncio.Event)
    _polling: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Poll until `stop`."""
        self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop polling. Started jobs continue: they belong to the runner."""
        self._over.set()
        if self._polling is not None:
            await self._polling

    async def _poll(self) -> None:
        while not await set_within(self._over, self.seconds):
            try:
                if await self._broker_is_down():
                    await self.runner.take_due()
            except Exception:  # a database that is down as well must not end this
                log.warning("polling.failed", exc_info=True)

    async def _broker_is_down(self) -> bool:
        try:
            await self.queue.check()
        except GatewayError:
            return True
        return False
