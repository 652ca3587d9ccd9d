"""A host whose hypervisor is of nothing but names, and the process that works for it, step by step."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from app.lifecycle import JobState, ServerGoal, ServerStatus
from app.models import Job, now
from tests.support.gateway import Gateway
from tests.support.scripted_hypervisor import ScriptedHypervisor
from tests.support.serving_servers import about, add_host, remove_hosts, server_row
from workers.hypervisor.bases import BaseCache
from workers.hypervisor.files import HostFiles
from workers.jobs.bases import StoredBases
from workers.jobs.host_runner import HostRunner
from workers.jobs.host_schedule import HostSchedule
from workers.jobs.hosting import Hosting


@dataclass
class Bench:
    """A host with its hypervisor, and the process that works for it."""

    gateway: Gateway
    host_id: str
    hypervisor: ScriptedHypervisor
    folder: Path
    bases: StoredBases
    runner: HostRunner

    def fetched(self) -> list[Path]:
        """The base images that the host has."""
        return list((self.folder / "bases").iterdir())

    def restarted(self) -> HostRunner:
        """Another process for the same host, after the one before was killed."""
        hosting = Hosting(self.gateway.catalogue, self.hypervisor, self.bases.base)
        self.runner = HostRunner(self.gateway.database, hosting, self.gateway.settings, self.host_id)
        return self.runner

    async def work(self) -> None:
        """Do the jobs that are due, and those that follow."""
        await self.runner.take_due()
        await self.runner.idle()

    async def due_now(self) -> None:
        """Make the jobs that wait for a retry due, and let the leases of killed processes expire."""
        for job in await self.gateway.all_jobs():
            if job.host_id == self.host_id and job.state != JobState.DONE:
                await self.gateway.change(Job, job.id, due_at=now(), lease_until=now() - timedelta(seconds=1))

    async def sweep(self) -> None:
        said = about(str(self.folder))
        await HostSchedule(self.gateway.database, self.hypervisor, said, self.host_id).sweep()

    async def status(self, server: dict[str, Any]) -> tuple[ServerStatus, ServerGoal]:
        row = await server_row(self.gateway, server["id"])
        return row.status, row.goal

    async def unfinished(self) -> list[Job]:
        return [job for job in await self.gateway.all_jobs() if job.host_id == self.host_id and job.state != "DONE"]


@asynccontextmanager
async def host_bench(gateway: Gateway, folder: Path) -> AsyncIterator[Bench]:
    """The only host, with its files in a folder."""
    await remove_hosts(gateway)
    host_id = await add_host(gateway, str(folder))
    hypervisor, bases = ScriptedHypervisor(), StoredBases(BaseCache(HostFiles(folder), 0), gateway.store)
    hosting = Hosting(gateway.catalogue, hypervisor, bases.base)
    runner = HostRunner(gateway.database, hosting, gateway.settings, host_id)
    made = Bench(gateway, host_id, hypervisor, folder, bases, runner)
    try:
        yield made
    finally:
        await made.runner.stop()
