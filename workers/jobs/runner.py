"""Runs jobs, with one short actor per kind: claim a job, do it under its lease, and finish or release it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import dramatiq
import structlog

from app import metrics
from app.adapters.messaging.dramatiq_queue import QUEUE
from app.catalog.work import jobs, turns
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CONVERSIONS, JOBS, OF_WORKERS, Conversion, Detail, every_kind
from app.database.sessions import Database
from app.errors import DatabaseUnavailable, LeaseLost, StoreError
from app.lifecycle import FailureCode, JobKind
from app.ports import JobQueue
from app.settings import Settings
from workers.errors import Cancelled, NotConfined, TurnLost
from workers.jobs.conversions import Conversions, retry_delay, too_many_attempts
from workers.jobs.duties import Duties
from workers.jobs.leases import leased
from workers.jobs.turn_clock import MOST_LOST, too_slow

log = structlog.get_logger()

Duty = Callable[[Claim[Any], threading.Event], Awaitable[None]]


@dataclass(slots=True)
class JobRunner:
    """Runs the jobs of this process, and can release them all. Lives in the workers' event loop.

    `queue` wakes a worker for a conversion that had to wait until another one ended.
    """

    database: Database
    duties: Duties
    conversions: Conversions
    settings: Settings
    queue: JobQueue
    # The running jobs, each with the event that cancels it.
    _running: dict[asyncio.Task[None], threading.Event] = field(default_factory=dict)
    # Kept here, since an event loop holds only weak references to its tasks.
    _begun: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False

    @property
    def _lease(self) -> timedelta:
        return timedelta(seconds=self.settings.lease_seconds)

    @property
    def _limit(self) -> int:
        return self.settings.conversions_per_project

    async def run(self, kind: JobKind) -> None:
        """Do the due job of this kind that has waited longest, if any; for conversions, the one whose turn it is."""
        task = asyncio.current_task()
        if self._stopping or task is None:
            return
        cancelled = self._running[task] = threading.Event()
        try:
            claim = await self._claim(kind)
            if claim is not None:
                await self._do_and_wake(claim, cancelled)
        finally:
            del self._running[task]

    async def take_due(self) -> None:
        """Start due jobs without a message for them, up to the number of free workers."""
        room = self.settings.workers - len(self._running)
        if room <= 0:
            return
        due = [*await jobs.due(self.database, room), *await turns.eligible(self.database, self._limit, room)]
        for job in sorted(due, key=lambda job: job.due_at)[:room]:
            task = asyncio.create_task(self.run(job.kind))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)

    async def stop(self) -> None:
        """Release the running jobs, and start no more."""
        self._stopping = True
        # Tasks are asked to end, not cancelled: one that is writing to the database would not release it.
        for cancelled in self._running.values():
            cancelled.set()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _claim(self, kind: JobKind) -> Claim[Any] | None:
        if kind in CONVERSIONS:
            return await turns.take_turn(self.database, self._lease, self._limit)
        if kind is JobKind.ERASE:  # freeing space has to work without free space
            return await self.database.freeing(lambda: jobs.claim(self.database, kind, self._lease))
        return await jobs.claim(self.database, kind, self._lease)

    async def _do_and_wake(self, claim: Claim[Any], cancelled: threading.Event) -> None:
        try:
            await self._do(claim, cancelled)
        finally:
            if claim.kind in CONVERSIONS:
                await self._wake_for_waiting(claim)

    async def _wake_for_waiting(self, ended: Claim[Detail]) -> None:
        """Wake a worker for a conversion that the project's limit held back; its own message was already used."""
        try:
            some_wait = await turns.project_has_eligible(self.database, str(ended.image_id), self._limit)
        except DatabaseUnavailable as error:  # the sweep finds them
            log.warning("turn.not_announced", image=ended.image_id, reason=str(error))
            return
        if some_wait:
            self.queue.wake(ended.kind)

    async def _do(self, claim: Claim[Any], cancelled: threading.Event) -> None:
        try:
            if claim.attempt > self.settings.job_attempts and await self._give_up(claim, FailureCode.INTERNAL):
                return
            await self._attempt(claim, cancelled)
        except (LeaseLost, Cancelled):
            await jobs.requeue(self.database, claim, delay=timedelta(0), failed=False)
            log.info("job.released", job=claim.job_id, kind=claim.kind)
        except DatabaseUnavailable as error:
            # Not the job's fault, so it costs no attempt. If this fails too, the lease expires.
            log.warning("job.without_database", job=claim.job_id, kind=claim.kind, reason=str(error))
            await jobs.requeue(self.database, claim, delay=retry_delay(claim.attempt), failed=False)
        except NotConfined as error:
            # Not the job's fault either: it waits for a worker that can do it.
            log.error("job.not_confined", job=claim.job_id, reason=str(error))
            await jobs.requeue(self.database, claim, delay=self._lease, failed=False)
        except Exception as error:
            await self._failed(claim, error)

    async def _attempt(self, claim: Claim[Any], cancelled: threading.Event) -> None:
        try:
            async with leased(self.database, claim, self.settings.lease_seconds, cancelled.set):
                with metrics.job(claim.kind):
                    await _DUTIES[claim.kind](self)(claim, cancelled)
        except TurnLost as loss:
            await self._lost_turn(claim, loss)

    async def _lost_turn(self, claim: Claim[Conversion], loss: TurnLost) -> None:
        """Requeue a conversion that took too long while others waited, or set its image to ERROR."""
        lost = claim.detail.lost + 1
        if lost > MOST_LOST:
            await self.conversions.give_up(claim, too_slow(loss.source_size, lost))
        else:
            await turns.move_to_end(self.database, claim, lost)

    async def _failed(self, claim: Claim[Any], error: Exception) -> None:
        metrics.JOB_FAILURES.labels(claim.kind).inc()
        log.warning("job.failed", job=claim.job_id, kind=claim.kind, attempt=claim.attempt, exc_info=error)
        storage = isinstance(error, StoreError | OSError)
        code = FailureCode.STORAGE_UNAVAILABLE if storage else FailureCode.INTERNAL
        if claim.attempt >= self.settings.job_attempts and await self._give_up(claim, code):
            return
        await jobs.requeue(self.database, claim, delay=retry_delay(claim.attempt))

    async def _give_up(self, claim: Claim[Any], code: FailureCode) -> bool:
        """Set the image of a conversion to ERROR, and what a check was to find out to UNKNOWN.

        Returns False for other jobs, which are retried forever.
        """
        if claim.kind is JobKind.CHECK_READINESS:
            await self.duties.give_up_readiness(claim)
            return True
        if claim.kind not in CONVERSIONS:
            return False
        await self.conversions.give_up(claim, too_many_attempts(code))
        return True


