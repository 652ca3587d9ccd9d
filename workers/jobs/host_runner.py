"""Runs the jobs of one host: claims those that are due, several at a time, and does them under their leases."""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from app import metrics
from app.catalog.servers import boot_checks
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.errors import DatabaseUnavailable, LeaseLost
from app.settings import Settings
from workers.errors import Cancelled
from workers.hypervisor.port import VolumeInUse
from workers.jobs.bases import BaseNotReady
from workers.jobs.conversions import retry_delay
from workers.jobs.hosting import DUTIES, Hosting
from workers.jobs.leases import leased
from workers.jobs.turn_clock import set_within

log = structlog.get_logger()

# They mostly wait: for the hypervisor, and for guests that shut down.
_AT_ONCE = 32
# How long to wait for what takes no attempt, such as a SHA-256 that is being computed.
_SHORTLY = timedelta(seconds=1)


@dataclass(slots=True)
class HostRunner:
    """Runs the jobs of a host until `stop`. Lives in one event loop; `wake` must be called there."""

    database: Database
    hosting: Hosting
    settings: Settings
    host_id: str
    # The running jobs, each with its id and the event that cancels it.
    _running: dict[asyncio.Task[None], tuple[str, asyncio.Event]] = field(default_factory=dict)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    _stopping: bool = False

    def wake(self) -> None:
        """Look for jobs now."""
        self._bell.set()

    async def run(self) -> None:
        """Look for jobs whenever woken, and every `poll_seconds`, until `stop`."""
        while not self._stopping:
            self._bell.clear()
            try:
                await self.take_due()
            except DatabaseUnavailable as error:
                log.warning("host.without_database", reason=str(error))
            await set_within(self._bell, self.settings.poll_seconds)

    async def take_due(self) -> None:
        """Start all jobs of the host that are due, up to the number that run at a time."""
        while not self._stopping and len(self._running) < _AT_ONCE:
            claim = await jobs.claim_of_host(self.database, self.host_id, self._lease)
            if claim is None:
                claim = await boot_checks.claim(self.database, self.host_id, self._lease)
            if claim is None:
                return
            self._cancel(claim.job_id)
            task = asyncio.create_task(self._do(claim, cancelled := asyncio.Event()))
            self._running[task] = claim.job_id, cancelled
            task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Release the running jobs, and start no more. Servers go on running."""
        self._stopping = True
        self._bell.set()
        self._cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until the jobs that run now have ended."""
        await asyncio.gather(*self._running, return_exceptions=True)

    def _cancel(self, job_id: str | None = None) -> None:
        """Cancel the running jobs, or only earlier runs of one: it was claimed again because they have lost it."""
        for running, cancelled in self._running.values():
            if job_id in (None, running):
                cancelled.set()

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self.settings.lease_seconds)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        # Others may have waited for room.
        self._bell.set()
        if not task.cancelled() and (error := task.exception()):
            log.error("job.not_released", exc_info=error)

    async def _do(self, claim: Claim[Any], cancelled: asyncio.Event) -> None:
        try:
            async with leased(self.database, claim, self.settings.lease_seconds, cancelled.set):
                with metrics.job(claim.kind):
                    await DUTIES[claim.kind](self.hosting)(claim, cancelled)
        except (LeaseLost, Cancelled):
            await jobs.requeue(self.database, claim, delay=timedelta(0), failed=False)
            log.info("job.released", job=claim.job_id, kind=claim.kind)
        except (BaseNotReady, VolumeInUse) as error:
            await self._wait(claim, error)
        except DatabaseUnavailable as error:
            # Not the job's fault, so it costs no attempt. If this fails too, the lease expires.
            log.warning("job.without_database", job=claim.job_id, kind=claim.kind, reason=str(error))
            await jobs.requeue(self.database, claim, delay=retry_delay(claim.attempt), failed=False)
        except Exception as error:
            await self._failed(claim, error)

    async def _wait(self, claim: Claim[Any], error: Exception) -> None:
        """Try again shortly, unless that has been tried for too long. It costs no attempt."""
        log.info("job.waits", job=claim.job_id, kind=claim.kind, reason=str(error))
        try:
            if await self.hosting.give_up_waiting(claim, error):
                return
        except LeaseLost:
            log.info("job.released", job=claim.job_id, kind=claim.kind)
            return
        await jobs.requeue(self.database, claim, delay=_SHORTLY, failed=False)

    async def _failed(self, claim: Claim[Any], error: Exception) -> None:
        metrics.JOB_FAILURES.labels(claim.kind).inc()
        log.warning("job.failed", job=claim.job_id, kind=claim.kind, attempt=claim.attempt, exc_info=error)
        try:
            if claim.attempt >= self.settings.job_attempts and await self.hosting.give_up(claim, error):
                return
        except LeaseLost:
            log.info("job.released", job=claim.job_id, kind=claim.kind)
            return
        await jobs.requeue(self.database, claim, delay=retry_delay(claim.attempt))
