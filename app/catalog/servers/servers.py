"""Launches, starts, stops and deletes servers: records what users want, and starts the job of the host."""

from collections.abc import Sequence

from sqlalchemy import delete
from sqlmodel import col

from app.catalog import idempotency, images
from app.catalog.catalogue import Catalogue, Written
from app.catalog.people import access, tenancy
from app.catalog.people.tenancy import LOCKED
from app.catalog.revisions import require_revision
from app.catalog.servers import booting, changes, hosts, limits, requests, seeing, settling
from app.catalog.servers.changes import NO_FAILURE
from app.catalog.servers.requests import NewServer
from app.catalog.work import jobs
from app.catalog.work.kinds import SettleServer
from app.database.sessions import Transaction
from app.errors import BootDiskTooSmall, Forbidden, InUse
from app.lifecycle import ProjectRole, ServerFirmware, ServerGoal, ServerStatus
from app.models import Blob, Host, Image, Server, ServerConsole, Volume, new_id, now
from app.sizes import GIB, MIB
from app.viewer import Viewer


async def launch_server(catalogue: Catalogue, viewer: Viewer, new: NewServer) -> Written[Server]:
    """Create a server with its boot volume, which its host then starts. It is STARTING until the host reports.

    Returns the server of an earlier request with the same idempotency key, if there is one. Raises InvalidInput,
    TooLarge, NotFound, Forbidden, Conflict, NotReady, BootDiskTooSmall, WillNotBoot, InUse, QuotaExceeded,
    NoHypervisor.
    """
    new, settings = requests.checked_server(new, catalogue.settings), catalogue.settings
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        # The lock makes launches of a project check one after the other how much room is left, and which volumes.
        project = await tenancy.project_for(tx.session, viewer, new.project_id, ProjectRole.MEMBER, lock=True)
        earlier = await idempotency.made_before(tx.session, Server, new)
        if earlier is not None:
            return Written(earlier, None)
        image = await _image_of(tx, viewer, new)
        size = _boot_disk(new, image)
        blob = await tx.session.get_one(Blob, image.blob_id)
        plan = booting.plan(new, image, blob)
        data = [await _data_volume(tx, viewer, new, at) for at in range(len(new.data_volume_ids))]
        await limits.require_room(tx.session, project, settings, size=size, field="bootDiskGib", server=True)
        host = await hosts.place(
            tx,
            settings,
            vcpus=new.vcpus,
            memory=new.memory_mib * MIB,
            architecture=plan.architecture,
            only={volume.host_id for volume in data if volume.host_id},
        )
        server = await _add(tx, viewer, new, image, plan.firmware, host, size, data)
        idempotency.remember(tx, new, server.id)
    return Written(server, tx.position)


async def _image_of(tx: Transaction, viewer: Viewer, new: NewServer) -> Image:
    """The image to launch, locked. Raises NotFound, Forbidden, NotReady."""
    field = ("imageId",)
    refusal = Forbidden(
        "This project may not launch the image.",
        field=field,
        hint="Ask for the image to be shared with the project, or launch it in the project that owns it.",
    )
    image = await access.image_to_launch(tx.session, viewer, new.image_id, new.project_id, refusal)
    access.require_active(image, "launched", field)
    return image


def _boot_disk(new: NewServer, image: Image) -> int:
    """The size of the boot volume, in bytes. Raises BootDiskTooSmall."""
    least = images.minimum_boot_disk(image.virtual_size or 0)
    if new.boot_disk_gib is not None and new.boot_disk_gib < least:
        raise BootDiskTooSmall(
            f"The image needs a boot disk of at least {least:,} GiB; {new.boot_disk_gib:,} GiB requested.",
            field=("bootDiskGib",),
            hint=f"Set `bootDiskGib` to {least} or more, or leave it out.",
        )
    return (new.boot_disk_gib or least) * GIB


async def _data_volume(tx: Transaction, viewer: Viewer, new: NewServer, at: int) -> Volume:
    """A data volume of a new server. Raises NotFound, Forbidden, InUse.

    It is not locked: only transactions with the project locked attach and delete volumes.
    """
    field = ("dataVolumeIds", str(at))
    volume = await seeing.volume_to_change(tx.session, viewer, new.data_volume_ids[at], field, lock=False)
    if volume.project_id != new.project_id:
        raise Forbidden(
            "The volume belongs to another project.", field=field, hint="Use volumes of the project of the server."
        )
    if volume.server_id is not None:
        raise InUse(
            "The volume is attached to another server.",
            field=field,
            hint="Delete that server first, or use another volume.",
        )
    return volume


