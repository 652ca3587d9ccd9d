"""Pinned copies: they copy no bytes, are ACTIVE at once, outlive their origin, and count only what they add."""

import asyncio
from typing import Any

import pytest

from app.adapters.folder.store import FolderStore
from app.catalog import findings
from app.lifecycle import JobKind, ProjectRole
from app.models import Blob, Image, Project
from app.sizes import GIB, MIB
from tests.support.gateway import ADMIN, MEMBER, STRANGER, Gateway
from tests.support.sharing import act, done, feed_of, mistake, neighbour, sees, share, storage

pytestmark = pytest.mark.anyio

GIVE = """image { id name status sha256 storedSize virtualSize minBootDiskGib architecture os { family version }
    labels { key value } revision source { ... on CopySource { imageName sha256 image { id } } } }"""


def wish(image: dict[str, Any], project: str, **given: Any) -> dict[str, Any]:
    return {"projectId": project, "name": "pinned", "source": {"image": {"imageId": image["id"]}}} | given


async def copied(
    gateway: Gateway, image: dict[str, Any], project: str, subject: str = ADMIN, **given: Any
) -> dict[str, Any]:
    made: dict[str, Any] = await done(gateway, "createImage", subject, give=GIVE, **wish(image, project, **given))
    return made


async def test_a_copy_is_active_in_its_own_transaction_and_has_no_bytes_of_its_own(gateway: Gateway) -> None:
    project = await gateway.project()
    origin = await gateway.active(
        projectId=project, name="ubuntu", os={"family": "ubuntu", "version": "24.04"},
        architecture="AARCH64", labels=[{"key": "tier", "value": "gold"}],
    )  # fmt: skip
    files, jobs = gateway.files(), await gateway.all_jobs()
    copy = await copied(gateway, origin, project)
    assert copy["status"] == "ACTIVE"
    assert (copy["storedSize"], copy["virtualSize"], copy["minBootDiskGib"]) == (MIB, GIB, 1)
    assert (copy["os"], copy["architecture"]) == ({"family": "ubuntu", "version": "24.04"}, "AARCH64")
    assert copy["labels"] == [{"key": "tier", "value": "gold"}]
    assert copy["source"] == {"imageName": "ubuntu", "sha256": None, "image": {"id": origin["id"]}}
    assert gateway.files() == files
    assert [job.id for job in await gateway.all_jobs()] == [job.id for job in jobs]
    (created,) = await feed_of(gateway, project, copy)
    assert (created["__typename"], created["actor"]) == ("ImageCreated", ADMIN)


async def test_what_is_said_about_a_copy_goes_before_what_its_origin_says(gateway: Gateway) -> None:
    project = await gateway.project()
    origin = await gateway.active(projectId=project, os={"family": "ubuntu"}, labels=[{"key": "a", "value": "1"}])
    copy = await copied(gateway, origin, project, os={"family": "rocky"}, labels=[{"key": "b", "value": "2"}])
    assert copy["os"] == {"family": "rocky", "version": None}
    assert copy["labels"] == [{"key": "b", "value": "2"}]


async def test_a_copy_outlives_its_origin_and_the_bytes_go_with_the_last(gateway: Gateway) -> None:
    project = await gateway.project()
    origin = await gateway.active(projectId=project)
    copy = await copied(gateway, origin, project)
    blob = await gateway.blob(copy)
    await done(gateway, "deleteImage", imageId=origin["id"])
    document = f"query ($id: ID!) {{ image(by: {{id: $id}}) {{ download {{ url }} {GIVE[8:-1]} }} }}"
    left = (await gateway.ask(document, id=copy["id"]))["image"]
    assert left["source"] == {"imageName": "disk", "sha256": None, "image": None}
    assert (await gateway.client.get(left["download"]["url"])).content == b"\1" * MIB
    await done(gateway, "deleteImage", imageId=copy["id"])
    async with gateway.database.read() as session:
        assert await session.get(Blob, blob.id) is None
    erasing = [job for job in await gateway.all_jobs() if job.detail.get("keys") == [blob.key]]
    assert len(erasing) == 1


