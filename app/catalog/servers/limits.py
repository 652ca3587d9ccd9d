"""Limits on the servers and volumes of a project, checked in the transaction that creates (architecture, rule 9)."""

from dataclasses import dataclass

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app import metrics
from app.errors import QuotaExceeded
from app.models import Project, Server, Volume
from app.settings import Settings
from app.sizes import GIB, spelled

_MAKE_ROOM = "Delete {} that are no longer needed or have the limit raised."


@dataclass(frozen=True, slots=True)
class Usage:
    """The limits of a project on servers and volumes, and what is used of them. Storage is in bytes."""

    servers_limit: int
    servers_used: int
    volumes_limit: int
    volumes_used: int
    storage_limit: int
    storage_used: int


async def usage_of(session: AsyncSession, project: Project, settings: Settings) -> Usage:
    """The current limits and usage of a project."""
    servers = select(func.count(col(Server.id))).where(
        Server.project_id == project.id, col(Server.deleted_at).is_(None)
    )
    volumes = select(func.count(col(Volume.id)), func.coalesce(func.sum(Volume.size), 0)).where(
        Volume.project_id == project.id, col(Volume.deleted_at).is_(None)
    )
    running = (await session.execute(servers)).scalar_one()
    count, size = (await session.execute(volumes)).one()
    return Usage(
        servers_limit=_value_or(project.servers_limit, settings.servers_limit),
        servers_used=running,
        volumes_limit=_value_or(project.volumes_limit, settings.volumes_limit),
        volumes_used=count,
        storage_limit=_value_or(project.volume_storage_limit, settings.volume_storage_limit_gib * GIB),
        storage_used=int(size),
    )


async def require_room(
    session: AsyncSession, project: Project, settings: Settings, *, size: int, field: str, server: bool = False
) -> None:
    """Raises QuotaExceeded when one more volume of `size` bytes, and with `server` one more server, overruns a limit.

    The check holds only in the transaction that creates them, with the project's row locked. `field` is the input that
    requests the bytes.
    """
    usage = await usage_of(session, project, settings)
    if server and usage.servers_used >= usage.servers_limit:
        raise _too_many("servers", usage.servers_limit, usage.servers_used)
    if usage.volumes_used >= usage.volumes_limit:
        raise _too_many("volumes", usage.volumes_limit, usage.volumes_used)
    if usage.storage_used + size > usage.storage_limit:
        metrics.QUOTA_REFUSALS.labels("volume_bytes").inc()
        raise QuotaExceeded(
            f"Not enough volume storage: {spelled(size)} requested; limit {spelled(usage.storage_limit)}, "
            f"used {spelled(usage.storage_used)}.",
            limit=usage.storage_limit,
            used=usage.storage_used,
            reserved=0,
            requested=size,
            field=(field,),
            hint=_MAKE_ROOM.format("volumes"),
        )


def _too_many(things: str, limit: int, used: int) -> QuotaExceeded:
    metrics.QUOTA_REFUSALS.labels(things).inc()
    return QuotaExceeded(
        f"The project has {used} of {limit} {things}, and 1 more was requested.",
        limit=limit,
        used=used,
        requested=1,
        field=("projectId",),
        hint=_MAKE_ROOM.format(things),
    )


def _value_or(value: int | None, default: int) -> int:
    return default if value is None else value
