"""Finds snapshots, and the volumes to take them of."""

from dataclasses import dataclass

from app.client.api.catalogue import find_project, image_by_id, list_images
from app.client.api.gateway import Api, present
from app.client.api.naming import called, only_one
from app.client.api.paging import Page, read_all
from app.client.api.servers import server_by_id, servers_of, volume_by_id, volumes_of
from app.client.errors import Ambiguous, NotFound
from app.client.generated.enums import ImageOrderField, ImageType, OrderDirection
from app.client.generated.fragments import ImageFields, ServerFields, VolumeFields
from app.client.generated.input_types import ImageFilter, ImageOrder
from app.client.generated.volume_snapshots import VolumeSnapshotsNodeVolume

_OLDEST_FIRST = ImageOrder(field=ImageOrderField.CREATED_AT, direction=OrderDirection.ASC)


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume to take a snapshot of. `name` is that of its server if it is a boot volume."""

    id: str
    name: str


async def find_volume_of(api: Api, wanted: str, project: str | None) -> Disk:
    """The volume with this id or name, or the boot volume of the server with it.

    Names are looked up in `project` (its name or id, or None for the only one). Raises NotFound, Ambiguous,
    Misconfigured.
    """
    try:
        if wanted.startswith("srv_"):
            return _boot_volume(await server_by_id(api, wanted))
        if wanted.startswith("vol_"):
            return _disk(await volume_by_id(api, wanted))
    except NotFound:
        pass  # it may be a name
    project_id = await find_project(api, project)
    servers = called(await servers_of(api, project_id), wanted)
    # Boot volumes have the names of their servers.
    volumes = called([volume for volume in await volumes_of(api, project_id) if not volume.bootable], wanted)
    if servers and volumes:
        ids = [*(server.id for server in servers), *(volume.id for volume in volumes)]
        raise Ambiguous.among("servers and volumes", wanted, ids)
    if servers:
        return _boot_volume(only_one(servers, "server", wanted))
    return _disk(only_one(volumes, "volume" if volumes else "server or volume", wanted))


async def snapshots_of(api: Api, volume_id: str) -> list[ImageFields]:
    """The snapshots of a volume, oldest first. Raises NotFound."""

    async def page(after: str | None) -> Page[ImageFields] | None:
        node = (await api.volume_snapshots(volume_id, after)).node
        return node.snapshots if isinstance(node, VolumeSnapshotsNodeVolume) else None

    return [snapshot async for snapshot in read_all(page, NotFound("There is no such volume."))]


async def snapshots_in(api: Api, project_id: str) -> list[ImageFields]:
    """The snapshots of a project, oldest first."""
    chosen = ImageFilter(types=[ImageType.SNAPSHOT])
    return [image async for image in list_images(api, project_id, chosen, _OLDEST_FIRST, None)]


async def find_snapshot(api: Api, wanted: str, project_id: str) -> ImageFields:
    """The snapshot with this id; or else of this name, in the project. Raises NotFound, Ambiguous."""
    if wanted.startswith("img_"):
        try:
            return await image_by_id(api, wanted)
        except NotFound:
            pass  # it may be a name
    return only_one(called(await snapshots_in(api, project_id), wanted), "snapshot", wanted)


def _boot_volume(server: ServerFields) -> Disk:
    return Disk(present(server.boot_volume).id, server.name)


def _disk(volume: VolumeFields) -> Disk:
    return Disk(volume.id, volume.name)
