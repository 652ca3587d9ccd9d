"""The serial consoles of servers. A host reads them, in a job, since only the host has what a guest wrote.

Nothing is read until someone asks. The text is kept in a row per server, which answers others for a moment.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.catalogue import Catalogue
from app.catalog.people import tenancy
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import awaiting, console_text, hosts, seeing
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import ReadConsole
from app.errors import GatewayError, HostUnavailable, InvalidInput, UserMistake
from app.lifecycle import ProjectRole
from app.models import Server, ServerConsole, now
from app.settings import Settings
from app.sizes import KIB
from app.viewer import Viewer

# The most of a console that is kept, in KiB.
MAXIMUM_KIB = 256
# How old an answer may be, and how long a host may take, in seconds.
_FRESH_SECONDS = 1.0
_WAIT_SECONDS = 5.0

Consoles = dict[str, "Console | GatewayError"]


@dataclass(frozen=True, slots=True)
class Console:
    """The end of a console. `truncated` says that there was more before it."""

    text: str
    truncated: bool
    read_at: datetime


async def read(catalogue: Catalogue, viewer: Viewer, ids: Sequence[str], last_kib: int) -> Consoles:
    """The end of the consoles of servers, at most `last_kib` KiB of each, or why it can't be read.

    Waits until their hosts have read them. The reasons are NotFound, Forbidden, HostUnavailable. Raises InvalidInput.
    """
    if not 1 <= last_kib <= MAXIMUM_KIB:
        raise InvalidInput(f"lastKib is {last_kib:,}; it must be from 1 to {MAXIMUM_KIB}.", field=("lastKib",))
    async with catalogue.database.read() as session:
        refused = await _refusals(session, catalogue.settings, viewer, ids)
    waiting = {id_ for id_ in ids if id_ not in refused}
    for server_id in sorted(waiting - await _requested_lately(catalogue, waiting)):
        await _request(catalogue, server_id)
    rows: dict[str, ServerConsole] = {}

    async def look() -> bool | None:
        """Whether all hosts have answered."""
        rows.update(await _answers(catalogue, waiting - rows.keys()))
        return True if waiting <= rows.keys() else None

    await awaiting.awaited(look, _WAIT_SECONDS)
    return refused | {id_: _shown(rows.get(id_), last_kib) for id_ in waiting}


async def _refusals(session: AsyncSession, settings: Settings, viewer: Viewer, ids: Sequence[str]) -> Consoles:
    """The servers, of these, whose console can't be read, each with the reason."""
    servers = await seeing.visible_servers(session, viewer, ids)
    roles = await tenancy.roles_in(session, viewer, [server.project_id for server in servers.values()])
    alive = await hosts.alive_among(session, settings, {server.host_id for server in servers.values()})
    refused: Consoles = {}
    for id_ in ids:
        server = servers.get(id_)
        try:
            if server is None:
                raise seeing.no_such(Server, ("id",))
            # A console may show passwords and keys.
            tenancy.require_role(roles[server.project_id], ProjectRole.MEMBER, (), "read the consoles of servers")
            if server.host_id not in alive:
                raise _unavailable("The host of the server does not answer.")
        except (UserMistake, HostUnavailable) as reason:
            refused[id_] = reason
    return refused


async def _requested_lately(catalogue: Catalogue, ids: Collection[str]) -> set[str]:
    """The servers, of these, whose console was requested a moment ago, or whose host has not answered yet."""
    query = select(ServerConsole.server_id).where(
        col(ServerConsole.server_id).in_(ids),
        (col(ServerConsole.job_id).is_not(None)) | (ServerConsole.requested_at >= _a_moment_ago()),
    )
    async with catalogue.database.read() as session:
        return set((await session.execute(query)).scalars())


async def _request(catalogue: Catalogue, server_id: str) -> None:
    """Start the job that reads a console, unless someone else just did, or the server was deleted."""
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        server = await tx.session.get_one(Server, server_id, with_for_update=LOCKED)
        if server.deleted_at is not None:
            return
        row = await tx.session.get(ServerConsole, server_id)
        if row is None:
            row = ServerConsole(server_id=server_id)
            tx.session.add(row)
        elif row.job_id is not None or row.requested_at >= _a_moment_ago():
            return
        row.job_id = jobs.start(tx, ReadConsole(server=server_id), host_id=server.host_id).id
        row.requested_at = now()


def _a_moment_ago() -> datetime:
    return now() - timedelta(seconds=_FRESH_SECONDS)


async def _answers(catalogue: Catalogue, ids: Collection[str]) -> dict[str, ServerConsole]:
    """The consoles, of these, that no job is about to read."""
    query = select(ServerConsole).where(col(ServerConsole.server_id).in_(ids), col(ServerConsole.job_id).is_(None))
    async with catalogue.database.read() as session:
        return {row.server_id: row for row in (await session.execute(query)).scalars()}


def _shown(row: ServerConsole | None, last_kib: int) -> Console | GatewayError:
    if row is None:
        return _unavailable(f"The host of the server did not answer within {_WAIT_SECONDS:.0f} seconds.")
    if row.text is None or row.read_at is None:
        return _unavailable("The host of the server could not read the console.")
    text, cut = console_text.tail(row.text, last_kib * KIB)
    return Console(text, row.truncated or cut, row.read_at)


def _unavailable(message: str) -> HostUnavailable:
    return HostUnavailable(message, hint="Try again later, or ask the operator.")


# ---------------------------------------------------------------- the host's side

# How much a host has to read: one byte more than is kept shows that there is more.
WANTED_BYTES = MAXIMUM_KIB * KIB + 1


async def keep(catalogue: Catalogue, claim: Claim[ReadConsole], written: bytes | None) -> None:
    """Store the end of a console, at most `WANTED_BYTES`, or None if it can't be read. Raises LeaseLost."""
    async with catalogue.database.transaction() as tx:
        await tx.session.get_one(Server, claim.detail.server, with_for_update=LOCKED)
        row = await tx.session.get(ServerConsole, claim.detail.server)
        # A console that is being watched is read every few seconds: its jobs would fill the table.
        await jobs.discard(tx, claim)
        if row is None or row.job_id != claim.job_id:
            return
        row.job_id, row.read_at = None, now()
        row.text = None if written is None else console_text.clean(written[-MAXIMUM_KIB * KIB :])
        row.truncated = written is not None and len(written) >= WANTED_BYTES
