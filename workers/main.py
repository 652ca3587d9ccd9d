"""The workers of one process: Dramatiq's threads and event loop, the jobs that they do, and the clock."""

import asyncio
from collections.abc import Callable
from typing import Any, Self

import dramatiq
from dramatiq.asyncio import get_event_loop_thread

from app.adapters.dramatiq_queue import DramatiqQueue
from app.adapters.folder import FolderStore
from app.catalog.uploads import Uploads
from app.database import Database
from app.models import Event, Job
from app.ports import Wakeups
from app.settings import Settings
from workers.actors import Foreman, declare_actors
from workers.duties import Duties
from workers.limits import Limits
from workers.schedule import Schedule

_BETWEEN_LOOKS_MS = 100


class Workers:
    """Everything that works off jobs in this process. It has a database of its own, for its own event loop."""

    def __init__(
        self,
        settings: Settings,
        broker: dramatiq.Broker,
        wakeups: Wakeups,
        announce: Callable[[list[Job], list[Event]], None],
    ) -> None:
        self._settings = settings
        self._store = FolderStore(settings.objects_path, settings.secret_bytes)
        self._database = Database(settings.database_address, announce)
        limits = Limits(max_virtual_size=settings.virtual_size_limit)
        duties = Duties(self._database, self._store, wakeups, limits, settings.progress_seconds)
        self._foreman = Foreman(self._database, duties, settings)
        declare_actors(broker, self._foreman)
        uploads = Uploads(self._database, self._store, settings)
        self._schedule = Schedule(self._database, self._store, DramatiqQueue(broker), uploads, settings)
        self._worker = dramatiq.Worker(broker, worker_threads=settings.workers, worker_timeout=_BETWEEN_LOOKS_MS)

    def __enter__(self) -> Self:
        """Begin to work. Returns at once."""
        self._worker.start()
        _in_loop(self._start())
        return self

    def __exit__(self, *_error: object) -> None:
        """Hand back what is being done, and end. Takes as long as it takes to stop a qemu process."""
        _in_loop(self._stop())
        self._worker.stop()
        self._store.close()

    async def _start(self) -> None:
        self._schedule.start()

    async def _stop(self) -> None:
        await self._schedule.stop()
        await self._foreman.stop()
        await self._database.close()


def _in_loop(coroutine: Any) -> Any:
    """Run a coroutine in the workers' event loop and wait for it."""
    thread = get_event_loop_thread()
    if thread is None:
        raise RuntimeError("the workers have not been started")
    return asyncio.run_coroutine_threadsafe(coroutine, thread.loop).result()