async def test_a_shared_image_is_copied_by_a_member_of_the_project_that_may_launch_it(gateway: Gateway) -> None:
    other = await neighbour(gateway, guest=ProjectRole.MEMBER, looker=ProjectRole.READER)
    origin = await gateway.active(name="golden")
    hidden = await mistake(gateway, "createImage", "guest", **wish(origin, other))
    absent = await mistake(gateway, "createImage", "guest", **wish({"id": f"img_{'0' * 26}"}, other))
    assert (hidden["code"], hidden["field"]) == ("NOT_FOUND", ["source", "image", "imageId"])
    assert hidden == absent
    made = await share(gateway, origin, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    assert (await mistake(gateway, "createImage", "looker", **wish(origin, other)))["code"] == "FORBIDDEN"
    copy = await copied(gateway, origin, other, "guest")
    await done(gateway, "revokeImageShare", shareId=made["id"])
    assert not await sees(gateway, "guest", origin)
    assert await sees(gateway, "guest", copy)


async def test_an_image_that_only_another_project_may_launch_can_not_be_copied(gateway: Gateway) -> None:
    other = await gateway.project()
    origin = await gateway.active()
    refused = await mistake(gateway, "createImage", **wish(origin, other))
    assert (refused["code"], refused["field"]) == ("FORBIDDEN", ["source", "image", "imageId"])
    assert "shared with the project" in refused["hint"]


async def test_only_an_active_image_can_be_copied(gateway: Gateway) -> None:
    for origin, advice in ((await gateway.create(), "Watch it"), (await gateway.failed(), "Read image { failure")):
        refused = await mistake(gateway, "createImage", **wish(origin, gateway.alpha))
        assert (refused["code"], refused["field"]) == ("NOT_READY", ["source", "image", "imageId"])
        assert refused["hint"].startswith(advice)


async def test_bytes_that_images_of_a_project_share_count_once(gateway: Gateway) -> None:
    project, other = await gateway.project(), await gateway.project()
    await gateway.change(Project, project, image_storage_limit=MIB)
    origin = await gateway.active(projectId=project)
    copies = [await copied(gateway, origin, project, name=str(number)) for number in range(3)]
    assert await storage(gateway, project) == {"limit": 1, "used": 1, "reserved": 0}
    await share(gateway, origin, other)
    await copied(gateway, origin, other)
    assert (await storage(gateway, other))["used"] == 1
    for image in (origin, *copies[1:]):
        await done(gateway, "deleteImage", imageId=image["id"])
        assert (await storage(gateway, project))["used"] == 1
    await done(gateway, "deleteImage", imageId=copies[0]["id"])
    assert (await storage(gateway, project))["used"] == 0


async def test_a_copy_needs_room_for_its_count_and_for_the_bytes_that_it_adds(gateway: Gateway) -> None:
    project, other = await gateway.project(), await gateway.project()
    origin = await gateway.active(projectId=project)
    await share(gateway, origin, other)
    await gateway.change(Project, project, custom_images_limit=1)
    full = await mistake(gateway, "createImage", **wish(origin, project))
    assert (full["code"], full["__typename"]) == ("QUOTA_EXCEEDED", "CountQuotaError")
    await gateway.change(Project, other, image_storage_limit=MIB - 1)
    full = await mistake(gateway, "createImage", **wish(origin, other))
    assert (full["code"], full["__typename"]) == ("QUOTA_EXCEEDED", "ByteQuotaError")
    assert full["field"] == ["source", "image", "imageId"]
    await gateway.change(Project, other, image_storage_limit=MIB)
    await copied(gateway, origin, other)


async def test_the_same_key_returns_the_same_copy_and_other_input_is_a_conflict(gateway: Gateway) -> None:
    project = await gateway.project()
    origin, another = await gateway.active(projectId=project), await gateway.active(projectId=project)
    first = await copied(gateway, origin, project, idempotencyKey="once")
    before = await gateway.everything()
    assert await copied(gateway, origin, project, idempotencyKey="once") == first
    assert await gateway.everything() == before
    for wrong in (wish(another, project), gateway.creation(projectId=project)):
        refused = await mistake(gateway, "createImage", **wrong, idempotencyKey="once")
        assert (refused["code"], refused["field"]) == ("CONFLICT", ["idempotencyKey"])


async def test_an_image_is_copied_or_deleted_and_no_copy_is_left_without_bytes(gateway: Gateway) -> None:
    for _ in range(5):
        project = await gateway.project()
        origin = await gateway.active(projectId=project)
        asked = [act(gateway, "createImage", give="image { id }", **wish(origin, project)) for _ in range(4)]
        payloads = await asyncio.gather(*asked[:2], act(gateway, "deleteImage", imageId=origin["id"]), *asked[2:])
        made = [payload["image"]["id"] for payload in payloads if payload.get("image")]
        refused = [payload["userErrors"][0]["code"] for payload in payloads if payload["userErrors"]]
        assert set(refused) <= {"NOT_FOUND"}
        assert len(made) + len(refused) == 4
        for image_id in made:
            row = await gateway.image(image_id)
            async with gateway.database.read() as session:
                assert await session.get(Blob, row.blob_id) is not None


@pytest.mark.parametrize("when", ["before", "between", "after"])
async def test_a_copy_learns_the_sha256_whenever_it_is_made(gateway: Gateway, when: str) -> None:
    project = await gateway.project()
    origin = await gateway.active(projectId=project)
    claim = await gateway.claim(origin["id"], JobKind.HASH)
    copies = [await copied(gateway, origin, project)] if when == "before" else []
    if when == "between":  # the worker dies after its first step, in which it writes down what it has found
        await gateway.change(Blob, str((await gateway.image(origin["id"])).blob_id), sha256="0" * 64)
        copies.append(await copied(gateway, origin, project))
    blob = await findings.blob_of(gateway.catalogue, claim)
    assert blob is not None
    await findings.keep_hash(gateway.catalogue, claim, "0" * 64)
    if when == "after":
        copies.append(await copied(gateway, origin, project))
    for image in (origin, *copies):
        assert (await gateway.image(image["id"])).sha256 == "0" * 64
    events = [event for event in await feed_of(gateway, project, copies[0]) if event.get("fields") == ["sha256"]]
    assert len(events) == (when == "before")


async def test_a_copy_is_downloaded_under_its_own_name(gateway: Gateway) -> None:
    assert isinstance(gateway.store, FolderStore)
    origin = await gateway.active(name="theirs")
    copy = await copied(gateway, origin, gateway.alpha, MEMBER, name="mine")
    document = "query ($id: ID!) { image(by: {id: $id}) { download { url } } }"
    url = (await gateway.ask(document, id=copy["id"]))["image"]["download"]["url"]
    answer = await gateway.client.get(url)
    assert "mine.qcow2" in answer.headers["content-disposition"]


async def test_a_copy_can_be_copied_and_names_what_it_was_made_of(gateway: Gateway) -> None:
    project = await gateway.project()
    origin = await gateway.active(projectId=project, name="first")
    second = await copied(gateway, origin, project, name="second")
    third = await copied(gateway, second, project, name="third")
    assert third["source"]["imageName"] == "second"
    row: Image = await gateway.image(third["id"])
    assert row.blob_id == (await gateway.image(origin["id"])).blob_id
