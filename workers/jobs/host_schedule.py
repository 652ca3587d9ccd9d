"""The sweeps of one host: it reports that it is alive, and looks which of its servers still run."""

from dataclasses import dataclass

import structlog

from app.catalog.servers import hosts, watching
from app.catalog.servers.hosts import HostReport
from app.database.sessions import Database
from workers.hypervisor.port import Hypervisor, MachineState

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class HostSchedule:
    """The sweeps of the host `host_id`, which says `about` itself."""

    database: Database
    hypervisor: Hypervisor
    about: HostReport
    host_id: str

    async def sweep(self) -> None:
        """Look at the servers, then report that the host is alive. Raises HypervisorUnavailable, OSError.

        A host whose hypervisor does not answer is not alive: it gets no new servers.
        """
        await self.watch_servers()
        await hosts.report(self.database, self.about)

    async def watch_servers(self) -> None:
        """Record which servers ended by themselves, and which run again after their host was gone."""
        # In this order: a server that is started in between changes its revision.
        thought = await watching.thought_to_run(self.database, self.host_id)
        states = await self.hypervisor.servers()
        for server_id, revision in thought.items():
            running = states.get(server_id) == MachineState.RUNNING
            if await watching.found(self.database, server_id, revision, running=running):
                log.info("server.found", server=server_id, running=running)
