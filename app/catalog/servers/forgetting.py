"""Forgets a host that never returns: its servers are in ERROR for good, and what was to be deleted there is gone.

Every step may be repeated: a command that was interrupted is run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import exists, func, or_
from sqlmodel import col, select

from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import changes, lost_captures, settling
from app.catalog.servers.settling import ServerFailure, failure_values
from app.catalog.work import jobs
from app.database.sessions import Database
from app.errors import HostNotForgotten
from app.lifecycle import JobState, ServerFailureCode, ServerGoal, ServerStatus
from app.models import Host, Job, Server, ServerConsole, Volume, now
from app.sizes import counted

_FORGOTTEN = ServerFailure(
    ServerFailureCode.HOST_UNAVAILABLE,
    "The host of this server was removed, with the disks of the server.",
    "Delete the server, and launch another one.",
)


@dataclass(frozen=True, slots=True)
class HostLine:
    """A host, and the number of its servers that are not deleted."""

    host: Host
    servers: int


async def all_hosts(database: Database) -> Sequence[HostLine]:
    """All hosts, also forgotten ones, in the order in which they were added."""
    query = (
        select(Host, func.count(col(Server.id)))
        .outerjoin(Server, (col(Server.host_id) == col(Host.id)) & col(Server.deleted_at).is_(None))
        .group_by(col(Host.id))
        .order_by(col(Host.id))
    )
    async with database.read() as session:
        return [HostLine(host, servers) for host, servers in (await session.execute(query)).all()]


async def forget(database: Database, host_id: str, alive_since: datetime) -> int:
    """Forget a host that has not reported since an instant. Returns the number of its servers that are not deleted.

    Raises HostNotForgotten.
    """
    async with database.transaction() as tx:
        host = await tx.session.get(Host, host_id, with_for_update=LOCKED)
        if host is None:
            raise HostNotForgotten(f"there is no host {host_id}; `images hosts` lists all")
        if host.seen_at >= alive_since:
            silent = max(0, int((now() - host.seen_at).total_seconds()))
            raise HostNotForgotten(
                f"host {host_id} reported {counted(silent, 'second')} ago. Stop `images host` there, and try again "
                "when `images hosts` shows it as silent"
            )
        host.forgotten_at = host.forgotten_at or now()
    # From now on, nothing starts there, and deletions do without the host. What follows is what was begun before.
    await lost_captures.forget(database, host_id)
    for server_id in await _servers(database, host_id):
        await _settle(database, server_id)
    for volume_id in await _deleted_volumes(database, host_id):
        await _erase(database, volume_id)
    lines = await all_hosts(database)
    return next(line.servers for line in lines if line.host.id == host_id)


async def _servers(database: Database, host_id: str) -> Sequence[str]:
    """The servers of a host that are not deleted, or not deleted yet."""
    unfinished = exists().where(col(Job.id) == col(Server.job_id), col(Job.state) != JobState.DONE)
    query = select(Server.id).where(Server.host_id == host_id, or_(col(Server.deleted_at).is_(None), unfinished))
    async with database.read() as session:
        return (await session.execute(query)).scalars().all()


async def _settle(database: Database, server_id: str) -> None:
    """Set a server to ERROR; end its deletion if it is deleted."""
    async with database.transaction() as tx:
        server = await tx.session.get_one(Server, server_id, with_for_update=LOCKED)
        volumes = await settling.locked_volumes(tx, server_id) if server.deleted_at is not None else []
        await jobs.cancel(tx, server.job_id)
        if server.deleted_at is not None:
            await settling.let_go(tx, volumes)
            return
        console = await tx.session.get(ServerConsole, server_id)
        if console is not None:
            await jobs.cancel(tx, console.job_id)
            await tx.session.delete(console)
        if server.failure_message != _FORGOTTEN.message:
            lost = {"goal": ServerGoal.STOPPED, "status": ServerStatus.ERROR, **failure_values(_FORGOTTEN)}
            changes.change(tx, server, **lost)


async def _deleted_volumes(database: Database, host_id: str) -> Sequence[str]:
    """The deleted volumes whose disk a host still has."""
    query = select(Volume.id).where(Volume.host_id == host_id, col(Volume.deleted_at).is_not(None))
    async with database.read() as session:
        return (await session.execute(query)).scalars().all()


async def _erase(database: Database, volume_id: str) -> None:
    async with database.transaction() as tx:
        volume = await tx.session.get_one(Volume, volume_id, with_for_update=LOCKED)
        await jobs.cancel(tx, volume.job_id)
        await settling.erased(tx, volume)
