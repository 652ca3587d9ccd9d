"""A host in the test's own process, on a hypervisor in memory."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from app.catalog.catalogue import Catalogue
from app.catalog.snapshots import capturing
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CaptureVolume
from app.errors import ImageFailed
from app.lifecycle import JobState, ServerGoal, ServerStatus
from app.models import Job, now
from app.sizes import MIB
from tests.support.gateway import Gateway
from tests.support.memory_hypervisor import BLOCK, MemoryHypervisor
from tests.support.serving_servers import about, add_host, remove_hosts, server_row
from workers.capture.task import Captured, CaptureTask
from workers.errors import Cancelled
from workers.hypervisor.bases import BaseCache
from workers.hypervisor.files import HostFiles
from workers.jobs.bases import Provide, StoredBases
from workers.jobs.capturing import Capturing, Store
from workers.jobs.host_runner import HostRunner
from workers.jobs.host_schedule import HostSchedule
from workers.jobs.hosting import Hosting

STORED = Captured(virtual_size=MIB, stored_size=MIB, file_size=MIB)


def store_point(gateway: Gateway, task: CaptureTask) -> Captured:
    """Store what the first MiB of a point has besides its base: block by block, in place of a qcow2."""
    content = b""
    for offset in range(0, min(task.reader.size, MIB), BLOCK):
        (extent,) = task.reader.extents(offset, BLOCK)
        if extent.data and not extent.base:
            block = bytearray(extent.length)
            task.reader.read_into(offset, memoryview(block))
            content += block
        task.progress(offset, task.reader.size)
        task.require_room(len(content))
    path = gateway.store.path(task.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Captured(task.reader.size, len(content), len(content))


class HeldStore:
    """Stores points once `go` is set, unless it is cancelled before. `began` says that it was called."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.began, self.go = threading.Event(), threading.Event()

    def __call__(self, task: CaptureTask) -> Captured:
        self.began.set()
        for _ in range(10_000):
            if self.go.wait(0.005):
                return self._store(task)
            if task.cancelled.is_set():
                break
        raise Cancelled("while held")

    async def reached(self) -> None:
        """Wait until it was called."""
        assert await asyncio.to_thread(self.began.wait, 30)


@dataclass
class Bench:
    """A host with its hypervisor, and the process that works for it, which stores points with `store`."""

    gateway: Gateway
    host_id: str
    hypervisor: MemoryHypervisor
    folder: Path
    bases: StoredBases
    store: Store
    runner: HostRunner = field(init=False)

    def __post_init__(self) -> None:
        self.restarted()

    def write(self, volume_id: str, text: bytes, at: int = 0) -> None:
        """Write a whole block of a volume, by its number, as its guest does. It begins with a text."""
        self.hypervisor.write(volume_id, at * BLOCK, text.ljust(BLOCK, b"."))

    def hold_store(self) -> HeldStore:
        """Make the storing of points wait, instead of what it did before."""
        self.store = held = HeldStore(partial(store_point, self.gateway))
        return held

    def fetched(self) -> list[Path]:
        """The base images that the host has."""
        return list((self.folder / "bases").iterdir())

    def restarted(self, provide: Provide | None = None) -> HostRunner:
        """Another process for the same host, after the one before was killed."""
        catalogue: Catalogue = self.gateway.catalogue
        captures = Capturing(catalogue, self.hypervisor, self.gateway.wakeups, lambda task: self.store(task))
        hosting = Hosting(catalogue, self.hypervisor, provide or self.bases.base, captures)
        self.runner = HostRunner(catalogue.database, hosting, self.gateway.settings, self.host_id)
        return self.runner

    async def work(self) -> None:
        """Do the jobs that are due, and those that follow."""
        await self.runner.take_due()
        await self.runner.idle()

    async def due_now(self) -> None:
        """Make the jobs that wait for a retry due, and let the leases of killed processes expire."""
        for job in await self.unfinished():
            await self.gateway.change(Job, job.id, due_at=now(), lease_until=now() - timedelta(seconds=1))

    async def sweep(self) -> None:
        said = about(str(self.folder))
        await HostSchedule(self.gateway.database, self.hypervisor, said, self.host_id).sweep()

    async def status(self, server: dict[str, Any]) -> tuple[ServerStatus, ServerGoal]:
        row = await server_row(self.gateway, server["id"])
        return row.status, row.goal

    async def unfinished(self) -> list[Job]:
        return [
            job for job in await self.gateway.all_jobs() if job.host_id == self.host_id and job.state != JobState.DONE
        ]


async def capture(catalogue: Catalogue, claim: Claim[CaptureVolume], stored: Captured = STORED) -> None:
    """Do a capture, or what is left of it, without a hypervisor."""
    order = await capturing.order_for(catalogue, claim)
    if order is not None:
        if order.captured_at is None:
            await capturing.taken(catalogue, claim, now(), quiet=True)
        try:
            await capturing.succeed(catalogue, claim, order, stored)
        except ImageFailed as failure:
            await capturing.fail(catalogue, claim, failure)
    await capturing.undone(catalogue, claim)


@asynccontextmanager
async def working(bench: Bench) -> AsyncIterator[None]:
    """The host does its jobs as they come, during the block."""

    async def listen() -> None:
        async for _ in bench.gateway.bells.listen(bench.host_id):
            bench.runner.wake()

    running, listening = asyncio.create_task(bench.runner.run()), asyncio.create_task(listen())
    try:
        yield
    finally:
        listening.cancel()
        await bench.runner.stop()
        await running


@asynccontextmanager
async def host_bench(gateway: Gateway, folder: Path) -> AsyncIterator[Bench]:
    """The only host of a gateway, whose files are in a folder."""
    await remove_hosts(gateway)
    host_id = await add_host(gateway, str(folder))
    bases = StoredBases(BaseCache(HostFiles(folder), 0), gateway.store)
    bench = Bench(gateway, host_id, MemoryHypervisor(), folder, bases, partial(store_point, gateway))
    try:
        yield bench
    finally:
        await bench.runner.stop()
