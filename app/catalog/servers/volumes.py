"""Creates and deletes volumes. A volume is empty, and gets its place on a host when it is first attached."""

from app.catalog import idempotency
from app.catalog.catalogue import Catalogue, Written
from app.catalog.people import tenancy
from app.catalog.people.tenancy import LOCKED
from app.catalog.revisions import require_revision
from app.catalog.servers import changes, hosts, limits, requests, seeing, settling
from app.catalog.servers.requests import NewVolume
from app.catalog.work import jobs
from app.catalog.work.kinds import SettleVolume
from app.database.sessions import Transaction
from app.errors import InUse, NotReady
from app.lifecycle import ProjectRole
from app.models import Project, Server, Volume, new_id
from app.sizes import GIB
from app.viewer import Viewer


async def create_volume(catalogue: Catalogue, viewer: Viewer, new: NewVolume) -> Written[Volume]:
    """Create an empty volume, to attach to a server when that is launched.

    Returns the volume of an earlier request with the same idempotency key, if there is one. Raises InvalidInput,
    TooLarge, NotFound, Forbidden, Conflict, QuotaExceeded, NoHypervisor.
    """
    new, settings = requests.checked_volume(new, catalogue.settings), catalogue.settings
    catalogue.database.require_room()
    async with catalogue.database.transaction() as tx:
        project = await tenancy.project_for(tx.session, viewer, new.project_id, ProjectRole.MEMBER, lock=True)
        earlier = await idempotency.made_before(tx.session, Volume, new)
        if earlier is not None:
            return Written(earlier, None)
        size = new.size_gib * GIB
        await limits.require_room(tx.session, project, settings, size=size, field="sizeGib")
        await hosts.require_any(tx.session, settings)
        volume = Volume(
            id=new_id("vol"), project_id=new.project_id, name=new.name, size=size, created_by=viewer.subject
        )
        changes.add_volume(tx, volume)
        idempotency.remember(tx, new, volume.id)
    return Written(volume, tx.position)


async def delete_volume(
    catalogue: Catalogue, viewer: Viewer, volume_id: str, expected_revision: int | None
) -> Written[Volume]:
    """Delete a volume that no server uses. Its host then frees the disk.

    Raises NotFound, Forbidden, StaleRevision, InUse, NotReady.
    """
    return await catalogue.database.freeing(lambda: _delete(catalogue, viewer, volume_id, expected_revision))


async def _delete(
    catalogue: Catalogue, viewer: Viewer, volume_id: str, expected_revision: int | None
) -> Written[Volume]:
    async with catalogue.database.transaction() as tx:
        # With the project locked, no launch attaches the volume in the meantime.
        volume = await seeing.volume_to_change(tx.session, viewer, volume_id, lock=False)
        await tx.session.get_one(Project, volume.project_id, with_for_update=LOCKED)
        host_id = volume.host_id
        forgotten = host_id is not None and await hosts.is_forgotten(tx.session, host_id, lock=True)
        volume = await seeing.volume_to_change(tx.session, viewer, volume_id)
        require_revision(volume.revision, expected_revision, "volume")
        await _require_detached(tx, volume)
        changes.delete_volume(tx, volume, actor=viewer.subject)
        if forgotten:
            await settling.erased(tx, volume)
        elif host_id is not None:
            volume.job_id = jobs.start(tx, SettleVolume(volume=volume.id), host_id=host_id).id
    return Written(volume, tx.position)


async def _require_detached(tx: Transaction, volume: Volume) -> None:
    """Raises InUse when a server has the volume, NotReady when that server is being deleted."""
    if volume.server_id is None:
        return
    server = await tx.session.get_one(Server, volume.server_id)
    if server.deleted_at is not None:
        raise NotReady(
            "The volume is being detached from a deleted server.", field=("volumeId",), hint="Try again shortly."
        )
    with_it = " Its boot volume is deleted with it." if volume.bootable else ""
    raise InUse(
        f"The volume is attached to the server {server.name}.",
        field=("volumeId",),
        hint=f"Delete the server with deleteServer first.{with_it}",
    )