async def _add(
    tx: Transaction,
    viewer: Viewer,
    new: NewServer,
    image: Image,
    firmware: ServerFirmware,
    host: Host,
    size: int,
    data: Sequence[Volume],
) -> Server:
    """Insert a server and its boot volume, attach the data volumes, and start the job of the host."""
    server = Server(
        id=new_id("srv"),
        project_id=new.project_id,
        name=new.name,
        image_id=image.id,
        vcpus=new.vcpus,
        memory=new.memory_mib * MIB,
        host_id=host.id,
        # Unique for each server, also for one that is launched from an image of a server.
        instance_id=new_id("ins"),
        ssh_keys=list(new.ssh_keys),
        user_data=new.user_data,
        firmware=firmware,
        created_by=viewer.subject,
    )
    server.job_id = jobs.start(tx, SettleServer(server=server.id), host_id=host.id).id
    changes.add_server(tx, server)
    await tx.session.flush()
    for at, volume in enumerate(data, start=1):
        changes.attach(tx, volume, server, at)
    image.last_launched_at = now()
    await tx.session.flush()
    # The lock keeps the blob from being erased before the commit.
    blob = await tx.session.get_one(Blob, image.blob_id, with_for_update=LOCKED)
    boot = Volume(
        project_id=new.project_id,
        name=new.name,
        size=size,
        bootable=True,
        image_id=image.id,
        base_id=blob.id,
        server_id=server.id,
        host_id=host.id,
        created_by=viewer.subject,
    )
    changes.add_volume(tx, boot)
    return server


# ---------------------------------------------------------------- changing


async def start_server(
    catalogue: Catalogue, viewer: Viewer, server_id: str, expected_revision: int | None
) -> Written[Server]:
    """Start a server that is STOPPED or in ERROR. Does nothing if it runs or is starting.

    Raises NotFound, Forbidden, StaleRevision, NoHypervisor.
    """
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        # The host is locked before the server, as everywhere.
        server = await seeing.server_to_change(tx.session, viewer, server_id, lock=False)
        if server.goal != ServerGoal.RUNNING:
            await hosts.require_room(tx, catalogue.settings, server)
        elif server.status == ServerStatus.ERROR:
            await hosts.require_alive(tx, catalogue.settings, server)
        server = await seeing.server_to_change(tx.session, viewer, server_id)
        require_revision(server.revision, expected_revision, "server")
        if server.goal != ServerGoal.RUNNING or server.status == ServerStatus.ERROR:
            starting = {"goal": ServerGoal.RUNNING, "status": ServerStatus.STARTING, **NO_FAILURE}
            changes.change(tx, server, actor=viewer.subject, **starting)
            await _pursue(tx, server)
    return Written(server, tx.position)


async def stop_server(
    catalogue: Catalogue, viewer: Viewer, server_id: str, expected_revision: int | None
) -> Written[Server]:
    """Shut a server down; its status changes when it has stopped. Does nothing if that was requested before.

    Raises NotFound, Forbidden, StaleRevision.
    """
    async with catalogue.database.transaction() as tx:
        server = await seeing.server_to_change(tx.session, viewer, server_id)
        require_revision(server.revision, expected_revision, "server")
        if server.goal != ServerGoal.STOPPED:
            changes.change(tx, server, actor=viewer.subject, goal=ServerGoal.STOPPED)
            await _pursue(tx, server)
    return Written(server, tx.position)


async def delete_server(
    catalogue: Catalogue, viewer: Viewer, server_id: str, expected_revision: int | None
) -> Written[Server]:
    """Delete a server with its boot volume. Its host ends it, and detaches its data volumes. A removed host need not.

    Raises NotFound, Forbidden, StaleRevision.
    """
    return await catalogue.database.freeing(lambda: _delete(catalogue, viewer, server_id, expected_revision))


async def _delete(
    catalogue: Catalogue, viewer: Viewer, server_id: str, expected_revision: int | None
) -> Written[Server]:
    async with catalogue.database.transaction() as tx:
        server = await seeing.server_to_change(tx.session, viewer, server_id)
        require_revision(server.revision, expected_revision, "server")
        changes.delete(tx, server, actor=viewer.subject)
        await tx.session.execute(delete(ServerConsole).where(col(ServerConsole.server_id) == server.id))
        volumes = await settling.locked_volumes(tx, server.id)
        for volume in volumes:
            if volume.bootable:
                changes.delete_volume(tx, volume, actor=viewer.subject)
        if await hosts.is_forgotten(tx.session, server.host_id):
            await settling.let_go(tx, volumes)
        else:
            await _pursue(tx, server)
    return Written(server, tx.position)


async def _pursue(tx: Transaction, server: Server) -> None:
    """Make the host of a server, which has just changed, act on it.

    There is one job at a time: one that runs looks again before it ends.
    """
    if not await jobs.expedite(tx, server.job_id):
        server.job_id = jobs.start(tx, SettleServer(server=server.id), host_id=server.host_id).id
