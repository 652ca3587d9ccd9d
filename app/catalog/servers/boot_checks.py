"""Boot checks: a host boots a throwaway server from an image, and looks whether it comes up.

The server is not one of the catalogue: no list, limit or `usedBy` contains it. Its id is that of its job,
which says whether it is still needed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self

from sqlalchemy import ColumnElement, exists
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog import images
from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import booting, hosts
from app.catalog.servers.hosts import CHECK_MEMORY
from app.catalog.servers.settling import Base, base_of
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import VerifyBoot
from app.database.sessions import Database, Transaction
from app.errors import NoHypervisor
from app.lifecycle import Architecture, BootResult, BootSign, JobKind, JobState, ServerFirmware
from app.models import Blob, Host, Image, Job, now
from app.settings import Settings
from app.sizes import GIB

# How many images a host boots at a time to check them: each may take a whole processor.
_AT_ONCE = 2
_FIELD = ("verifyBoot",)


@dataclass(frozen=True, slots=True)
class BootCheck:
    """What a boot check found out. `seen` is None unless the result is BOOTED.

    `seconds` is the time from the start of the server to the result. `console` is the end of what the server wrote to
    its serial console, as printable text.
    """

    result: BootResult
    seen: BootSign | None
    seconds: float
    console: str
    checked_at: datetime

    def to_row(self) -> dict[str, Any]:
        """The check as its row stores it."""
        return {
            "result": self.result,
            "seen": self.seen,
            "seconds": self.seconds,
            "console": self.console,
            "checked_at": self.checked_at.isoformat(),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """The check from its row."""
        return cls(
            result=BootResult(row["result"]),
            seen=None if row["seen"] is None else BootSign(row["seen"]),
            seconds=row["seconds"],
            console=row["console"],
            checked_at=datetime.fromisoformat(row["checked_at"]),
        )


def not_run() -> BootCheck:
    """The outcome of a check that no host could run."""
    return BootCheck(BootResult.FAILED, None, 0, "", now())


def check_of(blob: Blob) -> BootCheck | None:
    """The newest boot check of the bytes of a blob; None if there was none."""
    return None if blob.boot_check is None else BootCheck.from_row(blob.boot_check)


# ---------------------------------------------------------------- requesting


async def require_host(session: AsyncSession, settings: Settings, architecture: Architecture | None) -> None:
    """Raises NoHypervisor when no host can boot images of this architecture."""
    hosts.require_architecture(architecture, _FIELD)
    await hosts.require_any(session, settings, memory=CHECK_MEMORY, field=_FIELD)


def start(tx: Transaction, image: Image, blob: Blob) -> None:
    """Start the boot check of an image, unless its bytes are known to boot."""
    known = check_of(blob)
    if known is None or known.result is not BootResult.BOOTED:
        jobs.start(tx, VerifyBoot(blob=blob.id), image_id=image.id)


# ---------------------------------------------------------------- the workers of a host


async def claim(database: Database, host_id: str, lease: timedelta) -> Claim[VerifyBoot] | None:
    """Claim the boot check that has waited longest, if the host has room for one; None if there is none.

    A check waits until its image has its SHA-256 and its readiness. A project has one check at a time, so that it does
    not keep others waiting.
    """
    async with database.read() as session:
        if (await session.execute(_due().with_only_columns(col(Job.id)))).first() is None:
            return None
    async with database.transaction() as tx:
        host = await tx.session.get_one(Host, host_id, with_for_update=LOCKED)
        if not await _has_room(tx.session, host):
            return None
        return await jobs.take(tx, _due(), lease, host_id=host_id)


async def _has_room(session: AsyncSession, host: Host) -> bool:
    checking = (await hosts.boot_checks_on(session, [host.id])).get(host.id, 0)
    free = (await hosts.free_memory(session, [host]))[host.id]
    return host.takes_launches and checking < _AT_ONCE and free >= CHECK_MEMORY


def _due() -> SelectOfScalar[Job]:
    at = now()
    known = exists().where(
        col(Image.id) == col(Job.image_id),
        col(Blob.id) == col(Image.blob_id),
        col(Blob.sha256).is_not(None),
        col(Blob.readiness).is_not(None),
    )
    query = select(Job).where(Job.kind == JobKind.VERIFY_BOOT, jobs.claimable(at), known, ~_project_has_one(at))
    return query.order_by(col(Job.due_at), col(Job.id)).limit(1)


def _project_has_one(at: datetime) -> ColumnElement[bool]:
    """The condition that an image of the project of a job's image is being checked."""
    running, its_image, image = aliased(Job), aliased(Image), aliased(Image)
    return exists().where(
        col(image.id) == col(Job.image_id),
        col(its_image.project_id) == col(image.project_id),
        col(running.image_id) == col(its_image.id),
        col(running.kind) == JobKind.VERIFY_BOOT,
        col(running.state) == JobState.RUNNING,
        col(running.lease_until) >= at,
    )


@dataclass(frozen=True, slots=True)
class BootOrder:
    """A server to boot for a check, with a disk of `size` bytes over `base`."""

    base: Base
    size: int
    firmware: ServerFirmware


async def order_for(catalogue: Catalogue, claim: Claim[VerifyBoot]) -> BootOrder | BootCheck | None:
    """The server to boot for a job, or the outcome that is certain without one.

    None when nothing is left to do, because the image is gone or its bytes are known to boot; the job is then finished.
    """
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get(Image, claim.image_id)
        blob = await tx.session.get(Blob, claim.detail.blob)
        known = blob and check_of(blob)
        if image is None or blob is None or (known and known.result is BootResult.BOOTED):
            await jobs.finish(tx, claim)
            return None
    readiness = booting.readiness_of(blob)
    try:
        hosts.require_architecture(booting.architecture_of(image, readiness), _FIELD)
    except NoHypervisor:
        return not_run()
    size = images.minimum_boot_disk(blob.virtual_size) * GIB
    return BootOrder(base_of(blob), size, booting.firmware_for(readiness))


async def jobs_of(database: Database, host_id: str) -> Sequence[str]:
    """The ids of the boot checks that belong to a host and are not done."""
    query = select(Job.id).where(
        Job.kind == JobKind.VERIFY_BOOT, Job.host_id == host_id, col(Job.state) != JobState.DONE
    )
    async with database.read() as session:
        return (await session.execute(query)).scalars().all()
