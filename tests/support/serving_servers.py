"""What tests of servers and volumes ask for, in few words."""

import hashlib
from datetime import timedelta
from typing import Any

from sqlmodel import select

from app.catalog.servers import hosts
from app.catalog.servers.hosts import HostReport
from app.lifecycle import JobState
from app.models import Blob, Host, Job, Server, Volume, now
from app.sizes import GIB, MIB
from tests.support.gateway import ADMIN, Gateway
from tests.support.sharing import act, done

SERVER = "server { id name status revision vcpus memoryMib project { id } image { id } }"
SNAPSHOT = """snapshot { id name type status failure { code message hint retriable }
  source { ... on ServerSource { capturedAt } ... on VolumeSource { capturedAt } } }"""
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f ada@example.org"
CONTENT = b"\1" * MIB


def about(machine: str = "one", memory: int = 1024 * GIB, vcpus: int = 64, takes_launches: bool = True) -> HostReport:
    """What a host says about itself."""
    return HostReport(machine, f"host {machine}", "tcg", memory, vcpus, takes_launches)


async def add_host(gateway: Gateway, machine: str = "one", **given: Any) -> str:
    """A host that stays alive, whatever the test takes. Returns its id."""
    host_id = await hosts.report(gateway.database, about(machine, **given))
    await gateway.change(Host, host_id, seen_at=now() + timedelta(days=1))
    return host_id


async def remove_hosts(gateway: Gateway) -> None:
    """Let all hosts be gone."""
    async with gateway.database.transaction() as tx:
        for host in (await tx.session.execute(select(Host))).scalars():
            host.seen_at = now() - timedelta(days=1)


async def image(gateway: Gateway, project: str, **given: Any) -> dict[str, Any]:
    """An ACTIVE image whose SHA-256 is known."""
    made = await gateway.active(CONTENT, projectId=project, **given)
    await gateway.change(Blob, (await gateway.blob(made)).id, sha256=hashlib.sha256(CONTENT).hexdigest())
    return made


async def launch(
    gateway: Gateway, project: str, image_id: str, subject: str = ADMIN, give: str = SERVER, **given: Any
) -> dict[str, Any]:
    """A new server."""
    wish = {"projectId": project, "imageId": image_id, "name": "web"} | given
    made: dict[str, Any] = await done(gateway, "launchServer", subject, give=give, **wish)
    return made


async def volume(gateway: Gateway, project: str, **given: Any) -> dict[str, Any]:
    """A new volume."""
    wish = {"projectId": project, "name": "data", "sizeGib": 3} | given
    made: dict[str, Any] = await done(gateway, "createVolume", give="volume { id name size revision }", **wish)
    return made


async def boot_volume(gateway: Gateway, server: dict[str, Any]) -> str:
    """The id of the volume that a server boots from."""
    return (await volume_rows(gateway, server["id"]))[0].id


async def snapshot(gateway: Gateway, volume_id: str, give: str = SNAPSHOT, **given: Any) -> dict[str, Any]:
    """A new snapshot."""
    wish = {"volumeId": volume_id, "name": "nightly"} | given
    made: dict[str, Any] = await done(gateway, "createSnapshot", give=give, **wish)
    return made


async def promote(gateway: Gateway, project: str, snapshot: dict[str, Any], **given: Any) -> dict[str, Any]:
    """A new image of a snapshot."""
    wish = {"projectId": project, "name": "promoted", "source": {"snapshot": {"snapshotId": snapshot["id"]}}} | given
    made: dict[str, Any] = await done(gateway, "createImage", give="image { id name status }", **wish)
    return made


async def refused(gateway: Gateway, name: str, subject: str = ADMIN, /, **given: Any) -> dict[str, Any]:
    """The one mistake of a mutation about servers, which has changed nothing."""
    before = await gateway.everything()
    payload = await act(gateway, name, subject, **given)
    assert payload["cursor"] is None
    assert await gateway.everything() == before
    (found,) = payload["userErrors"]
    return dict(found)


async def server_row(gateway: Gateway, server_id: str) -> Server:
    async with gateway.database.read() as session:
        return await session.get_one(Server, server_id)


async def volume_rows(gateway: Gateway, server_id: str) -> list[Volume]:
    """The volumes that name a server, also deleted ones."""
    async with gateway.database.read() as session:
        query = select(Volume).where(Volume.server_id == server_id).order_by("position")
        return list((await session.execute(query)).scalars())


async def volume_row(gateway: Gateway, volume_id: str) -> Volume:
    async with gateway.database.read() as session:
        return await session.get_one(Volume, volume_id)


async def jobs_of(gateway: Gateway, host_id: str) -> list[Job]:
    """The unfinished jobs of a host."""
    async with gateway.database.read() as session:
        found = (await session.execute(select(Job).where(Job.host_id == host_id))).scalars()
        return [job for job in found if job.state != JobState.DONE]


async def blob_or_none(gateway: Gateway, blob_id: str) -> Blob | None:
    async with gateway.database.read() as session:
        return await session.get(Blob, blob_id)
