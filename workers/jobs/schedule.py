"""What runs by the clock: jobs that nobody took, uploads that nobody feeds, bytes that nobody names."""

import asyncio
import math
import shutil
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from app import metrics
from app.catalog import census, conversions
from app.catalog.bill import reconciling
from app.catalog.feed import event_log
from app.catalog.upload_progress import UploadSurvey
from app.catalog.uploads import Uploads
from app.catalog.work import jobs, turns
from app.database.sessions import Database
from app.errors import DatabaseUnavailable
from app.models import now
from app.ports import JobQueue, ObjectStore
from app.settings import Settings
from workers.jobs.converters import owner_of, workspace_of

log = structlog.get_logger()

_MINUTE = 60.0
_HOUR = 3600.0


# How often the store is asked what has arrived of an upload, at most.
_LOOK_SECONDS = 1.0
# How often jobs and uploads are counted for metrics.
_CENSUS_SECONDS = 5.0
# A job that waits because every worker is busy is not sent again more often than this, in seconds.
_RESEND_SECONDS = 30.0


@dataclass(slots=True)
class Schedule:
    """The sweeps. They are harmless when several processes run them.

    `work` is the folder in which jobs leave files behind when they are killed; None when there is none that outlasts
    its process. `survey` tells how far uploads are whose bytes pass no process of the gateway.
    """

    database: Database
    store: ObjectStore
    queue: JobQueue
    uploads: Uploads
    settings: Settings
    work: Path | None = None
    survey: UploadSurvey | None = None
    # When a job was sent, by its id and the token of its last claim.
    _sent: dict[tuple[str, int], float] = field(default_factory=dict)

    # Sweeps that are under way.
    _sweeping: set[asyncio.Task[None]] = field(default_factory=set)
    _scheduler: AsyncIOScheduler = field(default_factory=lambda: AsyncIOScheduler(timezone="UTC"))

    def start(self) -> None:
        """Run the sweeps in the current event loop, each at once and then by its clock, until `stop`."""
        sweeps: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self.resend_jobs, self.settings.poll_seconds),
            (self.settle_uploads, min(_MINUTE, self.settings.upload_idle_seconds / 2)),
            (self.remove_orphans, min(_HOUR, self.settings.orphan_seconds / 2)),
            (self.prune_feed, _HOUR),
            (self.reconcile_ledger, _HOUR),
            (self.keep_reserve, _MINUTE / 2),
            (self.take_census, _CENSUS_SECONDS),
        ]
        if self.survey is not None:
            sweeps.append((self.survey.look, max(_LOOK_SECONDS, self.settings.progress_seconds)))
        often = {"trigger": "interval", "coalesce": True, "max_instances": 1, "next_run_time": now()}
        for sweep, seconds in sweeps:
            self._scheduler.add_job(self._run, args=(sweep,), id=sweep.__name__, seconds=seconds, **often)
        self._scheduler.start()

    async def stop(self) -> None:
        """Begin no more sweeps, and wait for those that are under way."""
        sweeping = list(self._sweeping)
        self._scheduler.shutdown(wait=False)
        await asyncio.gather(*sweeping, return_exceptions=True)

    async def _run(self, sweep: Callable[[], Awaitable[None]]) -> None:
        # The scheduler cancels what runs when it is shut down, and a read of the database must not be left halfway.
        task = asyncio.ensure_future(sweep())
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)

    async def resend_jobs(self) -> None:
        """Wake workers again for what is due: its message was lost, or its worker fell silent."""
        at = time.monotonic()
        self._sent = {turn: sent for turn, sent in self._sent.items() if at - sent < _RESEND_SECONDS}
        due = await jobs.due(self.database)
        # As many as may begin would do, whoever they are about: each brings a worker to the one whose turn it is.
        for job in (*due, *await turns.eligible(self.database, self.settings.conversions_per_project)):
            turn = (job.id, job.token)
            if turn not in self._sent:
                self._sent[turn] = at
                self.queue.wake(job.kind)

    async def settle_uploads(self) -> None:
        """End uploads that got no byte for too long."""
        await self.uploads.sweep()

    async def remove_orphans(self) -> None:
        """Remove objects, and files of jobs, that nobody has named for a while."""
        age = timedelta(seconds=self.settings.orphan_seconds)
        old = now() - age
        async for key in conversions.orphans(self.database, self.store, age, owner_of):
            log.info("orphan.removed", key=key)
            await self.store.delete(key)
        if self.work is not None:
            in_use = {workspace_of(*held) for held in await jobs.held(self.database)}
            await asyncio.to_thread(_remove_old_folders, self.work, old, in_use)

    async def prune_feed(self) -> None:
        """Drop events that are older than the feed is kept, and jobs that are done."""
        keep = timedelta(days=self.settings.feed_days)
        await event_log.prune(self.database, keep)
        await jobs.prune(self.database, keep)

    async def reconcile_ledger(self) -> None:
        """Mend lines of the ledger that a process of an older version has not written."""
        await reconciling.reconcile(self.database)

    async def keep_reserve(self) -> None:
        """Fill the reserve for deletions (again) when there is room for it."""
        if self.database.reserve is not None:
            await asyncio.to_thread(self.database.reserve.keep)

    async def take_census(self) -> None:
        """Count what there is to do, for metrics. They keep the newest count for a while when the database is away."""
        try:
            metrics.CATALOGUE.read(await census.take(self.database))
        except DatabaseUnavailable as error:
            log.debug("census.failed", reason=str(error))


def _remove_old_folders(parent: Path, before: datetime, in_use: set[str]) -> None:
    """Remove the folders of jobs whose process was killed; one may belong to a job that takes a day."""
    for folder in parent.iterdir():
        if folder.name not in in_use and _changed(folder) < before.timestamp():
            shutil.rmtree(folder, ignore_errors=True)


def _changed(path: Path) -> float:
    """When a folder changed, in seconds since the epoch; never, when it is being removed just now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
