"""Creates snapshots of volumes, and images of servers: each is a capture of a volume by its host.

The request returns when the host has taken the point in time, whose bytes it then reads while the server goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import captures, idempotency, quotas
from app.catalog.catalogue import Catalogue, Written
from app.catalog.feed import event_log
from app.catalog.feed.details import Created
from app.catalog.new_images import NewServerImage, NewSnapshot, described
from app.catalog.people import tenancy
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import boot_checks, hosts, seeing
from app.catalog.servers.awaiting import awaited
from app.catalog.snapshots import rolling
from app.database.sessions import Transaction
from app.errors import Forbidden, NotReady
from app.lifecycle import ImageStatus, ImageType, ProjectRole, ServerStatus, SourceKind
from app.models import Capture, Image, Project, Server, Volume, new_id
from app.viewer import Viewer

_VOLUME = ("volumeId",)
_SERVER = ("source", "server", "serverId")


@dataclass(frozen=True, slots=True)
class _Subject:
    """A volume to capture, locked, with the server that has it, if any. `field` is the path of its id in the input."""

    volume: Volume
    server: Server | None
    field: Sequence[str]


async def create_snapshot(catalogue: Catalogue, viewer: Viewer, new: NewSnapshot) -> Written[Image]:
    """Create a snapshot of a volume, in the project of the volume.

    Waits until the host has taken it, at most `snapshot_seconds`: then `captured_at` is still null. Returns the
    snapshot of an earlier request with the same idempotency key, if there is one. Raises InvalidInput, NotFound,
    Forbidden, Conflict, NotReady, QuotaExceeded, NoHypervisor.
    """
    description = described(viewer, new)
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        found = await seeing.volume_to_change(tx.session, viewer, new.volume_id, lock=False)
        project = await tx.session.get_one(Project, found.project_id, with_for_update=LOCKED)
        new = replace(new, project_id=project.id)
        image = await idempotency.made_before(tx.session, Image, new)
        if image is None:
            limit = quotas.snapshots_per_volume(project, catalogue.settings)
            await rolling.require_place(tx.session, new.volume_id, limit)
            await _evict_failed(tx, new.volume_id, limit)
            volume = await seeing.volume_to_change(tx.session, viewer, new.volume_id)
            server = await tx.session.get(Server, volume.server_id) if volume.server_id else None
            subject = _Subject(volume, server, _VOLUME)
            await _require_ready(catalogue, tx.session, subject)
            image = await _add(tx, description | {"type": ImageType.SNAPSHOT, "project_id": project.id}, subject)
            idempotency.remember(tx, new, image.id)
    return Written(await _once_captured(catalogue, image), tx.position)


async def create_from_server(catalogue: Catalogue, viewer: Viewer, new: NewServerImage) -> Written[Image]:
    """Create a custom image of the boot volume of a server; otherwise as `create_snapshot`."""
    description = described(viewer, new)
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        project = await tenancy.project_for(tx.session, viewer, new.project_id, ProjectRole.MEMBER, lock=True)
        image = await idempotency.made_before(tx.session, Image, new)
        if image is None:
            server = await seeing.server_to_change(tx.session, viewer, new.server_id, _SERVER)
            if server.project_id != project.id:
                raise Forbidden(
                    "The server belongs to another project.",
                    field=_SERVER,
                    hint="Create the image in the project of the server, then copy or share it.",
                )
            await quotas.require_room(tx.session, project, catalogue.settings, 0, _SERVER)
            query = select(Volume).where(Volume.server_id == server.id, col(Volume.bootable).is_(True))
            volume = (await tx.session.execute(query.with_for_update(key_share=True))).scalar_one()
            subject = _Subject(volume, server, _SERVER)
            await _require_ready(catalogue, tx.session, subject)
            image = await _add(tx, description | {"type": ImageType.CUSTOM}, subject)
            if new.verify_boot:
                await boot_checks.require_host(tx.session, catalogue.settings, image.architecture)
            idempotency.remember(tx, new, image.id)
    return Written(await _once_captured(catalogue, image), tx.position)


async def _evict_failed(tx: Transaction, volume_id: str, limit: int) -> None:
    ids = await rolling.failed_surplus(tx.session, volume_id, limit)
    query = select(Image).where(col(Image.id).in_(ids)).order_by(col(Image.id)).with_for_update(key_share=True)
    if ids:
        await rolling.evict(tx, (await tx.session.execute(query)).scalars().all())


async def _add(tx: Transaction, description: dict[str, Any], subject: _Subject) -> Image:
    """Insert an image, publish it, and start the job of the host."""
    volume, server = subject.volume, subject.server
    origin = await tx.session.get(Image, volume.image_id) if volume.image_id else None
    image = Image(
        **(description | _inherited(description, origin)),
        id=new_id("img"),
        status=ImageStatus.SAVING,
        source_kind=SourceKind.VOLUME if server is None else SourceKind.SERVER,
        source_name=volume.name if server is None else server.name,
        source_server_id=None if server is None else server.id,
        volume_id=volume.id,
    )
    tx.session.add(image)
    await tx.session.flush()
    captures.begin(tx, image, volume)
    await event_log.append(tx, image, Created(), actor=image.created_by)
    return image


def _inherited(description: dict[str, Any], origin: Image | None) -> dict[str, Any]:
    """What an image has of the one that its volume was created from, which may have been deleted since."""
    if origin is None:
        return {}
    system = {"os_family": origin.os_family, "os_version": origin.os_version}
    return {"architecture": origin.architecture} | ({} if description["os_family"] else system)


async def _require_ready(catalogue: Catalogue, session: AsyncSession, subject: _Subject) -> None:
    """Raises NotReady when a volume can't be captured now, NoHypervisor when its host is gone."""
    volume, server, field = subject.volume, subject.server, subject.field
    if server is not None and server.deleted_at is not None:
        raise NotReady("The volume is being detached from a deleted server.", field=field, hint="Try again shortly.")
    if volume.host_id is None:
        raise NotReady(
            "The volume has no disk yet: it was never attached to a server.",
            field=field,
            hint="Launch a server with the volume first.",
        )
    if server is not None and server.status == ServerStatus.STARTING:
        raise NotReady(
            "The server is starting.", field=field, hint="Read its status, and try again when it is RUNNING."
        )
    running = select(Image.name).join(Capture).where(Capture.volume_id == volume.id)
    under_way = (await session.execute(running)).scalar_one_or_none()
    if under_way is not None:
        raise NotReady(
            f"The volume is being captured into the image {under_way}: one capture runs at a time.",
            field=field,
            hint="Try again when that image is ACTIVE or in ERROR.",
        )
    await hosts.require_alive_for_volume(session, catalogue.settings, volume.host_id, field)


async def _once_captured(catalogue: Catalogue, image: Image) -> Image:
    """The image as it is when the host has taken the point in time, or has failed, or the wait is over."""

    async def look() -> Image | None:
        async with catalogue.database.read() as session:
            row = await session.get_one(Image, image.id)
        waits = row.captured_at is None and row.status == ImageStatus.SAVING and row.deleted_at is None
        return None if waits else row

    return await awaited(look, catalogue.settings.snapshot_seconds) or image