# The method that does each kind of job.
_DUTIES: Mapping[JobKind, Callable[[JobRunner], Duty]] = every_kind(
    {
        JobKind.INSPECT_HEAD: lambda worker: worker.duties.inspect_head,
        JobKind.CONVERT: lambda worker: worker.conversions.convert,
        JobKind.STREAM_RANGE: lambda worker: worker.conversions.stream_range,
        JobKind.ASSEMBLE: lambda worker: worker.conversions.assemble,
        JobKind.HASH: lambda worker: worker.duties.hash,
        JobKind.CHECK_READINESS: lambda worker: worker.duties.check_readiness,
        JobKind.ERASE: lambda worker: worker.duties.erase,
    },
    OF_WORKERS,
)


def declare_actors(broker: dramatiq.Broker, run: Callable[[JobKind], Awaitable[None]]) -> None:
    """Declare an actor per kind of job that calls `run`. Rows, leases and sweeps replace Dramatiq's retries.

    The jobs of hosts have none: see `workers.hosts`.
    """
    for kind, known in JOBS.items():
        metrics.JOB_FAILURES.labels(kind)  # created before the first failure, so that Prometheus sees an increase
        if kind not in OF_WORKERS:
            continue
        declare = dramatiq.actor(broker=broker, actor_name=kind.lower(), queue_name=QUEUE, priority=known.priority)
        declare(_actor(run, kind))


def _actor(run: Callable[[JobKind], Awaitable[None]], kind: JobKind) -> Callable[..., Awaitable[None]]:
    async def act(*_job_id: str) -> None:
        # Messages from before migration 0007 contain a job's id. They wake a worker like all others.
        await run(kind)

    return act
