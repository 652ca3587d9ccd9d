"""The workers of one process: Dramatiq's threads and event loop, their jobs, and the schedule."""

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import dramatiq
import structlog
from dramatiq.asyncio import get_event_loop_thread

from app.adapters.chosen import Storage, reserve_of, storage_of
from app.adapters.folder.store import FolderStore
from app.adapters.messaging.dramatiq_queue import DramatiqQueue
from app.catalog.catalogue import Catalogue
from app.catalog.upload_progress import UploadPolling
from app.database.sessions import Database
from app.errors import SettingsError
from app.models import Event, Job
from app.ports import JobQueue, Wakeups
from app.settings import Settings
from workers.errors import QemuError
from workers.jobs.conversions import Conversions
from workers.jobs.converters import Converter, FolderConverter
from workers.jobs.duties import Duties
from workers.jobs.polling import JobPolling
from workers.jobs.runner import JobRunner, declare_actors
from workers.jobs.schedule import Schedule
from workers.limits import Limits, limits_of
from workers.qemu.confinement import check_confinement

if TYPE_CHECKING:
    from app.adapters.s3.store import S3Store

log = structlog.get_logger()

Announce = Callable[[list[Job], list[Event]], None]

_POLL_MS = 100


class Workers:
    """Runs the jobs of this process. It has its own database connections, for its own event loop.

    The schedule runs here too, unless `scheduled` is False because another process runs it. Jobs are sent to `queue`,
    or to this process if there is none. Raises SettingsError if conversions can't be confined as the settings demand.
    """

    def __init__(
        self,
        settings: Settings,
        broker: dramatiq.Broker,
        wakeups: Wakeups,
        announce: Announce,
        queue: JobQueue | None = None,
        *,
        scheduled: bool = True,
    ) -> None:
        if settings.require_confinement:
            _require_confinement()
        self._settings = settings
        self._storage = storage_of(settings)
        self._database = _database(settings, announce)
        self._converter = _converter(settings, self._storage)
        catalogue = Catalogue(self._database, self._storage.store, settings)
        duties = Duties(catalogue, self._converter)
        conversions = Conversions(catalogue, wakeups, self._converter)
        sending = queue or DramatiqQueue(broker)
        self._runner = JobRunner(self._database, duties, conversions, settings, sending)
        declare_actors(broker, self._runner.run)
        self._schedule = _schedule(catalogue, self._storage, sending, wakeups) if scheduled else None
        self._worker = dramatiq.Worker(broker, worker_threads=settings.workers, worker_timeout=_POLL_MS)
        self._polling = None
        if settings.broker_url is not None:
            # Jobs that this process can't start at once are left to others.
            self._worker.queue_prefetch = settings.workers
            # A broker on another machine may be down while this process still works.
            self._polling = JobPolling(sending, self._runner, settings.poll_seconds)

    def __enter__(self) -> Self:
        """Start working. Returns at once."""
        _log_confinement()
        self._worker.start()
        _in_loop(self._start())
        return self

    def __exit__(self, *_error: object) -> None:
        """Release the running jobs and stop. Takes as long as stopping a qemu process takes."""
        _in_loop(self._stop())
        self._worker.stop()
        self._converter.close()
        self._storage.close()

    async def _start(self) -> None:
        if self._polling is not None:
            self._polling.start()
        if self._schedule is not None:
            self._schedule.start()

    async def _stop(self) -> None:
        if self._polling is not None:
            await self._polling.stop()
        if self._schedule is not None:
            await self._schedule.stop()
        await self._runner.stop()
        await self._database.close()


async def run_sweeps(
    settings: Settings, queue: JobQueue, wakeups: Wakeups, announce: Announce, stopped: threading.Event
) -> None:
    """Run only the schedule, in the current event loop, until `stopped` is set."""
    storage, database = storage_of(settings), _database(settings, announce)
    try:
        schedule = _schedule(Catalogue(database, storage.store, settings), storage, queue, wakeups)
        schedule.start()
        await asyncio.to_thread(stopped.wait)
        await schedule.stop()
    finally:
        await database.close()
        storage.close()


def _database(settings: Settings, announce: Announce) -> Database:
    connections, reserve = settings.database_connections, reserve_of(settings)
    return Database(settings.database_address, announce, connections=connections, reserve=reserve)


def _converter(settings: Settings, storage: Storage) -> Converter:
    limits = limits_of(settings)

    def in_place(folder: FolderStore) -> Converter:
        return FolderConverter(folder, limits)

    def in_store(bucket: "S3Store") -> Converter:
        # Loaded only here: a folder does without.
        from workers.jobs.store_converter import StoreConverter

        return StoreConverter(bucket.address, limits)

    return storage.by_kind(in_place, in_store)


def _schedule(catalogue: Catalogue, storage: Storage, queue: JobQueue, wakeups: Wakeups) -> Schedule:
    upload_polling = UploadPolling(catalogue, wakeups, catalogue.settings.progress_seconds)
    return storage.by_kind(
        lambda folder: Schedule(catalogue, queue, work=folder.work),
        lambda _: Schedule(catalogue, queue, upload_polling=upload_polling),
    )


def _require_confinement() -> None:
    """Raises SettingsError if qemu can't be confined: this process then converts nothing, and images stay queued."""
    try:
        check_confinement(Limits(require_bubblewrap=True))
    except (QemuError, OSError) as error:
        raise SettingsError(
            f"IMAGES_REQUIRE_CONFINEMENT: {error}. Without confinement nothing is converted, and images stay queued."
        ) from error


def _log_confinement() -> None:
    try:
        shut_in = check_confinement(Limits()).bubblewrap is not None
    except (QemuError, OSError) as error:  # conversions fail with it too, and `images doctor` says what to do
        log.error("qemu.missing", reason=str(error))
        return
    if not shut_in:
        log.warning("qemu.without_bubblewrap", hint="images doctor")


def _in_loop(coroutine: Any) -> Any:
    """Run a coroutine in the workers' event loop and wait for it."""
    thread = get_event_loop_thread()
    if thread is None:
        raise RuntimeError("the workers have not been started")
    return asyncio.run_coroutine_threadsafe(coroutine, thread.loop).result()
