"""Images that every project sees: beside its own and shared ones, to launch and copy, and for nobody else to change."""

from typing import Any

import pytest

from app.lifecycle import ImageVisibility, ProjectRole
from tests.support.gateway import ADMIN, STRANGER, Gateway
from tests.support.sharing import done, mistake, neighbour, share

pytestmark = pytest.mark.anyio

NAMED = "query ($p: ID!, $name: String!) { image(by: {name: {projectId: $p, name: $name}}) { id } }"
IMAGE = "query ($id: ID!) { image(by: {id: $id}) { id visibility download { url } viewerCan { launch edit } } }"
LIST = "query ($p: ID!, $f: ImageFilter) { images(projectId: $p, first: 9, filter: $f) { totalCount nodes { id } } }"
CONTENT = b"\1" * 4096


async def public(gateway: Gateway, **given: Any) -> dict[str, Any]:
    """An image that every project sees, of a project that no other test uses."""
    image = await gateway.active(CONTENT, projectId=await gateway.project(), **given)
    await gateway.make_public(image["id"])
    return image


async def test_a_name_means_the_project_s_own_image_then_a_shared_one_then_a_public_one(gateway: Gateway) -> None:
    other = await neighbour(gateway)

    async def named() -> str:
        return str((await gateway.ask(NAMED, STRANGER, p=other, name="found"))["image"]["id"])

    everyone_s = await public(gateway, name="found")
    assert await named() == everyone_s["id"]
    shared = await gateway.active(name="found")
    made = await share(gateway, shared, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    assert await named() == shared["id"]
    own = await gateway.create(STRANGER, projectId=other, name="found")
    assert await named() == own["id"]


async def test_members_of_any_project_download_and_copy_it_and_readers_only_download(gateway: Gateway) -> None:
    image, other = await public(gateway), await neighbour(gateway, rita=ProjectRole.READER)
    seen = (await gateway.ask(IMAGE, STRANGER, id=image["id"]))["image"]
    assert (seen["visibility"], seen["viewerCan"]) == ("PUBLIC", {"launch": True, "edit": False})
    downloaded = await gateway.client.get(seen["download"]["url"])
    assert (downloaded.status_code, downloaded.content) == (200, CONTENT)
    copy = {"projectId": other, "name": "mine", "source": {"image": {"imageId": image["id"]}}}
    made = await done(gateway, "createImage", STRANGER, give="image { id visibility project { id } }", **copy)
    assert (made["visibility"], made["project"]["id"]) == ("PROJECT", other)
    assert (await gateway.ask(IMAGE, "rita", id=image["id"]))["image"]["viewerCan"]["launch"] is False
    refused = await mistake(gateway, "createImage", "rita", **copy)
    assert refused["code"] == "FORBIDDEN"


async def test_a_signed_download_ends_with_the_last_membership(gateway: Gateway) -> None:
    image, project = await public(gateway), await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject="leaver", role="READER")
    url = (await gateway.ask(IMAGE, "leaver", id=image["id"]))["image"]["download"]["url"]
    assert (await gateway.client.get(url)).status_code == 200
    await done(gateway, "removeProjectMember", projectId=project, subject="leaver")
    assert (await gateway.client.get(url)).status_code in (403, 404)
    assert (await gateway.refused(IMAGE, "leaver", id=image["id"]))["code"] == "NOT_FOUND"


async def test_it_stays_public_whatever_becomes_of_its_shares_and_is_listed_once(gateway: Gateway) -> None:
    other = await neighbour(gateway)
    image = await gateway.active(name="shared first")
    made = await share(gateway, image, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    await gateway.make_public(image["id"])
    wanted = {"nameContains": "shared first"}
    for subject, project in ((ADMIN, gateway.alpha), (STRANGER, other), (STRANGER, gateway.beta)):
        page = (await gateway.ask(LIST, subject, p=project, f=wanted))["images"]
        assert page == {"totalCount": 1, "nodes": [{"id": image["id"]}]}
    await done(gateway, "revokeImageShare", shareId=made["id"])
    assert (await gateway.image(image["id"])).visibility == ImageVisibility.PUBLIC
    refused = await mistake(gateway, "shareImage", imageId=image["id"], projectId=other, grant="LAUNCH", offer=True)
    assert (refused["code"], refused["field"]) == ("INVALID", ["imageId"])


async def test_a_filter_by_visibility_finds_public_images_and_own_ones_apart(gateway: Gateway) -> None:
    project = await gateway.project()
    everyone_s, own = await public(gateway, name="sought"), await gateway.create(projectId=project, name="sought")

    async def found(*visibilities: str) -> list[str]:
        wanted = {"nameContains": "sought", "visibilities": visibilities}
        page = (await gateway.ask(LIST, p=project, f=wanted))["images"]
        assert page["totalCount"] == len(page["nodes"])
        return sorted(node["id"] for node in page["nodes"])

    assert await found("PUBLIC") == [everyone_s["id"]]
    assert await found("PROJECT") == [own["id"]]
    assert await found("SHARED") == []
    assert await found("PROJECT", "PUBLIC") == sorted([everyone_s["id"], own["id"]])
