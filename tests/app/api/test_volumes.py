"""Volumes through the API: create, attach at launch, delete."""

from typing import Any

import pytest

from app.lifecycle import JobKind
from app.models import Volume
from app.sizes import GIB
from tests.support.gateway import MEMBER, READER, STRANGER, Gateway
from tests.support.serving_servers import (
    add_host,
    image,
    jobs_of,
    launch,
    refused,
    remove_hosts,
    server_row,
    volume,
    volume_row,
)
from tests.support.sharing import act, done, neighbour

pytestmark = pytest.mark.anyio

SHOWN = """query ($id: ID!) { node(id: $id) { ... on Volume { id revision name size bootable createdAt updatedAt
  server { id } project { id } image { id } } } }"""
LISTED = """query ($id: ID!, $first: Int, $after: String) { project(id: $id) { volumes(first: $first, after: $after) {
  totalCount pageInfo { endCursor hasNextPage } nodes { id } } } }"""


@pytest.fixture(autouse=True)
async def host(gateway: Gateway) -> str:
    await remove_hosts(gateway)
    return await add_host(gateway)


async def shown(gateway: Gateway, id_: str) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.ask(SHOWN, id=id_))["node"]
    return found


async def test_a_new_volume_is_empty_and_attached_to_nothing(gateway: Gateway, project: str) -> None:
    made = await volume(gateway, project, name=" data ", sizeGib=7)
    found = await shown(gateway, made["id"])
    assert found.pop("createdAt") <= found.pop("updatedAt")
    assert found == {
        "id": made["id"], "revision": 1, "name": "data", "size": 7 * GIB, "bootable": False, "server": None,
        "project": {"id": project}, "image": None,
    }  # fmt: skip
    assert (await volume_row(gateway, made["id"])).host_id is None


@pytest.mark.parametrize(
    ("given", "code", "field"),
    [
        ({"name": ""}, "INVALID", "name"),
        ({"sizeGib": 0}, "INVALID", "sizeGib"),
        ({"sizeGib": -1}, "INVALID", "sizeGib"),
        ({"sizeGib": 2**31 - 1}, "TOO_LARGE", "sizeGib"),
        ({"sizeGib": 1001}, "QUOTA_EXCEEDED", "sizeGib"),
        ({"idempotencyKey": "x" * 256}, "INVALID", "idempotencyKey"),
    ],
    ids=str,
)
async def test_a_volume_that_is_not_valid_is_refused(
    gateway: Gateway, project: str, given: dict[str, Any], code: str, field: str
) -> None:
    mistake = await refused(gateway, "createVolume", **{"projectId": project, "name": "data", "sizeGib": 1} | given)
    assert (mistake["code"], mistake["field"]) == (code, [field])


async def test_the_same_idempotency_key_returns_the_same_volume(gateway: Gateway, project: str) -> None:
    made = [await volume(gateway, project, idempotencyKey="once") for _ in range(2)]
    assert made[0] == made[1]
    mistake = await refused(gateway, "createVolume", projectId=project, name="data", sizeGib=4, idempotencyKey="once")
    assert (mistake["code"], mistake["hint"]) == ("CONFLICT", "Use a new key for each new volume.")


async def test_volumes_are_listed_page_by_page_with_boot_volumes(gateway: Gateway, project: str) -> None:
    one, other = await volume(gateway, project), await volume(gateway, project)
    server = await launch(gateway, project, (await image(gateway, project))["id"])
    boot = "query ($id: ID!) { node(id: $id) { ... on Server { bootVolume { id } } } }"
    boot_id = (await gateway.ask(boot, id=server["id"]))["node"]["bootVolume"]["id"]
    page = (await gateway.ask(LISTED, id=project, first=2))["project"]["volumes"]
    assert (page["totalCount"], [node["id"] for node in page["nodes"]]) == (3, [one["id"], other["id"]])
    after = page["pageInfo"]["endCursor"]
    rest = (await gateway.ask(LISTED, id=project, first=2, after=after))["project"]["volumes"]
    assert [node["id"] for node in rest["nodes"]] == [boot_id]


async def test_a_volume_is_attached_at_launch_and_gets_the_host_of_its_server(
    gateway: Gateway, host: str, project: str
) -> None:
    first, second = await volume(gateway, project), await volume(gateway, project)
    disk = await image(gateway, project)
    server = await launch(gateway, project, disk["id"], dataVolumeIds=[second["id"], first["id"]])
    found = await shown(gateway, first["id"])
    assert (found["server"], found["revision"]) == ({"id": server["id"]}, 2)
    assert (await volume_row(gateway, first["id"])).host_id == host
    volumes = "query ($id: ID!) { node(id: $id) { ... on Server { volumes(first: 9) { nodes { id bootable } } } } }"
    nodes = (await gateway.ask(volumes, id=server["id"]))["node"]["volumes"]["nodes"]
    assert [node["bootable"] for node in nodes] == [True, False, False]
    assert [node["id"] for node in nodes[1:]] == [second["id"], first["id"]]
    wish = {"projectId": project, "imageId": disk["id"], "name": "web"}
    mistake = await refused(gateway, "launchServer", **wish, dataVolumeIds=[first["id"]])
    assert (mistake["code"], mistake["field"]) == ("IN_USE", ["dataVolumeIds", "0"])


