"""Who sees servers and volumes: the members of their project, and no one else. Also their pages."""

from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog.pages import Page, Window, read_page
from app.catalog.people import tenancy
from app.catalog.people.tenancy import LOCKED, is_id
from app.errors import NotFound
from app.lifecycle import ImageType, ProjectRole
from app.models import Image, Server, Volume
from app.viewer import Viewer

Thing = TypeVar("Thing", Server, Volume)


async def visible_servers(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Server]:
    """The servers that the viewer may see and that are not deleted, by id."""
    return await _visible(session, Server, viewer, ids)


async def visible_volumes(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Volume]:
    """The volumes that the viewer may see and that are not deleted, by id."""
    return await _visible(session, Volume, viewer, ids)


async def _visible(session: AsyncSession, model: type[Thing], viewer: Viewer, ids: Sequence[str]) -> dict[str, Thing]:
    roles = tenancy.roles_of(viewer)
    query = (
        select(model)
        .join(roles, roles.c.project_id == col(model.project_id))
        .where(col(model.id).in_(ids), col(model.deleted_at).is_(None))
    )
    return {found.id: found for found in (await session.execute(query)).scalars()}


async def server_for(
    session: AsyncSession,
    viewer: Viewer,
    server_id: str,
    role: ProjectRole = ProjectRole.READER,
    *,
    field: Sequence[str],
) -> Server:
    """A server of a project in which the viewer has at least a role. Raises NotFound, Forbidden."""
    return await _for(session, Server, viewer, server_id, role, field)


async def server_to_change(
    session: AsyncSession, viewer: Viewer, server_id: str, field: Sequence[str] = ("serverId",), *, lock: bool = True
) -> Server:
    """A server that the viewer may change. `field` is the path of its id in the input. Raises NotFound, Forbidden.

    With `lock`, no other transaction changes it until this one ends.
    """
    return await _to_change(session, Server, viewer, server_id, field, lock=lock)


async def volume_to_change(
    session: AsyncSession, viewer: Viewer, volume_id: str, field: Sequence[str] = ("volumeId",), *, lock: bool = True
) -> Volume:
    """A volume that the viewer may change; as `server_to_change`."""
    return await _to_change(session, Volume, viewer, volume_id, field, lock=lock)


async def _to_change(
    session: AsyncSession, model: type[Thing], viewer: Viewer, id_: str, field: Sequence[str], *, lock: bool
) -> Thing:
    return await _for(session, model, viewer, id_, ProjectRole.MEMBER, field, lock=lock)


async def _for(
    session: AsyncSession,
    model: type[Thing],
    viewer: Viewer,
    id_: str,
    needed: ProjectRole,
    field: Sequence[str],
    *,
    lock: bool = False,
) -> Thing:
    locked = LOCKED if lock else None
    found = await session.get(model, id_, with_for_update=locked, populate_existing=lock) if is_id(id_) else None
    role = await tenancy.role_in(session, viewer, found.project_id) if found else None
    if found is None or role is None or found.deleted_at is not None:
        raise no_such(model, field)
    tenancy.require_role(role, needed, field)
    return found


def no_such(model: type[Thing], field: Sequence[str]) -> NotFound:
    """The error for a server or volume that does not exist, and for one that the caller may not see."""
    thing = model.__name__.lower()
    return NotFound(f"There is no such {thing}.", field=field, hint=f"Check the id: the {thing} may have been deleted.")


# ---------------------------------------------------------------- pages, in order of creation


async def servers_of(session: AsyncSession, project_id: str, window: Window) -> Page[Server]:
    """The servers of a project."""
    return await read_page(session, _servers_of(project_id), col(Server.id), col(Server.id), window)


async def count_servers(session: AsyncSession, project_id: str) -> int:
    """The number of servers of a project."""
    return await _count(session, _servers_of(project_id))


async def servers_from(session: AsyncSession, viewer: Viewer, image_id: str, window: Window) -> Page[Server]:
    """The servers that were launched from an image, in the projects that the viewer may see."""
    return await read_page(session, _servers_from(viewer, image_id), col(Server.id), col(Server.id), window)


async def count_servers_from(session: AsyncSession, viewer: Viewer, image_id: str) -> int:
    """The number of servers that were launched from an image, in the projects that the viewer may see."""
    return await _count(session, _servers_from(viewer, image_id))


async def volumes_of(session: AsyncSession, project_id: str, window: Window) -> Page[Volume]:
    """The volumes of a project."""
    return await read_page(session, _volumes_of(project_id), col(Volume.id), col(Volume.id), window)


async def count_volumes(session: AsyncSession, project_id: str) -> int:
    """The number of volumes of a project."""
    return await _count(session, _volumes_of(project_id))


async def attached_to(session: AsyncSession, server_id: str, window: Window) -> Page[Volume]:
    """The volumes of a server, the boot volume first."""
    return await read_page(session, _attached_to(server_id), col(Volume.position), col(Volume.id), window)


async def count_attached_to(session: AsyncSession, server_id: str) -> int:
    """The number of volumes of a server."""
    return await _count(session, _attached_to(server_id))


async def snapshots_of(session: AsyncSession, volume_id: str, window: Window) -> Page[Image]:
    """The snapshots of a volume, which are in its project."""
    return await read_page(session, _snapshots_of(volume_id), col(Image.id), col(Image.id), window)


async def count_snapshots(session: AsyncSession, volume_id: str) -> int:
    """The number of snapshots of a volume."""
    return await _count(session, _snapshots_of(volume_id))


async def boot_volumes(session: AsyncSession, viewer: Viewer, server_ids: Sequence[str]) -> dict[str, Volume]:
    """The boot volumes of servers that the viewer reached, by the id of the server."""
    query = select(Volume).where(
        col(Volume.server_id).in_(server_ids), Volume.position == 0, col(Volume.deleted_at).is_(None)
    )
    return {str(volume.server_id): volume for volume in (await session.execute(query)).scalars()}


def _servers_of(project_id: str) -> SelectOfScalar[Server]:
    return select(Server).where(Server.project_id == project_id, col(Server.deleted_at).is_(None))


def _servers_from(viewer: Viewer, image_id: str) -> SelectOfScalar[Server]:
    roles = tenancy.roles_of(viewer)
    return (
        select(Server)
        .join(roles, roles.c.project_id == col(Server.project_id))
        .where(Server.image_id == image_id, col(Server.deleted_at).is_(None))
    )


def _volumes_of(project_id: str) -> SelectOfScalar[Volume]:
    return select(Volume).where(Volume.project_id == project_id, col(Volume.deleted_at).is_(None))


def _attached_to(server_id: str) -> SelectOfScalar[Volume]:
    return select(Volume).where(Volume.server_id == server_id, col(Volume.deleted_at).is_(None))


def _snapshots_of(volume_id: str) -> SelectOfScalar[Image]:
    return select(Image).where(
        Image.volume_id == volume_id, Image.type == ImageType.SNAPSHOT, col(Image.deleted_at).is_(None)
    )


async def _count(session: AsyncSession, rows: SelectOfScalar[Any]) -> int:
    return (await session.execute(select(func.count()).select_from(rows.subquery()))).scalar_one()
