"""Limits of projects: who sets them, the errors above them, and that they are never exceeded."""

import asyncio
from typing import Any

import pytest

from app.catalog import members
from app.models import Project
from app.sizes import GIB, MIB
from tests.support.gateway import ADMIN, MEMBER, STRANGER, Gateway
from tests.support.sharing import act, done, mistake

pytestmark = pytest.mark.anyio

OWNER = "owner"
GIVE = """project { revision quota { customImages { limit used } imageStorage { limit used reserved }
    snapshotsPerVolume } }"""


@pytest.fixture(autouse=True)
async def _an_owner(gateway: Gateway) -> None:
    await members.create_organization(gateway.database, "demo", [], None, OWNER)


async def set_limits(gateway: Gateway, project: str, subject: str = OWNER, /, **limits: Any) -> dict[str, Any]:
    made: dict[str, Any] = await done(gateway, "setProjectQuota", subject, give=GIVE, projectId=project, **limits)
    return made


async def test_an_owner_sets_limits_and_null_takes_the_default_again(gateway: Gateway) -> None:
    project = await gateway.project()
    made = await set_limits(gateway, project, customImages=3, imageStorageGib=7, snapshotsPerVolume=9)
    assert made == {"revision": 2, "quota": {
        "customImages": {"limit": 3, "used": 0}, "imageStorage": {"limit": 7 * GIB, "used": 0, "reserved": 0},
        "snapshotsPerVolume": 9,
    }}  # fmt: skip
    made = await set_limits(gateway, project, imageStorageGib=None)
    assert (made["revision"], made["quota"]["imageStorage"]["limit"]) == (3, 500 * GIB)
    assert made["quota"]["customImages"]["limit"] == 3
    assert (await set_limits(gateway, project, customImages=3))["revision"] == 3


@pytest.mark.parametrize("subject", [MEMBER, ADMIN])
async def test_it_takes_more_than_an_admin_of_the_project(gateway: Gateway, subject: str) -> None:
    refused = await mistake(gateway, "setProjectQuota", subject, projectId=gateway.alpha, customImages=1)
    assert (refused["code"], refused["field"]) == ("FORBIDDEN", ["projectId"])
    assert "owners" in refused["message"]


async def test_limits_on_servers_and_volumes_are_set_and_taken_back(gateway: Gateway) -> None:
    project = await gateway.project()
    give = "project { quota { servers { limit used } volumes { limit used } volumeStorage { limit used reserved } } }"
    wish = {"servers": 0, "volumes": 5, "volumeStorageGib": 7}
    made = await done(gateway, "setProjectQuota", OWNER, give=give, projectId=project, **wish)
    assert made["quota"] == {
        "servers": {"limit": 0, "used": 0}, "volumes": {"limit": 5, "used": 0},
        "volumeStorage": {"limit": 7 * GIB, "used": 0, "reserved": 0},
    }  # fmt: skip
    nothing = dict.fromkeys(wish)
    made = await done(gateway, "setProjectQuota", OWNER, give=give, projectId=project, **nothing)
    assert [made["quota"][name]["limit"] for name in ("servers", "volumes", "volumeStorage")] == [20, 100, 1000 * GIB]


async def test_an_operator_sets_limits_of_any_project(gateway: Gateway) -> None:
    project = await gateway.project()
    headers = {"Authorization": f"Bearer {gateway.tokens.issue('ops', operator=True)}"}
    document = f"mutation ($input: SetProjectQuotaInput!) {{ setProjectQuota(input: $input) {{ {GIVE} }} }}"
    given = {"query": document, "variables": {"input": {"projectId": project, "customImages": 2}}}
    answer = (await gateway.client.post("/graphql", json=given, headers=headers)).json()
    assert answer["data"]["setProjectQuota"]["project"]["quota"]["customImages"]["limit"] == 2


async def test_a_project_that_can_not_be_seen_has_no_limits(gateway: Gateway) -> None:
    hidden = await mistake(gateway, "setProjectQuota", STRANGER, projectId=gateway.alpha, customImages=1)
    absent = await mistake(gateway, "setProjectQuota", STRANGER, projectId=f"prj_{'0' * 26}", customImages=1)
    assert hidden["code"] == "NOT_FOUND"
    assert hidden == absent


