"""The sweeps of one host: it reports that it is alive, looks which servers still run, and deletes leftovers."""

from dataclasses import dataclass

import structlog

from app.catalog.servers import boot_checks, hosts, watching
from app.catalog.servers.hosts import HostReport
from app.database.sessions import Database
from workers.hypervisor.port import Hypervisor, MachineState
from workers.jobs.boot_checking import is_throwaway, name_of, remove

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HostSchedule:
    """The sweeps of the host `host_id`, which says `about` itself."""

    database: Database
    hypervisor: Hypervisor
    about: HostReport
    host_id: str

    async def sweep(self) -> None:
        """Look at the servers, report that the host is alive, and clean up. Raises HypervisorError, OSError.

        A host whose hypervisor does not answer is not alive: it gets no new servers.
        """
        await self.watch_servers()
        await hosts.report(self.database, self.about)
        await self.remove_leftovers()

    async def watch_servers(self) -> None:
        """Record which servers ended by themselves, and which run again after their host was gone."""
        # In this order: a server that is started in between changes its revision.
        thought = await watching.thought_to_run(self.database, self.host_id)
        states = await self.hypervisor.servers()
        for server_id, revision in thought.items():
            running = states.get(server_id) == MachineState.RUNNING
            if await watching.found(self.database, server_id, revision, running=running):
                log.info("server.found", server=server_id, running=running)

    async def remove_leftovers(self) -> None:
        """Delete what boot checks left that were cancelled, or moved to another host, while no process ran here."""
        servers, volumes = await self.hypervisor.servers(), await self.hypervisor.volumes()
        found = {name for name in (*servers, *volumes) if is_throwaway(name)}
        if not found:
            return
        # Read after them: a check has a job before it has a server.
        needed = {name_of(job_id) for job_id in await boot_checks.jobs_of(self.database, self.host_id)}
        for name in sorted(found - needed):
            await remove(self.hypervisor, name)
            log.info("boot_check.removed", server=name)
