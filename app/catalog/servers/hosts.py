"""Hosts: they report what they have, and new servers are placed on one that is alive and has room."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.people.tenancy import LOCKED
from app.database.sessions import Database, Transaction
from app.errors import HostForgotten, NoHypervisor
from app.lifecycle import Architecture, JobKind, JobState, ServerGoal
from app.models import Host, Job, Server, now
from app.settings import Settings
from app.sizes import GIB, counted, spelled

# The memory of a server that checks whether an image boots, in bytes.
CHECK_MEMORY = GIB
_ASK = "Ask the operator for a host that runs servers. Everything else works without one."


@dataclass(frozen=True, slots=True)
class HostReport:
    """What a host says about itself. `memory` is what its servers may use together, in bytes.

    `token` identifies the host, also after a restart; `accelerator` is what runs its servers, such as kvm or tcg.
    Without `takes_launches`, it runs only the servers that it has.
    """

    token: str
    name: str
    accelerator: str
    memory: int
    vcpus: int
    takes_launches: bool = True


async def report(database: Database, said: HostReport) -> str:
    """Record that a host is alive, and what it says about itself. Returns its id, which is created at the first time.

    A host reports from one process at a time. Raises HostForgotten.
    """
    async with database.transaction() as tx:
        query = select(Host).where(Host.token == said.token).with_for_update(key_share=True)
        host = (await tx.session.execute(query)).scalar_one_or_none()
        if host is None:
            host = Host(token=said.token, name=said.name, accelerator=said.accelerator, memory=0, vcpus=0)
            tx.session.add(host)
        if host.forgotten_at is not None:
            raise HostForgotten(
                "an operator has removed this host with `images forget-host`. End its virtual machines and delete its "
                "folder; it then starts as a new host"
            )
        host.name, host.accelerator = said.name, said.accelerator
        host.memory, host.vcpus, host.takes_launches = said.memory, said.vcpus, said.takes_launches
        host.seen_at = now()
        return host.id


async def is_forgotten(session: AsyncSession, host_id: str, *, lock: bool = False) -> bool:
    """Whether an operator has removed a host, which then does no more jobs. With `lock`, that does not change."""
    host = await session.get_one(Host, host_id, with_for_update=LOCKED if lock else None, populate_existing=True)
    return host.forgotten_at is not None


def last_alive(settings: Settings) -> datetime:
    """A host that was last seen before this instant counts as gone."""
    return now() - timedelta(seconds=settings.host_seconds)


async def alive_among(session: AsyncSession, settings: Settings, ids: Collection[str]) -> set[str]:
    """The hosts, of these, that are not gone."""
    query = select(Host.id).where(col(Host.id).in_(ids), Host.seen_at >= last_alive(settings))
    return set((await session.execute(query)).scalars())


async def require_any(
    session: AsyncSession, settings: Settings, *, memory: int = 0, field: Sequence[str] = ("projectId",)
) -> None:
    """Raises NoHypervisor when no host with `memory` bytes takes launches; `field` is what asks for one."""
    alive = (Host.seen_at >= last_alive(settings), col(Host.takes_launches).is_(True), Host.memory >= memory)
    if (await session.execute(select(Host.id).where(*alive).limit(1))).first() is None:
        raise _no_host(field)


def require_architecture(architecture: Architecture | None, field: Sequence[str]) -> None:
    """Raises NoHypervisor when no host can run servers with this architecture. None is one that is not known."""
    if architecture not in (None, Architecture.X86_64):
        raise NoHypervisor(f"No host runs servers with the architecture {architecture}.", field=field, hint=_ASK)


async def place(
    tx: Transaction,
    settings: Settings,
    *,
    vcpus: int,
    memory: int,
    architecture: Architecture | None = None,
    only: Collection[str] = (),
) -> Host:
    """The host for a new server: of those with enough processors and memory, the one with the most free memory.

    `memory` is in bytes. `only` are the hosts that have data volumes of the server; empty if none does. The hosts are
    locked, so that no other transaction places a server until this one ends. Raises NoHypervisor.
    """
    require_architecture(architecture, ("imageId",))
    query = select(Host).where(Host.seen_at >= last_alive(settings), col(Host.takes_launches).is_(True))
    query = query.order_by(col(Host.id)).with_for_update(key_share=True)
    alive = (await tx.session.execute(query)).scalars().all()
    if not alive:
        raise _no_host()
    if set(only) - {host.id for host in alive} or len(set(only)) > 1:
        raise NoHypervisor(
            "No host has all of the data volumes: they are on different hosts, or on one that is not available.",
            field=("dataVolumeIds",),
            hint="Use volumes of one host, or new ones.",
        )
    free = await free_memory(tx.session, [host for host in alive if not only or host.id in only])
    fitting = [host for host in alive if free.get(host.id, -1) >= memory and host.vcpus >= vcpus]
    if not fitting:
        raise _no_room(vcpus, memory)
    return max(fitting, key=lambda host: free[host.id])


async def require_room(tx: Transaction, settings: Settings, server: Server) -> None:
    """Lock the host of a stopped server. Raises NoHypervisor when it is gone, or has too little free memory."""
    host = await require_alive(tx, settings, server)
    if (await free_memory(tx.session, [host]))[host.id] < server.memory:
        raise _no_room(server.vcpus, server.memory, ("serverId",))


async def require_alive(tx: Transaction, settings: Settings, server: Server) -> Host:
    """The host of a server, locked. Raises NoHypervisor when it is gone."""
    host = await tx.session.get_one(Host, server.host_id, with_for_update=LOCKED)
    _require_alive(host, settings, "server", ("serverId",))
    return host


async def require_alive_for_volume(
    session: AsyncSession, settings: Settings, host_id: str, field: Sequence[str]
) -> None:
    """Raises NoHypervisor when the host of a volume is gone. `field` is the path of its id."""
    _require_alive(await session.get_one(Host, host_id), settings, "volume", field)


def _require_alive(host: Host, settings: Settings, thing: str, field: Sequence[str]) -> None:
    if host.forgotten_at is not None:
        raise NoHypervisor(
            f"The host of the {thing} was removed, with its disks.",
            field=field,
            hint="Delete the server, and launch another one.",
        )
    if host.seen_at < last_alive(settings):
        raise NoHypervisor(
            f"The host of the {thing} is not available.",
            field=field,
            hint="Try again later, or ask the operator to start the host.",
        )


async def free_memory(session: AsyncSession, hosts: Sequence[Host]) -> dict[str, int]:
    """The memory of hosts that no server and no boot check needs, in bytes, by their ids. Stopped servers need none."""
    ids = [host.id for host in hosts]
    servers = (
        select(Server.host_id, func.sum(Server.memory))
        .where(col(Server.host_id).in_(ids), Server.goal == ServerGoal.RUNNING)
        .group_by(col(Server.host_id))
    )
    needed = {host_id: int(memory) for host_id, memory in (await session.execute(servers)).all()}
    checking = await boot_checks_on(session, ids)
    return {host.id: host.memory - needed.get(host.id, 0) - checking.get(host.id, 0) * CHECK_MEMORY for host in hosts}


async def boot_checks_on(session: AsyncSession, host_ids: Sequence[str]) -> dict[str, int]:
    """The number of images that hosts boot now to check them, by the ids of the hosts that do."""
    query = (
        select(Job.host_id, func.count(col(Job.id)))
        .where(
            Job.kind == JobKind.VERIFY_BOOT,
            Job.state == JobState.RUNNING,
            col(Job.lease_until) >= now(),
            col(Job.host_id).in_(host_ids),
        )
        .group_by(col(Job.host_id))
    )
    return {str(host_id): count for host_id, count in (await session.execute(query)).all()}


def _no_host(field: Sequence[str] = ("projectId",)) -> NoHypervisor:
    return NoHypervisor("No host runs servers here.", field=field, hint=_ASK)


def _no_room(vcpus: int, memory: int, field: Sequence[str] = ("memoryMib",)) -> NoHypervisor:
    return NoHypervisor(
        f"No host has room for a server with {counted(vcpus, 'vCPU')} and {spelled(memory)} of memory.",
        field=field,
        hint="Request a smaller server, stop one that is not needed, or try again later.",
    )
