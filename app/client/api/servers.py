"""Finds servers and volumes, and waits for what their hosts do."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from app.client.api.catalogue import find_project
from app.client.api.gateway import Api
from app.client.api.naming import called, only_one
from app.client.api.paging import Page, nodes_of, read_all
from app.client.api.settling import first_state
from app.client.errors import NoEventStream, NotFound, ServerFailed
from app.client.generated.enums import ServerStatus
from app.client.generated.fragments import ServerFields, VolumeFields
from app.client.generated.server_volumes import ServerVolumesNodeServer
from app.client.retrying import RetryPolicy

_POLL_SECONDS = 1.0


async def servers_of(api: Api, project_id: str) -> list[ServerFields]:
    """All servers of a project. Raises NotFound."""

    async def page(after: str | None) -> Page[ServerFields] | None:
        project = (await api.servers(project_id, after)).project
        return project.servers if project else None

    return [server async for server in read_all(page, NotFound("There is no such project."))]


async def volumes_of(api: Api, project_id: str) -> list[VolumeFields]:
    """All volumes of a project. Raises NotFound."""

    async def page(after: str | None) -> Page[VolumeFields] | None:
        project = (await api.volumes(project_id, after)).project
        return project.volumes if project else None

    return [volume async for volume in read_all(page, NotFound("There is no such project."))]


async def volumes_of_server(api: Api, server_id: str) -> list[VolumeFields]:
    """The volumes of a server, the boot volume first. Raises NotFound."""
    node = (await api.server_volumes(server_id)).node
    if not isinstance(node, ServerVolumesNodeServer) or node.volumes is None:
        raise _no_server()
    return nodes_of(node.volumes)


async def find_server(api: Api, wanted: str, project: str | None) -> ServerFields:
    """The server with this id; or else of this name, in `project` (its name or id, or None for the only one).

    Raises NotFound, Ambiguous, Misconfigured.
    """
    if wanted.startswith("srv_"):
        try:
            return await server_by_id(api, wanted)
        except NotFound:
            pass  # it may be a name
    return only_one(called(await servers_of(api, await find_project(api, project)), wanted), "server", wanted)


async def find_volume(api: Api, wanted: str, project: str | None) -> VolumeFields:
    """The volume with this id; or else of this name, in `project`, as `find_server`.

    Boot volumes are found by their ids only: they have the names of their servers.
    """
    if wanted.startswith("vol_"):
        try:
            return await volume_by_id(api, wanted)
        except NotFound:
            pass  # it may be a name
    volumes = await volumes_of(api, await find_project(api, project))
    return only_one(called([volume for volume in volumes if not volume.bootable], wanted), "volume", wanted)


async def server_by_id(api: Api, server_id: str) -> ServerFields:
    """The server with this id. Raises NotFound."""
    node = (await api.server(server_id)).node
    if not isinstance(node, ServerFields):
        raise _no_server()
    return node


async def volume_by_id(api: Api, volume_id: str) -> VolumeFields:
    """The volume with this id. Raises NotFound."""
    node = (await api.volume(volume_id)).node
    if not isinstance(node, VolumeFields):
        raise NotFound("There is no such volume.")
    return node


async def reached(
    api: Api, server_id: str, wanted: ServerStatus, policy: RetryPolicy, poll_seconds: float = _POLL_SECONDS
) -> ServerFields:
    """The server once its status is `wanted`, which was requested before.

    Subscribes to the server, or polls it every `poll_seconds` if the subscription returns no event stream. Raises
    ClientError; ServerFailed if the server is in ERROR, or something else was requested meanwhile.
    """
    try:
        server = await first_state(lambda: _states(api, server_id), _is_settled, policy)
    except NoEventStream:
        server = await _polled(api, server_id, policy, poll_seconds)
    if server.status == wanted:
        return server
    if server.status == ServerStatus.ERROR:
        raise ServerFailed.of(server)
    raise ServerFailed(
        f"The server is {server.status}: its guest shut down, or someone else started or stopped it.",
        hint=f"Run `images console {server.id}` to see what it wrote.",
        code=server.status,
        server=server,
    )


def _is_settled(server: ServerFields) -> bool:
    return server.status in (server.desired_status, ServerStatus.ERROR)


async def _states(api: Api, server_id: str) -> AsyncGenerator[ServerFields, None]:
    async with aclosing(api.server_settling(server_id)) as answers:
        async for data in answers:
            if data.server is None:
                raise NotFound("The server has been deleted.")
            yield data.server


async def _polled(api: Api, server_id: str, policy: RetryPolicy, poll_seconds: float) -> ServerFields:
    while True:
        server = await policy.until_done(lambda: server_by_id(api, server_id))
        if _is_settled(server):
            return server
        await asyncio.sleep(poll_seconds)


async def until_detached(
    api: Api, volumes: Sequence[VolumeFields], policy: RetryPolicy, poll_seconds: float = _POLL_SECONDS
) -> None:
    """Wait until the host of a deleted server has released the data volumes that it had. Raises ClientError."""
    left = [volume for volume in volumes if not volume.bootable]
    while left:
        now = await policy.until_done(partial(_changed, api, left))
        left = [volume for volume in left if volume.id not in now]
        if left:
            await asyncio.sleep(poll_seconds)


async def _changed(api: Api, volumes: Sequence[VolumeFields]) -> set[str]:
    """The ids of those volumes that have changed since they were read, or are gone."""
    changed = set()
    for volume in volumes:
        try:
            if (await volume_by_id(api, volume.id)).revision == volume.revision:
                continue
        except NotFound:
            pass
        changed.add(volume.id)
    return changed


def _no_server() -> NotFound:
    return NotFound("There is no such server.")
