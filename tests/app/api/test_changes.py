"""updateImage, deleteImage and retryImage: what they change, what they refuse, and what the feed says of it."""

from typing import Any

import pytest

from app.lifecycle import EventKind, FailureCode, ImageStatus, JobKind, JobState, UploadState
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import Gateway, until

pytestmark = pytest.mark.anyio

FIELDS = "id name revision protected os { family version } labels { key value }"


async def update(gateway: Gateway, image: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The image after an update that was carried out."""
    payload = await gateway.mutate("updateImage", {"imageId": image["id"], **given}, image=FIELDS)
    assert payload["userErrors"] == []
    assert payload["cursor"]
    found: dict[str, Any] = payload["image"]
    return found


async def dressed(gateway: Gateway) -> dict[str, Any]:
    """An image with an operating system and a label."""
    return await gateway.create(os={"family": "ubuntu", "version": "24.04"}, labels=[{"key": "a", "value": "1"}])


# ---------------------------------------------------------------- updateImage


async def test_what_is_left_out_stays_and_what_is_null_is_cleared(gateway: Gateway) -> None:
    image = await dressed(gateway)
    before = {
        "id": image["id"],
        "name": "disk",
        "revision": 1,
        "protected": False,
        "os": {"family": "ubuntu", "version": "24.04"},
        "labels": [{"key": "a", "value": "1"}],
    }
    assert await update(gateway, image) == before
    assert await update(gateway, image, name=" New ") == before | {"name": "New", "revision": 2}
    assert await update(gateway, image, os=None) == before | {"name": "New", "os": None, "revision": 3}
    cleared = before | {"name": "New", "os": None, "labels": [], "revision": 4}
    assert await update(gateway, image, labels=None) == cleared
    assert await update(gateway, image, protected=True) == cleared | {"protected": True, "revision": 5}
    system = {"family": "Rocky", "version": None}
    clothed = cleared | {"protected": True, "os": {"family": "rocky", "version": None}, "revision": 6}
    assert await update(gateway, image, os=system, labels=[]) == clothed
    assert await update(gateway, image, labels=[{"key": "b", "value": "2"}]) == clothed | {
        "labels": [{"key": "b", "value": "2"}],
        "revision": 7,
    }


async def test_the_feed_names_the_fields_that_differ_and_no_others(gateway: Gateway) -> None:
    image = await dressed(gateway)
    system = {"family": "UBUNTU", "version": "24.04"}
    await update(gateway, image, name="disk", os=system, labels=[{"key": "a", "value": "2"}], protected=True)
    await update(gateway, image, name="other", os={"family": "ubuntu"}, protected=True)
    updates = [
        event.detail["aspects"] for event in await gateway.events(image["id"]) if event.kind == EventKind.UPDATED
    ]
    assert updates == [["LABELS", "PROTECTION"], ["NAME", "OS"]]


async def test_a_change_that_changes_nothing_leaves_no_trace(gateway: Gateway) -> None:
    image = await dressed(gateway)
    before = await gateway.everything()
    same = await update(gateway, image, name="disk", labels=[{"key": "a", "value": "1"}], protected=False)
    assert same["revision"] == 1
    assert await gateway.everything() == before


async def test_a_changed_name_is_found_and_sorted_by_its_new_form(gateway: Gateway) -> None:
    image = await gateway.create(projectId=await gateway.project())
    await update(gateway, image, name="STRASSE")
    assert (await gateway.image(image["id"])).name_key == "strasse"


LABEL = {"key": "k", "value": "v"}
REFUSED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "an empty name": ({"name": "  "}, ["name"]),
    "a long name": ({"name": "x" * 256}, ["name"]),
    "a NUL in the name": ({"name": "\0x"}, ["name"]),
    "a key twice": ({"labels": [LABEL, LABEL]}, ["labels"]),
    "a label without a key": ({"labels": [LABEL, {"key": "", "value": ""}]}, ["labels", "1"]),
    "an empty version": ({"os": {"family": "x", "version": " "}}, ["os", "version"]),
    "an empty family": ({"os": {"family": ""}}, ["os", "family"]),
}


@pytest.mark.parametrize(("given", "field"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_value_that_can_not_be_is_refused(gateway: Gateway, given: dict[str, Any], field: list[str]) -> None:
    image = await gateway.create()
    mistake = await gateway.mistake("updateImage", {"imageId": image["id"], "protected": True} | given)
    assert (mistake["code"], mistake["field"]) == ("INVALID", field)


@pytest.mark.parametrize("field", ["name", "protected"])
async def test_null_is_refused_where_nothing_can_be_cleared(gateway: Gateway, field: str) -> None:
    image = await gateway.create()
    mistake = await gateway.mistake("updateImage", {"imageId": image["id"], field: None, "labels": []})
    assert (mistake["code"], mistake["field"]) == ("INVALID", [field])
    literal = (
        f"""mutation ($id: ID!) {{ updateImage(input: {{imageId: $id, {field}: null}}) {{ userErrors {{ code }} }} }}"""
    )
    assert (await gateway.ask(literal, id=image["id"]))["updateImage"]["userErrors"] == [{"code": "INVALID"}]


@pytest.mark.parametrize("given", [{"labels": [None]}, {"os": {}}, {"protected": "yes"}, {"status": "ACTIVE"}], ids=str)
async def test_changes_of_another_form_are_refused_before_anything_runs(
    gateway: Gateway, given: dict[str, Any]
) -> None:
    image = await gateway.create()
    before = await gateway.everything()
    document = "mutation ($input: UpdateImageInput!) { updateImage(input: $input) { cursor } }"
    body = await gateway.answer(document, input={"imageId": image["id"], **given})
    assert {error["extensions"]["code"] for error in body["errors"]} == {"BAD_USER_INPUT"}
    assert await gateway.everything() == before


async def test_a_change_does_not_overwrite_what_its_caller_has_not_seen(gateway: Gateway) -> None:
    image = await gateway.create()
    assert (await update(gateway, image, name="mine", expectedRevision=1))["revision"] == 2
    for revision in (1, 3, 0, -1):
        for name, given in (("updateImage", {"name": "theirs"}), ("deleteImage", {})):
            wanted = {"imageId": image["id"], "expectedRevision": revision, **given}
            mistake = await gateway.mistake(name, wanted)
            assert mistake == {
                "code": "STALE_REVISION",
                "message": f"The image is at revision 2, not {revision}.",
                "field": ["expectedRevision"],
                "hint": "Read it again and check whether your change still applies.",
            }
    payload = await gateway.mutate("deleteImage", {"imageId": image["id"], "expectedRevision": 2})
    assert payload["deletedImageId"] == image["id"]


# ---------------------------------------------------------------- deleteImage


async def test_a_deleted_image_is_gone_at_once_and_the_feed_says_so(gateway: Gateway) -> None:
    image = await gateway.create(name="short-lived")
    payload = await gateway.mutate("deleteImage", {"imageId": image["id"]})
    assert payload["deletedImageId"] == image["id"]
    document = "query ($id: ID!) { image(by: {id: $id}) { id } }"
    assert (await gateway.refused(document, id=image["id"]))["code"] == "NOT_FOUND"
    feed = """query ($project: ID!, $image: ID!) { imageEvents(projectId: $project, imageId: $image, first: 9) {
        nodes { __typename cursor image { id } ... on ImageDeleted { imageName } } } }"""
    events = (await gateway.ask(feed, project=gateway.alpha, image=image["id"]))["imageEvents"]["nodes"]
    assert events[-1] == {
        "__typename": "ImageDeleted", "cursor": payload["cursor"], "image": None, "imageName": "short-lived",
    }  # fmt: skip
    for name in ("deleteImage", "retryImage", "updateImage"):
        assert (await gateway.mistake(name, {"imageId": image["id"]}))["code"] == "NOT_FOUND"
    for name in ("completeUpload", "abortUpload"):
        assert (await gateway.mistake(name, {"uploadId": image["upload"]["id"]}))["code"] == "NOT_FOUND"


async def test_a_protected_image_stays_until_it_is_no_longer_protected(gateway: Gateway) -> None:
    image = await gateway.active()
    await update(gateway, image, protected=True)
    mistake = await gateway.mistake("deleteImage", {"imageId": image["id"]})
    assert mistake == {
        "code": "PROTECTED",
        "message": "The image is protected.",
        "field": ["imageId"],
        "hint": "Call updateImage with protected: false first.",
    }
    found = await gateway.ask("query ($id: ID!) { image(by: {id: $id}) { viewerCan { delete } } }", id=image["id"])
    assert found["image"]["viewerCan"]["delete"] is False
    await update(gateway, image, protected=False)
    assert (await gateway.mutate("deleteImage", {"imageId": image["id"]}))["userErrors"] == []


async def test_a_tombstone_stays_for_the_bill(gateway: Gateway) -> None:
    image = await gateway.active()
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    row = await gateway.image(image["id"])
    assert row.deleted_at is not None
    assert (row.status, row.stored_size, row.blob_id) == (ImageStatus.ACTIVE, MIB, None)


async def test_deleting_an_image_of_any_status_frees_its_bytes(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        await delete_one_of_each(gateway)
        async with gateway.working():
            await until(gateway.idle)
        assert gateway.files() == []


async def delete_one_of_each(gateway: Gateway) -> None:
    waiting = await gateway.create()
    partly = await gateway.create(upload={"size": 17 * MIB})
    await gateway.send(partly, b"\1" * 17 * MIB, [2])
    sealed = await gateway.uploaded()
    saving = await gateway.uploaded()
    await gateway.begun(saving["id"])
    failed = await gateway.failed()
    aborted = await gateway.create()
    await gateway.mutate("abortUpload", {"uploadId": aborted["upload"]["id"]})
    active = await gateway.active()
    assert len(gateway.files()) >= 7
    for image in (waiting, partly, sealed, saving, failed, aborted, active):
        assert (await gateway.mutate("deleteImage", {"imageId": image["id"]}))["userErrors"] == []


# ---------------------------------------------------------------- retryImage


async def test_a_retriable_failure_is_retried_from_the_kept_bytes(gateway: Gateway) -> None:
    image = await gateway.failed(retriable=True)
    document = (
        """query ($id: ID!) { image(by: {id: $id}) { status failure { code message hint retriable occurredAt } } }"""
    )
    found = (await gateway.ask(document, id=image["id"]))["image"]
    assert found["status"] == "ERROR"
    assert found["failure"].pop("occurredAt").endswith("Z")
    assert found["failure"] == {
        "code": "CORRUPT_IMAGE", "message": "It is broken.", "hint": "Fix it.", "retriable": True,
    }  # fmt: skip
    payload = await gateway.mutate("retryImage", {"imageId": image["id"]}, image="status failure { code }")
    assert payload["userErrors"] == []
    assert payload["image"] == {"status": "SAVING", "failure": None}
    event = (await gateway.events(image["id"]))[-1]
    assert (event.kind, event.detail["before"], event.detail["after"]) == (EventKind.STATUS_CHANGED, "ERROR", "SAVING")
    assert event.actor == "ada"
    _claim, assignment = await gateway.begun(image["id"])
    assert assignment.source_key == await gateway.source_key(image)


async def test_a_second_retry_finds_the_image_under_way(gateway: Gateway) -> None:
    image = await gateway.failed()
    await gateway.mutate("retryImage", {"imageId": image["id"]})
    mistake = await gateway.mistake("retryImage", {"imageId": image["id"]})
    assert (mistake["code"], mistake["message"]) == ("CONFLICT", "The image is SAVING, not in ERROR.")


async def test_a_failure_that_is_not_retriable_is_not_retried(gateway: Gateway) -> None:
    image = await gateway.failed(retriable=False)
    mistake = await gateway.mistake("retryImage", {"imageId": image["id"]})
    assert mistake == {
        "code": "CONFLICT",
        "message": "Retrying can't succeed: It is broken.",
        "field": ["imageId"],
        "hint": "Fix it.",
    }


async def test_an_aborted_upload_left_nothing_to_retry_from(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.mutate("abortUpload", {"uploadId": image["upload"]["id"]})
    await gateway.change(type(await gateway.image(image["id"])), image["id"], failure_retriable=True)
    mistake = await gateway.mistake("retryImage", {"imageId": image["id"]})
    assert mistake["code"] == "CONFLICT"
    assert (await gateway.image(image["id"])).failure_code == FailureCode.UPLOAD_ABORTED


@pytest.mark.parametrize("status", ["QUEUED", "SAVING", "ACTIVE"])
async def test_only_an_image_in_error_is_retried(gateway: Gateway, status: str) -> None:
    image = await (gateway.active() if status == "ACTIVE" else gateway.uploaded())
    if status == "SAVING":
        await gateway.begun(image["id"])
    mistake = await gateway.mistake("retryImage", {"imageId": image["id"]})
    assert (mistake["code"], mistake["message"]) == ("CONFLICT", f"The image is {status}, not in ERROR.")


async def test_deleting_takes_the_work_away_from_its_worker(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    claim, _assignment = await gateway.begun(image["id"])
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    jobs = {job.id: job for job in await gateway.all_jobs()}
    assert (jobs[claim.job_id].state, jobs[claim.job_id].token) == (JobState.DONE, claim.token + 1)
    assert (await gateway.upload(image["upload"]["id"])).state == UploadState.COMPLETED
    assert (await gateway.upload(image["upload"]["id"])).source.kept is False
    erasing = [job for job in jobs.values() if job.detail.get("sources") == [(await gateway.source(image)).id]]
    assert [job.kind for job in erasing] == [JobKind.ERASE]
