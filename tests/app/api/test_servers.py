"""Servers through the API: launch, start, stop, delete; who sees them, and what is refused."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from app.lifecycle import (
    Architecture,
    ImageStatus,
    JobKind,
    ProjectRole,
    ServerFailureCode,
    ServerGoal,
    ServerStatus,
)
from app.models import Image, Job, Project, Server, now
from app.sizes import GIB, MIB
from tests.support.gateway import ADMIN, MEMBER, READER, STRANGER, Gateway
from tests.support.serving_servers import (
    KEY,
    SERVER,
    add_host,
    blob_or_none,
    image,
    jobs_of,
    launch,
    refused,
    remove_hosts,
    server_row,
    volume,
    volume_row,
    volume_rows,
)
from tests.support.sharing import act, done, neighbour, share

pytestmark = pytest.mark.anyio

SHOWN = """query ($id: ID!) { node(id: $id) { ... on Server {
  id revision name status vcpus memoryMib createdBy createdAt updatedAt project { id } image { id }
  failure { code message hint occurredAt } bootVolume { id name size bootable server { id } image { id } }
  volumes(first: 9) { totalCount nodes { id bootable } } } } }"""
LISTED = """query ($id: ID!, $first: Int, $after: String, $last: Int) { project(id: $id) {
  servers(first: $first, after: $after, last: $last) { totalCount pageInfo { endCursor hasNextPage }
    nodes { id } } } }"""
USED_BY = "query ($id: ID!) { image(by: {id: $id}) { lastLaunchedAt usedBy(first: 9) { totalCount nodes { id } } } }"


@pytest.fixture
async def host(gateway: Gateway) -> str:
    await remove_hosts(gateway)
    return await add_host(gateway)


@pytest.fixture
async def disk(gateway: Gateway, project: str) -> dict[str, Any]:
    return await image(gateway, project, virtual_size=5 * GIB - 1)


async def shown(gateway: Gateway, server: dict[str, Any], subject: str = ADMIN) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.ask(SHOWN, subject, id=server["id"]))["node"]
    return found


async def test_a_launched_server_is_shown_with_its_boot_volume(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(
        gateway, project, disk["id"], name=" web ", vcpus=2, memoryMib=512, sshKeys=[KEY], userData="#cloud-config\n"
    )
    assert server == {
        "id": server["id"], "name": "web", "status": "STARTING", "revision": 1, "vcpus": 2, "memoryMib": 512,
        "project": {"id": project}, "image": {"id": disk["id"]},
    }  # fmt: skip
    found = await shown(gateway, server)
    boot = found["bootVolume"]
    assert boot == {
        "id": boot["id"], "name": "web", "size": 5 * GIB, "bootable": True, "server": {"id": server["id"]},
        "image": {"id": disk["id"]},
    }  # fmt: skip
    assert found["volumes"] == {"totalCount": 1, "nodes": [{"id": boot["id"], "bootable": True}]}
    assert (found["createdBy"], found["failure"]) == (ADMIN, None)
    row = await server_row(gateway, server["id"])
    assert (row.ssh_keys, row.user_data, row.host_id, row.goal) == ([KEY], "#cloud-config\n", host, ServerGoal.RUNNING)
    assert row.instance_id.startswith("ins_")
    (job,) = [job for job in await jobs_of(gateway, host) if job.id == row.job_id]
    assert (job.kind, job.detail) == (JobKind.SETTLE_SERVER, {"server": server["id"]})


async def test_a_boot_disk_may_be_larger_than_the_image_needs_and_not_smaller(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    wish = {"projectId": project, "imageId": disk["id"], "name": "web"}
    mistake = await refused(gateway, "launchServer", **wish, bootDiskGib=4)
    assert (mistake["code"], mistake["field"]) == ("BOOT_DISK_TOO_SMALL", ["bootDiskGib"])
    assert mistake["message"] == "The image needs a boot disk of at least 5 GiB; 4 GiB requested."
    assert mistake["hint"] == "Set `bootDiskGib` to 5 or more, or leave it out."
    server = await launch(gateway, project, disk["id"], bootDiskGib=9)
    assert (await shown(gateway, server))["bootVolume"]["size"] == 9 * GIB


async def test_two_servers_of_an_image_are_different_instances(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    made = [await launch(gateway, project, disk["id"]) for _ in range(2)]
    assert len({(await server_row(gateway, server["id"])).instance_id for server in made}) == 2


async def test_without_a_host_nothing_is_launched_and_everything_else_works(gateway: Gateway, project: str) -> None:
    await remove_hosts(gateway)
    disk = await image(gateway, project)
    mistake = await refused(gateway, "launchServer", projectId=project, imageId=disk["id"], name="web")
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["projectId"])
    assert mistake["hint"]
    mistake = await refused(gateway, "createVolume", projectId=project, name="data", sizeGib=1)
    assert mistake["code"] == "NO_HYPERVISOR"
    found = await gateway.ask(LISTED, id=project, first=9)
    assert found["project"]["servers"]["nodes"] == []


@pytest.mark.parametrize("wrong", [{"memory": 512 * MIB}, {"vcpus": 1}, {"takes_launches": False}])
async def test_a_host_without_room_gets_no_server(
    gateway: Gateway, project: str, disk: dict[str, Any], wrong: dict[str, Any]
) -> None:
    await remove_hosts(gateway)
    await add_host(gateway, f"small {wrong}", **wrong)
    mistake = await refused(gateway, "launchServer", projectId=project, imageId=disk["id"], name="web", vcpus=2)
    assert mistake["code"] == "NO_HYPERVISOR"


async def test_servers_go_to_the_host_with_the_most_free_memory_until_none_is_left(
    gateway: Gateway, project: str, disk: dict[str, Any]
) -> None:
    await remove_hosts(gateway)
    large, small = await add_host(gateway, "large", memory=5 * GIB), await add_host(gateway, "less", memory=3 * GIB)
    made = [await launch(gateway, project, disk["id"], memoryMib=2048) for _ in range(3)]
    rows = [await server_row(gateway, server["id"]) for server in made]
    assert sorted(row.host_id for row in rows) == sorted([large, large, small])
    mistake = await refused(gateway, "launchServer", projectId=project, imageId=disk["id"], name="web", memoryMib=2048)
    assert mistake["message"] == "No host has room for a server with 1 vCPU and 2 GiB of memory."
    # What is stopped needs no memory, and may not get it back.
    await gateway.change(Server, made[0]["id"], goal=ServerGoal.STOPPED, status=ServerStatus.STOPPED)
    await launch(gateway, project, disk["id"], memoryMib=2048)
    mistake = await refused(gateway, "startServer", serverId=made[0]["id"])
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["serverId"])


async def test_concurrent_launches_never_overcommit_a_host(
    gateway: Gateway, project: str, disk: dict[str, Any]
) -> None:
    await remove_hosts(gateway)
    await add_host(gateway, "narrow", memory=3 * GIB)
    wish = {"projectId": project, "imageId": disk["id"], "name": "web", "memoryMib": 1024}
    payloads = await asyncio.gather(*(act(gateway, "launchServer", **wish) for _ in range(8)))
    assert sum(not payload["userErrors"] for payload in payloads) == 3


async def test_an_image_of_another_architecture_is_not_launched(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    await gateway.change(Image, disk["id"], architecture=Architecture.AARCH64)
    mistake = await refused(gateway, "launchServer", projectId=project, imageId=disk["id"], name="web")
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["imageId"])


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"name": " "}, "INVALID", ["name"]),
        ({"name": "a\0b"}, "INVALID", ["name"]),
        ({"vcpus": 0}, "INVALID", ["vcpus"]),
        ({"vcpus": 257}, "INVALID", ["vcpus"]),
        ({"memoryMib": 63}, "INVALID", ["memoryMib"]),
        ({"memoryMib": 2**31 - 1}, "INVALID", ["memoryMib"]),
        ({"bootDiskGib": 0}, "INVALID", ["bootDiskGib"]),
        ({"bootDiskGib": 2**31 - 1}, "TOO_LARGE", ["bootDiskGib"]),
        ({"sshKeys": [KEY, ""]}, "INVALID", ["sshKeys", "1"]),
        ({"sshKeys": ["ssh-ed25519 AAAA"]}, "INVALID", ["sshKeys", "0"]),
        ({"sshKeys": ["ssh-rsa " + KEY.split()[1]]}, "INVALID", ["sshKeys", "0"]),
        ({"sshKeys": [f"{KEY}\nssh-rsa x"]}, "INVALID", ["sshKeys", "0"]),
        ({"sshKeys": ["-----BEGIN OPENSSH PRIVATE KEY-----"]}, "INVALID", ["sshKeys", "0"]),
        ({"sshKeys": [KEY] * 33}, "INVALID", ["sshKeys"]),
        ({"userData": "a\0b"}, "INVALID", ["userData"]),
        ({"userData": "\ud800"}, "INVALID", ["userData"]),
        ({"userData": "x" * (64 * 1024 + 1)}, "TOO_LARGE", ["userData"]),
        ({"dataVolumeIds": [f"vol_{'0' * 26}"] * 2}, "INVALID", ["dataVolumeIds"]),
        ({"dataVolumeIds": [f"vol_{at:026}" for at in range(17)]}, "INVALID", ["dataVolumeIds"]),
        ({"dataVolumeIds": [f"vol_{'0' * 26}"]}, "NOT_FOUND", ["dataVolumeIds", "0"]),
        ({"imageId": "img_x"}, "NOT_FOUND", ["imageId"]),
        ({"idempotencyKey": ""}, "INVALID", ["idempotencyKey"]),
    ],
    ids=str,
)
async def test_an_input_that_is_not_valid_is_refused(
    gateway: Gateway,
    host: str,
    project: str,
    disk: dict[str, Any],
    given: dict[str, Any],
    code: str,
    field: list[str],
) -> None:
    wish = {"projectId": project, "imageId": disk["id"], "name": "web"} | given
    mistake = await refused(gateway, "launchServer", **wish)
    assert (mistake["code"], mistake["field"]) == (code, field)
    assert "\0" not in mistake["message"]


async def test_only_active_images_are_launched(gateway: Gateway, host: str, project: str) -> None:
    waiting = await gateway.create(projectId=project)
    failed = await gateway.failed(projectId=project)
    for made, status in ((waiting, ImageStatus.QUEUED), (failed, ImageStatus.ERROR)):
        mistake = await refused(gateway, "launchServer", projectId=project, imageId=made["id"], name="web")
        assert (mistake["code"], mistake["field"]) == ("NOT_READY", ["imageId"])
        assert mistake["message"] == f"The image is {status}: only ACTIVE images can be launched."


async def test_a_shared_image_is_launched_in_the_project_it_is_shared_with(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    other = await neighbour(gateway)
    wish = {"projectId": other, "imageId": disk["id"], "name": "web"}
    assert (await refused(gateway, "launchServer", STRANGER, **wish))["code"] == "NOT_FOUND"
    await share(gateway, disk, other, offer=True)
    assert (await refused(gateway, "launchServer", STRANGER, **wish))["code"] == "NOT_FOUND"
    offers = "query ($id: ID!) { project(id: $id) { shareOffers(first: 1) { nodes { id } } } }"
    (offer,) = (await gateway.ask(offers, STRANGER, id=other))["project"]["shareOffers"]["nodes"]
    await done(gateway, "acceptImageShare", STRANGER, shareId=offer["id"])
    server = await launch(gateway, other, disk["id"], STRANGER)
    assert server["image"] == {"id": disk["id"]}
    # The members of the image's project see that it is used, and not by which server of another project.
    found = (await gateway.ask(USED_BY, ADMIN, id=disk["id"]))["image"]
    assert (found["usedBy"]["totalCount"], found["usedBy"]["nodes"]) == (0, [])
    assert found["lastLaunchedAt"] is not None
    found = (await gateway.ask(USED_BY, STRANGER, id=disk["id"]))["image"]
    assert (found["usedBy"]["totalCount"], found["usedBy"]["nodes"]) == (1, [{"id": server["id"]}])
    assert found["lastLaunchedAt"] is None


async def test_a_public_image_is_launched_by_every_project(gateway: Gateway, host: str, project: str) -> None:
    disk = await image(gateway, project)
    await gateway.make_public(disk["id"])
    other = await neighbour(gateway)
    assert (await launch(gateway, other, disk["id"], STRANGER))["project"] == {"id": other}


async def test_an_image_without_servers_was_never_launched(
    gateway: Gateway, project: str, disk: dict[str, Any]
) -> None:
    found = (await gateway.ask(USED_BY, id=disk["id"]))["image"]
    assert found == {"lastLaunchedAt": None, "usedBy": {"totalCount": 0, "nodes": []}}


async def test_servers_are_listed_page_by_page_in_order(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    ids = [(await launch(gateway, project, disk["id"]))["id"] for _ in range(3)]
    first = (await gateway.ask(LISTED, id=project, first=2))["project"]["servers"]
    assert [node["id"] for node in first["nodes"]] == ids[:2]
    assert (first["totalCount"], first["pageInfo"]["hasNextPage"]) == (3, True)
    after = first["pageInfo"]["endCursor"]
    rest = (await gateway.ask(LISTED, id=project, first=2, after=after))["project"]["servers"]
    assert [node["id"] for node in rest["nodes"]] == ids[2:]
    last = (await gateway.ask(LISTED, id=project, last=1))["project"]["servers"]
    assert [node["id"] for node in last["nodes"]] == ids[2:]


async def test_readers_see_servers_and_members_change_them(gateway: Gateway, host: str) -> None:
    disk = await image(gateway, gateway.alpha)
    wish = {"projectId": gateway.alpha, "imageId": disk["id"], "name": "web"}
    mistake = await refused(gateway, "launchServer", READER, **wish)
    assert (mistake["code"], mistake["field"]) == ("FORBIDDEN", ["projectId"])
    server = await launch(gateway, gateway.alpha, disk["id"], MEMBER)
    assert (await shown(gateway, server, READER))["id"] == server["id"]
    for name in ("startServer", "stopServer", "deleteServer"):
        mistake = await refused(gateway, name, READER, serverId=server["id"])
        assert (mistake["code"], mistake["field"]) == ("FORBIDDEN", ["serverId"])
        hidden = await refused(gateway, name, STRANGER, serverId=server["id"])
        absent = await refused(gateway, name, STRANGER, serverId=f"srv_{'0' * 26}")
        assert hidden == absent
        assert hidden["code"] == "NOT_FOUND"
    assert (await gateway.refused(SHOWN, STRANGER, id=server["id"]))["code"] == "NOT_FOUND"


async def test_the_same_idempotency_key_returns_the_same_server(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    wish = {"projectId": project, "imageId": disk["id"], "name": "web", "idempotencyKey": "once"}
    payloads = await asyncio.gather(*(act(gateway, "launchServer", give=SERVER, **wish) for _ in range(4)))
    assert len({payload["server"]["id"] for payload in payloads}) == 1
    mistake = await refused(gateway, "launchServer", **wish | {"vcpus": 2})
    assert (mistake["code"], mistake["hint"]) == ("CONFLICT", "Use a new key for each new server.")
    # A key is the project's, whatever was created with it.
    created = await act(gateway, "createImage", **gateway.creation(projectId=project, idempotencyKey="once"))
    assert [error["code"] for error in created["userErrors"]] == ["CONFLICT"]
    await done(gateway, "deleteServer", serverId=payloads[0]["server"]["id"])
    mistake = await refused(gateway, "launchServer", **wish)
    assert mistake["message"] == "The server created with this idempotency key has been deleted."


# ------------------------------------------------------------ limits


async def test_servers_and_volumes_are_limited(gateway: Gateway, host: str, project: str, disk: dict[str, Any]) -> None:
    await gateway.change(Project, project, servers_limit=2, volumes_limit=3, volume_storage_limit=13 * GIB)
    made = await launch(gateway, project, disk["id"])
    quota = "query ($id: ID!) { project(id: $id) { quota { servers { limit used } volumes { limit used } volumeStorage "
    quota += "{ limit used reserved } } } }"
    assert (await gateway.ask(quota, id=project))["project"]["quota"] == {
        "servers": {"limit": 2, "used": 1}, "volumes": {"limit": 3, "used": 1},
        "volumeStorage": {"limit": 13 * GIB, "used": 5 * GIB, "reserved": 0},
    }  # fmt: skip
    wish = {"projectId": project, "imageId": disk["id"], "name": "web"}
    mistake = await refused(gateway, "launchServer", **wish, bootDiskGib=9)
    assert mistake["message"] == "Not enough volume storage: 9 GiB requested; limit 13 GiB, used 5 GiB."
    assert (mistake["code"], mistake["field"]) == ("QUOTA_EXCEEDED", ["bootDiskGib"])
    await launch(gateway, project, disk["id"])
    mistake = await refused(gateway, "launchServer", **wish)
    assert mistake["message"] == "The project has 2 of 2 servers, and 1 more was requested."
    await volume(gateway, project)
    mistake = await refused(gateway, "createVolume", projectId=project, name="data", sizeGib=1)
    assert mistake["message"] == "The project has 3 of 3 volumes, and 1 more was requested."
    await done(gateway, "deleteServer", serverId=made["id"])
    await launch(gateway, project, disk["id"])


async def test_concurrent_launches_never_exceed_the_limit(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    await gateway.change(Project, project, servers_limit=3)
    wish = {"projectId": project, "imageId": disk["id"], "name": "web"}
    payloads = await asyncio.gather(*(act(gateway, "launchServer", **wish) for _ in range(9)))
    assert sum(not payload["userErrors"] for payload in payloads) == 3


# ------------------------------------------------------------ starting, stopping, deleting


async def test_a_server_is_stopped_and_started_by_its_one_job(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    job_id = (await server_row(gateway, server["id"])).job_id
    stopped = await done(gateway, "stopServer", give="server { status revision }", serverId=server["id"])
    assert stopped == {"status": "STARTING", "revision": 2}
    again = await done(gateway, "stopServer", give="server { revision }", serverId=server["id"])
    assert again == {"revision": 2}
    started = await done(gateway, "startServer", give="server { status revision }", serverId=server["id"])
    assert started == {"status": "STARTING", "revision": 3}
    again = await done(gateway, "startServer", give="server { revision }", serverId=server["id"])
    assert again == {"revision": 3}
    row = await server_row(gateway, server["id"])
    assert (row.job_id, row.goal) == (job_id, ServerGoal.RUNNING)
    assert [job.id for job in await jobs_of(gateway, host) if job.detail == {"server": server["id"]}] == [job_id]


async def test_a_failed_job_is_due_again_when_the_user_acts(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    job_id = str((await server_row(gateway, server["id"])).job_id)
    await gateway.change(Job, job_id, attempts=3, due_at=now() + timedelta(minutes=5))
    await done(gateway, "stopServer", serverId=server["id"])
    (job,) = [job for job in await jobs_of(gateway, host) if job.id == job_id]
    assert (job.attempts, job.due_at <= now()) == (0, True)


async def test_who_expects_another_revision_changes_nothing(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    for name in ("startServer", "stopServer", "deleteServer"):
        mistake = await refused(gateway, name, serverId=server["id"], expectedRevision=7)
        assert (mistake["code"], mistake["message"]) == ("STALE_REVISION", "The server is at revision 1, not 7.")
    await done(gateway, "stopServer", serverId=server["id"], expectedRevision=1)


async def test_a_server_in_error_states_why_and_is_started_again(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    await gateway.change(
        Server, server["id"], status=ServerStatus.ERROR, goal=ServerGoal.STOPPED, failed_at=now(),
        failure_code=ServerFailureCode.INTERNAL, failure_message="It broke.", failure_hint="Try again.",
    )  # fmt: skip
    failure = (await shown(gateway, server))["failure"]
    assert failure.pop("occurredAt")
    assert failure == {"code": "INTERNAL", "message": "It broke.", "hint": "Try again."}
    started = await done(gateway, "startServer", give="server { status failure { code } }", serverId=server["id"])
    assert started == {"status": "STARTING", "failure": None}


async def test_a_server_whose_host_is_gone_is_not_started(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    await gateway.change(Server, server["id"], goal=ServerGoal.STOPPED, status=ServerStatus.STOPPED)
    await remove_hosts(gateway)
    mistake = await refused(gateway, "startServer", serverId=server["id"])
    assert (mistake["code"], mistake["message"]) == ("NO_HYPERVISOR", "The host of the server is not available.")


async def test_a_deleted_server_is_gone_at_once_with_its_boot_volume(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    data = await volume(gateway, project)
    server = await launch(gateway, project, disk["id"], dataVolumeIds=[data["id"]])
    boot, attached = await volume_rows(gateway, server["id"])
    deleted = await done(gateway, "deleteServer", give="deletedServerId", serverId=server["id"])
    assert deleted == server["id"]
    for id_ in (server["id"], boot.id):
        assert (await gateway.refused("query ($id: ID!) { node(id: $id) { id } }", id=id_))["code"] == "NOT_FOUND"
    assert (await gateway.ask(LISTED, id=project, first=9))["project"]["servers"]["totalCount"] == 0
    assert (await volume_row(gateway, attached.id)).deleted_at is None
    # The disk is still attached until the host has ended the server.
    mistake = await refused(gateway, "deleteVolume", volumeId=data["id"])
    assert (mistake["code"], mistake["field"]) == ("NOT_READY", ["volumeId"])
    mistake = await refused(gateway, "deleteServer", serverId=server["id"])
    assert mistake["code"] == "NOT_FOUND"


async def test_the_bytes_of_an_image_are_kept_as_long_as_a_volume_is_based_on_them(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    blob = await gateway.blob(disk)
    server = await launch(gateway, project, disk["id"])
    await gateway.mutate("deleteImage", {"imageId": disk["id"]})
    assert await blob_or_none(gateway, blob.id) is not None
    assert (await shown(gateway, server))["image"] is None
    assert [job for job in await gateway.all_jobs() if job.kind == JobKind.ERASE and blob.key in str(job.detail)] == []


async def test_a_role_that_is_withdrawn_takes_the_servers_out_of_sight(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    other = await neighbour(gateway, max=ProjectRole.MEMBER)
    own = await image(gateway, project)
    await gateway.make_public(own["id"])
    server = await launch(gateway, other, own["id"], MEMBER)
    await done(gateway, "removeProjectMember", STRANGER, projectId=other, subject=MEMBER)
    assert (await gateway.refused(SHOWN, MEMBER, id=server["id"]))["code"] == "NOT_FOUND"