async def test_a_server_is_launched_on_the_host_that_has_its_volumes(gateway: Gateway, host: str, project: str) -> None:
    made = [await volume(gateway, project) for _ in range(2)]
    small = await add_host(gateway, "small", memory=2 * GIB)
    await gateway.change(Volume, made[0]["id"], host_id=small)
    disk = await image(gateway, project)
    server = await launch(gateway, project, disk["id"], dataVolumeIds=[made[0]["id"]])
    assert (await server_row(gateway, server["id"])).host_id == small
    await gateway.change(Volume, made[0]["id"], host_id=small, server_id=None)
    await gateway.change(Volume, made[1]["id"], host_id=host)
    ids = [one["id"] for one in made]
    wish = {"projectId": project, "imageId": disk["id"], "name": "web"}
    mistake = await refused(gateway, "launchServer", **wish, dataVolumeIds=ids)
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["dataVolumeIds"])


async def test_a_volume_of_another_project_is_not_attached(gateway: Gateway, project: str) -> None:
    other = await gateway.project()
    made, disk = await volume(gateway, other), await image(gateway, project)
    wish = {"projectId": project, "imageId": disk["id"], "name": "web", "dataVolumeIds": [made["id"]]}
    mistake = await refused(gateway, "launchServer", **wish)
    assert (mistake["code"], mistake["field"]) == ("FORBIDDEN", ["dataVolumeIds", "0"])
    hidden = await neighbour(gateway)
    theirs = await done(
        gateway, "createVolume", STRANGER, give="volume { id }", projectId=hidden, name="data", sizeGib=1
    )
    mistake = await refused(gateway, "launchServer", **wish | {"dataVolumeIds": [theirs["id"]]})
    assert mistake["code"] == "NOT_FOUND"


async def test_a_volume_that_a_server_uses_is_not_deleted(gateway: Gateway, project: str) -> None:
    made, disk = await volume(gateway, project), await image(gateway, project)
    server = await launch(gateway, project, disk["id"], name="web", dataVolumeIds=[made["id"]])
    mistake = await refused(gateway, "deleteVolume", volumeId=made["id"])
    assert (mistake["code"], mistake["message"]) == ("IN_USE", "The volume is attached to the server web.")
    boot = "query ($id: ID!) { node(id: $id) { ... on Server { bootVolume { id } } } }"
    boot_id = (await gateway.ask(boot, id=server["id"]))["node"]["bootVolume"]["id"]
    mistake = await refused(gateway, "deleteVolume", volumeId=boot_id)
    assert mistake["hint"].endswith("Its boot volume is deleted with it.")


async def test_a_volume_that_no_host_has_is_deleted_without_a_job(gateway: Gateway, host: str, project: str) -> None:
    made = await volume(gateway, project)
    mistake = await refused(gateway, "deleteVolume", volumeId=made["id"], expectedRevision=2)
    assert mistake["code"] == "STALE_REVISION"
    assert await done(gateway, "deleteVolume", give="deletedVolumeId", volumeId=made["id"]) == made["id"]
    assert (await gateway.refused(SHOWN, id=made["id"]))["code"] == "NOT_FOUND"
    assert [job for job in await jobs_of(gateway, host) if job.detail == {"volume": made["id"]}] == []


async def test_the_disk_of_a_deleted_volume_is_left_to_its_host(gateway: Gateway, host: str, project: str) -> None:
    made = await volume(gateway, project)
    await gateway.change(Volume, made["id"], host_id=host)
    await done(gateway, "deleteVolume", volumeId=made["id"])
    (job,) = [job for job in await jobs_of(gateway, host) if job.detail == {"volume": made["id"]}]
    assert job.kind == JobKind.SETTLE_VOLUME


async def test_members_create_and_delete_volumes_and_readers_see_them(gateway: Gateway) -> None:
    wish = {"projectId": gateway.alpha, "name": "data", "sizeGib": 1}
    assert (await refused(gateway, "createVolume", READER, **wish))["code"] == "FORBIDDEN"
    made = (await act(gateway, "createVolume", MEMBER, give="volume { id }", **wish))["volume"]
    assert (await gateway.ask(SHOWN, READER, id=made["id"]))["node"]["id"] == made["id"]
    assert (await refused(gateway, "deleteVolume", READER, volumeId=made["id"]))["code"] == "FORBIDDEN"
    assert (await refused(gateway, "deleteVolume", STRANGER, volumeId=made["id"]))["code"] == "NOT_FOUND"
    assert (await gateway.refused(SHOWN, STRANGER, id=made["id"]))["code"] == "NOT_FOUND"
