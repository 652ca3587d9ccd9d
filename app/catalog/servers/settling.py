"""What the workers of a host read and write: the orders to settle servers and volumes, and their outcome.

Every write here is fenced by the claim of the job (architecture, rule 3) and may raise LeaseLost. The server's row is
locked before the job's, as by the users' changes, so that a change either finds the job finished, and starts another,
or is found by the job before it ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import blobs
from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import changes
from app.catalog.servers.changes import NO_FAILURE
from app.catalog.servers.requests import host_name_of
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import SettleServer, SettleVolume
from app.database.sessions import Transaction
from app.lifecycle import ServerFailureCode, ServerFirmware, ServerGoal, ServerStatus
from app.models import Blob, Server, Volume, now


@dataclass(frozen=True, slots=True)
class Base:
    """A stored qcow2 that disks start from. `size` is that of the file, in bytes.

    `sha256` is None until it has been computed, shortly after the image became ACTIVE.
    """

    blob_id: str
    key: str
    size: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume of a server. `size` is in bytes; `deleted` says that its disk has to be deleted with the server."""

    id: str
    size: int
    base: Base | None
    deleted: bool


@dataclass(frozen=True, slots=True)
class ServerOrder:
    """What a server has to become, as of a revision of it. `memory` is in bytes; the boot disk is the first one.

    `changed_at` is when the server last changed, in UTC.
    """

    server_id: str
    revision: int
    changed_at: datetime
    goal: ServerGoal
    vcpus: int
    memory: int
    disks: Sequence[Disk]
    instance_id: str
    host_name: str
    ssh_keys: Sequence[str]
    user_data: str | None
    firmware: ServerFirmware


@dataclass(frozen=True, slots=True)
class ServerFailure:
    """Why a server is in ERROR. Message and hint are shown to its users: no paths, no internals."""

    code: ServerFailureCode
    message: str
    hint: str


async def order_for(catalogue: Catalogue, claim: Claim[SettleServer]) -> ServerOrder:
    """What the server of a job has to become now."""
    async with catalogue.database.read() as session:
        server = await session.get_one(Server, claim.detail.server)
        return ServerOrder(
            server_id=server.id,
            revision=server.revision,
            changed_at=server.updated_at,
            goal=server.goal,
            vcpus=server.vcpus,
            memory=server.memory,
            disks=await _disks_of(session, server.id),
            instance_id=server.instance_id,
            host_name=host_name_of(server.name, server.id),
            ssh_keys=server.ssh_keys,
            user_data=server.user_data,
            firmware=server.firmware,
        )


async def _disks_of(session: AsyncSession, server_id: str) -> Sequence[Disk]:
    query = (
        select(Volume, Blob)
        .outerjoin(Blob, col(Blob.id) == col(Volume.base_id))
        .where(Volume.server_id == server_id)
        .order_by(col(Volume.position), col(Volume.id))
    )
    return [
        Disk(volume.id, volume.size, base_of(blob) if blob else None, volume.deleted_at is not None)
        for volume, blob in (await session.execute(query)).all()
    ]


def base_of(blob: Blob) -> Base:
    """The base of the disks that start from a blob."""
    return Base(blob.id, blob.key, blob.file_size, blob.sha256)


async def settled(catalogue: Catalogue, claim: Claim[SettleServer], order: ServerOrder) -> bool:
    """Record that a server is what its order says, and finish the job.

    Returns False when the server has changed since: then nothing is written, the job is still held, and the host has to
    act on a new order. Raises LeaseLost.
    """
    async with catalogue.database.transaction() as tx:
        server = await _locked(tx, order.server_id)
        if server.revision != order.revision:
            await jobs.hold(tx, claim)
            return False
        gone = order.goal == ServerGoal.ABSENT
        volumes = await locked_volumes(tx, server.id) if gone else []
        await jobs.finish(tx, claim)
        if gone:
            await let_go(tx, volumes)
            return True
        status = ServerStatus(order.goal.value)
        if server.status != status:
            changes.change(tx, server, status=status, **NO_FAILURE)
    return True


async def failed(catalogue: Catalogue, claim: Claim[SettleServer], order: ServerOrder, failure: ServerFailure) -> bool:
    """Set a server that could not be started to ERROR, and finish the job. Returns False as `settled` does."""
    async with catalogue.database.transaction() as tx:
        server = await _locked(tx, order.server_id)
        if server.revision != order.revision:
            await jobs.hold(tx, claim)
            return False
        await jobs.finish(tx, claim)
        changes.change(tx, server, goal=ServerGoal.STOPPED, status=ServerStatus.ERROR, **failure_values(failure))
    return True


def failure_values(failure: ServerFailure) -> dict[str, Any]:
    """The columns of a server that describe its failure."""
    return {
        "failure_code": failure.code,
        "failure_message": failure.message,
        "failure_hint": failure.hint,
        "failed_at": now(),
    }


async def _locked(tx: Transaction, server_id: str) -> Server:
    return await tx.session.get_one(Server, server_id, with_for_update=LOCKED)


async def locked_volumes(tx: Transaction, server_id: str) -> Sequence[Volume]:
    """The volumes of a server, also deleted ones, locked."""
    query = select(Volume).where(Volume.server_id == server_id).order_by(col(Volume.id))
    return (await tx.session.execute(query.with_for_update(key_share=True))).scalars().all()


async def let_go(tx: Transaction, volumes: Sequence[Volume]) -> None:
    """Record that a deleted server is gone from its host, with the disks of its volumes that were deleted with it."""
    for volume in volumes:
        if volume.deleted_at is None:
            changes.detach(tx, volume)
        else:
            await erased(tx, volume)


# ---------------------------------------------------------------- volumes


async def volume_erased(catalogue: Catalogue, claim: Claim[SettleVolume]) -> None:
    """Record that the disk of a deleted volume is gone from its host, and finish the job. Raises LeaseLost."""
    async with catalogue.database.transaction() as tx:
        volume = await tx.session.get_one(Volume, claim.detail.volume, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await erased(tx, volume)


async def erased(tx: Transaction, volume: Volume) -> None:
    """Release the host and the base of a deleted volume; the base is erased if nothing else uses it."""
    base_id, volume.base_id, volume.host_id = volume.base_id, None, None
    if base_id is not None:
        await tx.session.flush()
        await blobs.erase_if_unused(tx, base_id)