@pytest.mark.parametrize("name", ["customImages", "imageStorageGib", "snapshotsPerVolume", "servers"])
async def test_a_limit_below_nothing_is_refused_and_one_of_nothing_blocks_all(gateway: Gateway, name: str) -> None:
    project = await gateway.project()
    refused = await mistake(gateway, "setProjectQuota", OWNER, projectId=project, **{name: -1})
    assert (refused["code"], refused["field"]) == ("INVALID", [name])
    await set_limits(gateway, project, **{name: 0})
    created = await act(gateway, "createImage", **gateway.creation(projectId=project))
    codes = [error["code"] for error in created["userErrors"]]
    assert codes == ([] if name in ("snapshotsPerVolume", "servers") else ["QUOTA_EXCEEDED"])


async def test_who_expects_another_revision_of_the_project_changes_nothing(gateway: Gateway) -> None:
    project = await gateway.project()
    refused = await mistake(gateway, "setProjectQuota", OWNER, projectId=project, customImages=1, expectedRevision=5)
    assert refused["code"] == "STALE_REVISION"
    await set_limits(gateway, project, customImages=1, expectedRevision=1)


async def test_a_limit_below_what_is_used_blocks_only_what_is_new(gateway: Gateway) -> None:
    project = await gateway.project()
    stored = await gateway.active(projectId=project, content=b"\1" * MIB)
    waiting = await gateway.create(projectId=project)
    made = await set_limits(gateway, project, customImages=1, imageStorageGib=0)
    assert made["quota"]["customImages"] == {"limit": 1, "used": 2}
    assert made["quota"]["imageStorage"] == {"limit": 0, "used": MIB, "reserved": MIB}
    await gateway.send(waiting, b"\1" * MIB)
    await done(gateway, "completeUpload", uploadId=waiting["upload"]["id"])
    await done(gateway, "updateImage", imageId=stored["id"], name="still mine")
    refused = await mistake(gateway, "createImage", **gateway.creation(projectId=project))
    assert refused["message"] == "The project has 2 of 1 custom images, and 1 more was requested."


async def test_a_refusal_states_the_numbers(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.active(projectId=project, content=b"\1" * MIB)
    await gateway.create(projectId=project, upload={"size": 2 * MIB})
    await gateway.change(Project, project, image_storage_limit=4 * MIB)
    document = """mutation ($input: CreateImageInput!) { createImage(input: $input) { userErrors { __typename message
        ... on ByteQuotaError { limit used reserved requested }
        ... on CountQuotaError { most: limit have: used more: requested } } } }"""
    wish = gateway.creation(projectId=project, upload={"size": 2 * MIB})
    (bytes_,) = (await gateway.ask(document, input=wish))["createImage"]["userErrors"]
    assert bytes_ == {
        "__typename": "ByteQuotaError",
        "message": "Not enough image storage: 2 MiB requested; limit 4 MiB, used 1 MiB, reserved 2 MiB.",
        "limit": 4 * MIB, "used": MIB, "reserved": 2 * MIB, "requested": 2 * MIB,
    }  # fmt: skip
    await gateway.change(Project, project, custom_images_limit=2)
    (count,) = (await gateway.ask(document, input=wish))["createImage"]["userErrors"]
    assert (count["most"], count["have"], count["more"]) == (2, 2, 1)


async def test_a_refusal_for_one_byte_states_exact_sizes(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, image_storage_limit=3 * MIB)
    refused = await mistake(gateway, "createImage", **gateway.creation(projectId=project, upload={"size": 3 * MIB + 1}))
    assert refused["message"] == (
        "Not enough image storage: 3,145,729 bytes requested; limit 3 MiB, used 0 bytes, reserved 0 bytes."
    )


async def test_promised_bytes_are_never_more_than_there_is_room_for(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, image_storage_limit=10 * MIB + 1)
    wish = gateway.creation(projectId=project, upload={"size": 3 * MIB})
    payloads = await asyncio.gather(*(act(gateway, "createImage", **wish) for _ in range(12)))
    assert sum(not payload["userErrors"] for payload in payloads) == 3


async def test_an_image_in_error_keeps_its_promise_until_it_is_deleted(gateway: Gateway) -> None:
    project = await gateway.project()
    failed = await gateway.failed(projectId=project)
    made = await set_limits(gateway, project, customImages=5)
    assert made["quota"]["imageStorage"]["reserved"] == MIB
    await done(gateway, "deleteImage", imageId=failed["id"])
    made = await set_limits(gateway, project, customImages=5)
    assert made["quota"]["imageStorage"]["reserved"] == 0
    assert made["quota"]["customImages"]["used"] == 0
