"""Compares servers with what runs: those whose virtual machine ended by itself, and those whose host is gone."""

from collections.abc import Mapping

from sqlalchemy import ColumnElement, and_, exists, or_
from sqlmodel import col, select

from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import changes, hosts
from app.catalog.servers.changes import NO_FAILURE
from app.catalog.servers.settling import ServerFailure, failure_values
from app.database.sessions import Database
from app.lifecycle import JobState, ServerFailureCode, ServerGoal, ServerStatus
from app.models import Host, Job, Server

_HOST_GONE = ServerFailure(
    ServerFailureCode.HOST_UNAVAILABLE,
    "The host of this server does not answer.",
    "Wait until the operator has started the host again: the server then continues, or can be started.",
)


async def thought_to_run(database: Database, host_id: str) -> Mapping[str, int]:
    """The servers that should run on a host, and that no job is about to change: their revisions, by id.

    Read it before the hypervisor is asked what runs; `found` ignores servers that have changed since.
    """
    pending = exists().where(col(Job.id) == col(Server.job_id), col(Job.state) != JobState.DONE)
    query = select(Server.id, Server.revision).where(
        Server.host_id == host_id,
        Server.goal == ServerGoal.RUNNING,
        or_(col(Server.status) == ServerStatus.RUNNING, _is_lost()),
        ~pending,
    )
    async with database.read() as session:
        return {server_id: revision for server_id, revision in (await session.execute(query)).all()}


def _is_lost() -> ColumnElement[bool]:
    return and_(
        col(Server.status) == ServerStatus.ERROR, col(Server.failure_code) == ServerFailureCode.HOST_UNAVAILABLE
    )


async def found(database: Database, server_id: str, revision: int, *, running: bool) -> bool:
    """Record whether a server runs on its host. Returns False when nothing was to be changed.

    One that does not run is STOPPED: its guest powered off, or the host was restarted. One in ERROR because its host
    was gone is RUNNING again.
    """
    async with database.transaction() as tx:
        server = await tx.session.get_one(Server, server_id, with_for_update=LOCKED)
        if server.revision != revision or (running and server.status == ServerStatus.RUNNING):
            return False
        if running:
            changes.change(tx, server, status=ServerStatus.RUNNING, **NO_FAILURE)
        else:
            changes.change(tx, server, status=ServerStatus.STOPPED, goal=ServerGoal.STOPPED, **NO_FAILURE)
    return True


async def lose_servers(catalogue: Catalogue) -> None:
    """Set servers to ERROR that ran on a host that is gone. They continue, or are stopped, when the host is back."""
    query = (
        select(Server.id, Server.revision)
        .join(Host, col(Host.id) == col(Server.host_id))
        .where(
            Host.seen_at < hosts.last_alive(catalogue.settings),
            # One that is to be stopped is not known to run, either.
            Server.goal != ServerGoal.ABSENT,
            col(Server.status).in_([ServerStatus.STARTING, ServerStatus.RUNNING]),
        )
    )
    async with catalogue.database.read() as session:
        lost = (await session.execute(query)).all()
    for server_id, revision in lost:
        async with catalogue.database.transaction() as tx:
            server = await tx.session.get_one(Server, server_id, with_for_update=LOCKED)
            if server.revision == revision:
                changes.change(tx, server, status=ServerStatus.ERROR, **failure_values(_HOST_GONE))
