"""Servers and their volumes."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.feed.server_details import ServerFault
from app.catalog.pages import Page, Window
from app.catalog.servers import seeing
from app.catalog.servers.changes import fault_of
from app.catalog.servers.consoles import MAXIMUM_KIB
from app.graphql.context import Info
from app.graphql.scalars import ByteSize
from app.graphql.types.connections import Connection, Paging, cursor_for, page_fields, paged
from app.graphql.types.image_pages import image_page
from app.graphql.types.node import Node, made_of, node_of
from app.lifecycle import ServerFailureCode, ServerFirmware, ServerGoal, ServerStatus
from app.models import Server as ServerRow
from app.models import Volume as VolumeRow
from app.sizes import MIB

if TYPE_CHECKING:
    from app.graphql.types.images import Image, ImageConnection
    from app.graphql.types.tenancy import Project

_SERVERS = "server"
_VOLUMES = "volume"
_ATTACHED = "attached-volume"
# Only a deleted server, which is not shown, has the goal ABSENT.
_DESIRED = {
    ServerGoal.RUNNING: ServerStatus.RUNNING,
    ServerGoal.STOPPED: ServerStatus.STOPPED,
    ServerGoal.ABSENT: ServerStatus.STOPPED,
}

LazyProject = Annotated["Project", strawberry.lazy("app.graphql.types.tenancy")]
LazyImage = Annotated["Image", strawberry.lazy("app.graphql.types.images")]
LazyImages = Annotated["ImageConnection", strawberry.lazy("app.graphql.types.images")]


@strawberry.type(description="Why a server is in ERROR, and what to do about it.")
class ServerFailure:
    code: ServerFailureCode = strawberry.field(description="Kind of failure.")
    message: str = strawberry.field(description="What went wrong, as text for people.")
    hint: str = strawberry.field(description="What to do about it, as text for people.")
    occurred_at: datetime = strawberry.field(description="When the server failed.")

    @staticmethod
    def of(fault: ServerFault) -> "ServerFailure":
        """The GraphQL form of a failure."""
        return ServerFailure(code=fault.code, message=fault.message, hint=fault.hint, occurred_at=fault.failed_at)


@made_of(VolumeRow)
@strawberry.type(description="A disk of a server, or one to attach to a server when that is launched.")
class Volume(Node):
    revision: int = strawberry.field(
        description="Number that grows by one with each change. Send it as `expectedRevision` so that a change "
        "made in the meantime is not overwritten."
    )
    name: str = strawberry.field(description="Name of the volume; a boot volume has that of its server.")
    size: ByteSize = strawberry.field(description="Size of the disk that a server sees, in bytes.")
    bootable: bool = strawberry.field(
        description="Whether the volume was created from an image, and its server boots from it."
    )
    created_at: datetime = strawberry.field(description="When the volume was created.")
    updated_at: datetime = strawberry.field(description="When the volume last changed.")
    row: strawberry.Private[VolumeRow]

    @staticmethod
    def of(row: VolumeRow) -> "Volume":
        """The node of a row."""
        return Volume(
            id=strawberry.ID(row.id),
            revision=row.revision,
            name=row.name,
            size=ByteSize(row.size),
            bootable=row.bootable,
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
        )

    @strawberry.field(description="The server that the volume is attached to; null if it is not attached.")
    async def server(self, info: Info) -> Annotated["Server", strawberry.lazy("app.graphql.types.servers")] | None:
        if self.row.server_id is None:
            return None
        row = await info.context.loaders.servers.load(self.row.server_id)
        return None if row is None else Server.of(row)

    @strawberry.field(description="The project that owns the volume.")
    async def project(self, info: Info) -> LazyProject | None:
        row = await info.context.loaders.projects.load(self.row.project_id)
        return None if row is None else node_of(row)

    @strawberry.field(
        description="The image that the volume was created from; null if it was created empty, and if the image has "
        "been deleted or you can't see it."
    )
    async def image(self, info: Info) -> LazyImage | None:
        row = await info.context.loaders.images.load(self.row.image_id) if self.row.image_id else None
        return None if row is None else node_of(row)

    @paged(description="Snapshots of the volume, oldest first, also those that are SAVING or in ERROR.")
    async def snapshots(self, info: Info, paging: Paging) -> LazyImages | None:
        page: LazyImages = await image_page(
            info,
            paging,
            read=lambda session, window: seeing.snapshots_of(session, self.id, window),
            count=lambda session: seeing.count_snapshots(session, self.id),
        )
        return page


@strawberry.type(description="The end of what a server wrote to its serial console.")
class ServerConsole:
    text: str = strawberry.field(
        description="Text, with line feeds between its lines. Escape sequences and control characters other than tabs "
        "are removed, and bytes that are not UTF-8 are replaced with U+FFFD."
    )
    truncated: bool = strawberry.field(description="Whether the server wrote more before this text.")
    read_at: datetime = strawberry.field(description="When the host read the text.")


@made_of(ServerRow)
@strawberry.type(description="A virtual machine. The members of its project see it.")
class Server(Node):
    revision: int = strawberry.field(
        description="Number that grows by one with each change. Send it as `expectedRevision` so that a change "
        "made in the meantime is not overwritten."
    )
    name: str = strawberry.field(
        description="Name, 1 to 255 characters. Several servers may have the same name. The guest's host name is "
        "derived from it."
    )
    status: ServerStatus = strawberry.field(description="Lifecycle status: STARTING, RUNNING, STOPPED or ERROR.")
    desired_status: ServerStatus = strawberry.field(
        description="Status that the host works toward, RUNNING or STOPPED: the one that was requested last, but "
        "STOPPED once starting the server has failed."
    )
    vcpus: int = strawberry.field(description="Number of virtual processors.")
    memory_mib: int = strawberry.field(description="Memory, in MiB.")
    firmware: ServerFirmware = strawberry.field(description="Firmware of the virtual machine.")
    created_by: str = strawberry.field(description="Who launched the server: the `sub` claim of their token.")
    created_at: datetime = strawberry.field(description="When the server was launched.")
    updated_at: datetime = strawberry.field(description="When the server last changed.")
    row: strawberry.Private[ServerRow]

    @staticmethod
    def of(row: ServerRow) -> "Server":
        """The node of a row."""
        return Server(
            id=strawberry.ID(row.id),
            revision=row.revision,
            name=row.name,
            status=row.status,
            desired_status=_DESIRED[row.goal],
            vcpus=row.vcpus,
            memory_mib=row.memory // MIB,
            firmware=row.firmware,
            created_by=row.created_by,
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
        )

    @strawberry.field(description="Why the server failed; null unless it is in ERROR.")
    def failure(self) -> ServerFailure | None:
        fault = fault_of(self.row)
        return None if fault is None else ServerFailure.of(fault)

    @strawberry.field(description="The project that owns the server.")
    async def project(self, info: Info) -> LazyProject | None:
        row = await info.context.loaders.projects.load(self.row.project_id)
        return None if row is None else node_of(row)

    @strawberry.field(
        description="The image that the server was launched from; null if it has been deleted or you can't see it."
    )
    async def image(self, info: Info) -> LazyImage | None:
        row = await info.context.loaders.images.load(self.row.image_id)
        return None if row is None else node_of(row)

    @strawberry.field(
        description="The end of what the server wrote to its serial console, read by its host at most a second before "
        "the request. Requires the role MEMBER, since a console may show secrets. HOST_UNAVAILABLE if the host does "
        "not answer."
    )
    async def console(
        self,
        info: Info,
        last_kib: Annotated[int, strawberry.argument(description=f"How much of it, in KiB: 1 to {MAXIMUM_KIB}.")] = 64,
    ) -> ServerConsole | None:
        found = await info.context.loaders.consoles(last_kib).load(self.id)
        return ServerConsole(text=found.text, truncated=found.truncated, read_at=found.read_at)

    @strawberry.field(description="The volume that the server boots from.")
    async def boot_volume(self, info: Info) -> Volume | None:
        row = await info.context.loaders.boot_volumes.load(self.id)
        return None if row is None else Volume.of(row)

    @paged(description="Volumes of the server, the boot volume first.")
    async def volumes(self, info: Info, paging: Paging) -> Connection[Volume] | None:
        return await _page(
            info,
            paging.window(_ATTACHED, int),
            read=lambda session, window: seeing.attached_to(session, self.id, window),
            count=lambda session: seeing.count_attached_to(session, self.id),
            cursor_of=lambda row: cursor_for(_ATTACHED, row.position, row.id),
        )


async def server_page(
    info: Info,
    paging: Paging,
    read: Callable[[AsyncSession, Window], Awaitable[Page[ServerRow]]],
    count: Callable[[AsyncSession], Awaitable[int]],
) -> Connection[Server]:
    """A page of servers, in the order in which they were launched."""
    window, database = paging.window(_SERVERS), info.context.catalogue.database

    async def count_all() -> int:
        async with database.read() as session:
            return await count(session)

    async with database.read() as session:
        page = await read(session, window)
    nodes = [Server.of(row) for row in page.rows]
    return Connection[Server](
        count=count_all, **page_fields(page, nodes, lambda row: cursor_for(_SERVERS, row.id, row.id))
    )


async def volume_page(info: Info, paging: Paging, project_id: str) -> Connection[Volume]:
    """A page of the volumes of a project, in the order in which they were created."""
    return await _page(
        info,
        paging.window(_VOLUMES),
        read=lambda session, window: seeing.volumes_of(session, project_id, window),
        count=lambda session: seeing.count_volumes(session, project_id),
        cursor_of=lambda row: cursor_for(_VOLUMES, row.id, row.id),
    )


async def _page(
    info: Info,
    window: Window,
    read: Callable[[AsyncSession, Window], Awaitable[Page[VolumeRow]]],
    count: Callable[[AsyncSession], Awaitable[int]],
    cursor_of: Callable[[VolumeRow], str],
) -> Connection[Volume]:
    """A page of volumes."""
    database = info.context.catalogue.database

    async def count_all() -> int:
        async with database.read() as session:
            return await count(session)

    async with database.read() as session:
        page = await read(session, window)
    return Connection[Volume](count=count_all, **page_fields(page, [Volume.of(row) for row in page.rows], cursor_of))
