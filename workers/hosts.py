"""The workers of one host: they run next to its virtual machines, in a thread with an event loop of its own."""

import asyncio
import os
import secrets
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import structlog

from app.adapters.chosen import reserve_of, storage_of
from app.catalog.catalogue import Catalogue
from app.catalog.servers import hosts
from app.catalog.servers.hosts import HostReport
from app.database.sessions import Database
from app.models import Event, Job
from app.ports import HostBells, Wakeups
from app.settings import Settings
from app.sizes import GIB
from workers.capture.capturing import capture
from workers.hypervisor.accelerators import Accelerator
from workers.hypervisor.bases import BaseCache
from workers.hypervisor.port import Hypervisor
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.settings import HostSettings
from workers.jobs.bases import StoredBases
from workers.jobs.capturing import Capturing
from workers.jobs.host_runner import HostRunner
from workers.jobs.host_schedule import HostSchedule
from workers.jobs.hosting import Hosting
from workers.jobs.turn_clock import set_within
from workers.limits import limits_of

log = structlog.get_logger()

Announce = Callable[[list[Job], list[Event]], None]

# A host looks several times at its servers before it counts as gone, and often enough for users to see what ended.
_SWEEP_SECONDS = 5.0
# What base images leave free on the disk of a host, for its volumes.
_SPARE = 2 * GIB


@dataclass(frozen=True, slots=True)
class ThisHost:
    """The host on this machine: what runs its servers, what it says about itself, and its base images."""

    hypervisor: Hypervisor
    about: HostReport
    bases: BaseCache


def this_host(settings: Settings) -> ThisHost:
    """The host on this machine, on QEMU. Blocks. Raises HypervisorUnavailable if it can't run servers, OSError."""
    hypervisor = _qemu(settings)
    accelerator = asyncio.run(hypervisor.check())
    token = _token(settings.host_path)
    memory = settings.host_memory_gib * GIB if settings.host_memory_gib else _physical_memory() // 2
    about = HostReport(token, socket.gethostname(), accelerator, memory, os.cpu_count() or 1)
    return ThisHost(hypervisor, about, hypervisor.bases(_SPARE))


def accelerator_here(settings: Settings) -> Accelerator:
    """What runs the guests of this machine. Blocks, and changes nothing. Raises HypervisorUnavailable."""
    return asyncio.run(_qemu(settings).check())


def _qemu(settings: Settings) -> QemuHypervisor:
    accelerator = None if settings.accelerator == "auto" else Accelerator(settings.accelerator)
    return QemuHypervisor(HostSettings(settings.host_path, accelerator=accelerator))


def _token(folder: Path) -> str:
    """What identifies the host in the database: random, and kept in its folder."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / "token"
    with suppress(FileExistsError), path.open("x") as file:
        file.write(secrets.token_hex(16))
    return path.read_text()


def _physical_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class HostWorkers:
    """Runs the jobs and the sweeps of a host. It has its own database connections.

    Servers go on running when it stops. One process per host runs it.
    """

    def __init__(
        self, settings: Settings, host: ThisHost, bells: HostBells, wakeups: Wakeups, announce: Announce
    ) -> None:
        self._settings = settings
        self._host = host
        self._bells = bells
        self._wakeups = wakeups
        self._announce = announce
        self._started: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._over: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, name="host", daemon=True)

    def __enter__(self) -> Self:
        """Start working. Returns when the host is registered. Raises DatabaseUnavailable, StoreUnavailable."""
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_error: object) -> None:
        """Release the running jobs and stop."""
        if self._loop is not None and self._over is not None:
            self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            if self._started.done():
                log.error("host.failed", exc_info=error)
                raise
            self._started.set_exception(error)

    async def _work(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        settings = self._settings
        storage = storage_of(settings)
        connections, reserve = settings.database_connections, reserve_of(settings)
        database = Database(settings.database_address, self._announce, connections=connections, reserve=reserve)
        try:
            host_id = await hosts.report(database, self._host.about)
            bases = StoredBases(self._host.bases, storage.store)
            catalogue, hypervisor = Catalogue(database, storage.store, settings), self._host.hypervisor
            store = partial(capture, storage, limits=limits_of(settings))
            capturing = Capturing(catalogue, hypervisor, self._wakeups, store)
            hosting = Hosting(catalogue, hypervisor, bases.base, capturing)
            runner = HostRunner(database, hosting, settings, host_id)
            schedule = HostSchedule(database, self._host.hypervisor, self._host.about, host_id)
            await self._work_as(host_id, runner, schedule)
        finally:
            await database.close()
            storage.close()

    async def _work_as(self, host_id: str, runner: HostRunner, schedule: HostSchedule) -> None:
        over = self._over
        if over is None:
            raise RuntimeError("the event that ends the host is missing")

        listening = asyncio.create_task(self._listen(host_id, runner))
        running, sweeping = asyncio.create_task(runner.run()), asyncio.create_task(self._sweep(schedule, over))
        self._started.set_result(None)
        try:
            await over.wait()
        finally:
            listening.cancel()
            await runner.stop()
            await asyncio.gather(running, sweeping)
            await asyncio.gather(listening, return_exceptions=True)

    async def _listen(self, host_id: str, runner: HostRunner) -> None:
        async for _ in self._bells.listen(host_id):
            runner.wake()

    async def _sweep(self, schedule: HostSchedule, over: asyncio.Event) -> None:
        seconds = min(_SWEEP_SECONDS, self._settings.host_seconds / 3)
        while True:
            try:
                await schedule.sweep()
            except Exception:  # whatever it was may be over the next time
                log.warning("host.not_swept", exc_info=True)
            if await set_within(over, seconds):
                return
