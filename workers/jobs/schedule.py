"""The periodic sweeps: over jobs that no worker took, idle uploads, orphaned bytes, lost servers, and the metrics."""

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
from app.catalog import census, conversions, findings, uploads
from app.catalog.bill import reconciling
from app.catalog.catalogue import Catalogue
from app.catalog.feed import event_log
from app.catalog.servers import lost_captures, watching
from app.catalog.upload_progress import UploadPolling
from app.catalog.work import jobs, turns
from app.database.sessions import Database
from app.errors import DatabaseUnavailable
from app.models import now
from app.ports import JobQueue
from app.settings import Settings
from workers.convert.workspaces import workspace_of
from workers.jobs.converters import owner_of

log = structlog.get_logger()

_MINUTE = 60.0
_HOUR = 3600.0


# The shortest interval at which the store is asked how much of an upload has arrived.
_UPLOAD_POLL_SECONDS = 1.0
# The interval at which jobs and uploads are counted for metrics.
_CENSUS_SECONDS = 5.0
# The shortest interval at which a job is sent again while it waits because all workers are busy.
_RESEND_SECONDS = 30.0


@dataclass(slots=True)
class Schedule:
    """Runs the sweeps. Several processes may run them at the same time.

    `work` is the folder in which killed jobs leave files behind; None if there is none that outlives its process.
    `upload_polling` measures uploads whose bytes go directly to the store.
    """

    catalogue: Catalogue
    queue: JobQueue
    work: Path | None = None
    upload_polling: UploadPolling | None = None
    # When each job was last sent, by its id and the token of its last claim.
    _sent: dict[tuple[str, int], float] = field(default_factory=dict)

    # The running sweeps.
    _sweeping: set[asyncio.Task[None]] = field(default_factory=set)
    _scheduler: AsyncIOScheduler = field(default_factory=lambda: AsyncIOScheduler(timezone="UTC"))

    @property
    def _database(self) -> Database:
        return self.catalogue.database

    @property
    def _settings(self) -> Settings:
        return self.catalogue.settings

    def start(self) -> None:
        """Run the sweeps in the current event loop until `stop`: each at once, then at its interval."""
        sweeps: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self.resend_jobs, self._settings.poll_seconds),
            (self.settle_uploads, min(_MINUTE, self._settings.upload_idle_seconds / 2)),
            (self.remove_orphans, min(_HOUR, self._settings.orphan_seconds / 2)),
            (self.prune_feed, _HOUR),
            (self.reconcile_ledger, _HOUR),
            (self.keep_reserve, _MINUTE / 2),
            (self.take_census, _CENSUS_SECONDS),
            (self.check_readiness, _MINUTE),
        ]
        if self.upload_polling is not None:
            sweeps.append((self.upload_polling.poll, max(_UPLOAD_POLL_SECONDS, self._settings.progress_seconds)))
        often = {"trigger": "interval", "coalesce": True, "max_instances": 1, "next_run_time": now()}
        for sweep, seconds in sweeps:
            self._scheduler.add_job(self._run, args=(sweep,), id=sweep.__name__, seconds=seconds, **often)
        # Hosts that start together with this process get the time to report.
        often["next_run_time"] = now() + timedelta(seconds=self._settings.host_seconds)
        seconds = self._settings.host_seconds / 2
        self._scheduler.add_job(self._run, args=(self.lose_servers,), id="lose_servers", seconds=seconds, **often)
        self._scheduler.start()

    async def stop(self) -> None:
        """Start no more sweeps, and wait for the running ones."""
        sweeping = list(self._sweeping)
        self._scheduler.shutdown(wait=False)
        await asyncio.gather(*sweeping, return_exceptions=True)

    async def _run(self, sweep: Callable[[], Awaitable[None]]) -> None:
        # On shutdown the scheduler cancels running sweeps, but a database read must not be interrupted.
        task = asyncio.ensure_future(sweep())
        self._sweeping.add(task)
        task.add_done_callback(self._sweeping.discard)
        with suppress(asyncio.CancelledError):
            await asyncio.shield(task)

    async def resend_jobs(self) -> None:
        """Wake workers again for due jobs whose message was lost or whose worker stopped responding."""
        at = time.monotonic()
        self._sent = {turn: sent for turn, sent in self._sent.items() if at - sent < _RESEND_SECONDS}
        due = await jobs.due(self._database)
        # It does not matter which conversions these are: each message makes a worker take the one whose turn it is.
        for job in (*due, *await turns.eligible(self._database, self._settings.conversions_per_project)):
            turn = (job.id, job.token)
            if turn not in self._sent:
                self._sent[turn] = at
                self.queue.wake(job.kind)

    async def settle_uploads(self) -> None:
        """Expire uploads that were idle for too long."""
        await uploads.sweep(self.catalogue)

    async def remove_orphans(self) -> None:
        """Delete objects, and files of jobs, that have been unreferenced for a while."""
        age = timedelta(seconds=self._settings.orphan_seconds)
        old = now() - age
        async for key in conversions.orphans(self.catalogue, age, owner_of):
            log.info("orphan.removed", key=key)
            await self.catalogue.store.delete(key)
        if self.work is not None:
            in_use = {workspace_of(*held) for held in await jobs.held(self._database)}
            await asyncio.to_thread(_remove_old_folders, self.work, old, in_use)

    async def prune_feed(self) -> None:
        """Delete events and finished jobs that are older than the feed's retention."""
        keep = timedelta(days=self._settings.feed_days)
        await event_log.prune(self._database, keep)
        await jobs.prune(self._database, keep)

    async def reconcile_ledger(self) -> None:
        """Repair the ledger where a process of an older version did not write to it."""
        await reconciling.reconcile(self._database)

    async def keep_reserve(self) -> None:
        """Fill or refill the disk reserve for deletions if there is room for it."""
        if self._database.reserve is not None:
            await asyncio.to_thread(self._database.reserve.keep)

    async def lose_servers(self) -> None:
        """Set servers to ERROR whose host is gone, and images that it was capturing."""
        await watching.lose_servers(self.catalogue)
        await lost_captures.lose(self.catalogue)

    async def check_readiness(self) -> None:
        """Start to check the readiness of images that were created before that was done."""
        await findings.check_some(self._database)

    async def take_census(self) -> None:
        """Count waiting work for the metrics. They keep the newest count for a while if the database is down."""
        try:
            metrics.CATALOGUE.read(await census.take(self._database))
        except DatabaseUnavailable as error:
            log.debug("census.failed", reason=str(error))


def _remove_old_folders(parent: Path, before: datetime, in_use: set[str]) -> None:
    """Delete the folders of killed jobs; a folder in use may be old, since a job may take a day."""
    for folder in parent.iterdir():
        if folder.name not in in_use and _changed(folder) < before.timestamp():
            shutil.rmtree(folder, ignore_errors=True)


def _changed(path: Path) -> float:
    """When a folder changed, in seconds since the epoch; infinity if it was just deleted."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
