"""Uploads through the API: parts, completing and aborting, without and with workers."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.folder.store import FolderStore
from app.catalog import conversions, uploads
from app.catalog.uploads import UploadEnded, handle_of
from app.errors import ImageFailed
from app.lifecycle import EventKind, FailureCode, ImageStatus, JobKind, UploadState
from app.ports import UploadHandle
from app.sizes import MIB
from app.viewer import Viewer
from tests.app.conftest import StartGateway
from tests.support.gateway import ADMIN, SECRET, Gateway, until
from tests.workers.images import qemu_img, raw_disk

pytestmark = pytest.mark.anyio

PARTS = """query ($id: ID!, $status: PartStatus, $first: Int = 2, $after: String) { image(by: {id: $id}) {
    upload { receivedBytes parts(status: $status, first: $first, after: $after) {
        totalCount nodes { number status } pageInfo { hasNextPage hasPreviousPage endCursor } } }
    progress { phase bytesDone percent } } }"""
FOUR_PARTS = 49 * MIB


async def parts(gateway: Gateway, image: dict[str, Any], **variables: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await gateway.ask(PARTS, id=image["id"], **variables))["image"]
    return found


def numbers(found: dict[str, Any]) -> list[int]:
    return [part["number"] for part in found["upload"]["parts"]["nodes"]]


async def test_parts_come_in_any_order_and_what_is_missing_can_be_asked_for(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": FOUR_PARTS})
    content = bytes(FOUR_PARTS)
    await gateway.send(image, content, [4])
    await gateway.send(image, content, [2])
    found = await parts(gateway, image, status="MISSING")
    assert numbers(found) == [1, 3]
    assert found["upload"]["receivedBytes"] == 17 * MIB
    assert found["upload"]["parts"]["totalCount"] == 2
    assert found["progress"]["phase"] == "UPLOADING"
    assert numbers(await parts(gateway, image, status="RECEIVED")) == [2, 4]
    first = await parts(gateway, image)
    page = first["upload"]["parts"]
    rest = await parts(gateway, image, after=page["pageInfo"]["endCursor"])
    assert (numbers(first), numbers(rest)) == ([1, 2], [3, 4])
    assert page["totalCount"] == 4
    assert (page["pageInfo"]["hasNextPage"], rest["upload"]["parts"]["pageInfo"]["hasNextPage"]) == (True, False)
    assert rest["upload"]["parts"]["pageInfo"]["hasPreviousPage"] is True
    await gateway.send(image, content, [1, 2, 3])
    assert (await parts(gateway, image))["upload"]["receivedBytes"] == FOUR_PARTS
    payload = await gateway.mutate("completeUpload", {"uploadId": image["upload"]["id"]}, image="status upload { id }")
    assert payload["image"] == {"status": "QUEUED", "upload": None}
    stored = gateway.store.path(await gateway.source_key(image))
    assert stored.stat().st_size == FOUR_PARTS


async def test_an_upload_is_not_complete_while_parts_are_missing(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": FOUR_PARTS})
    await gateway.send(image, bytes(FOUR_PARTS), [2])
    mistake = await gateway.mistake("completeUpload", {"uploadId": image["upload"]["id"]})
    assert mistake == {
        "code": "NOT_READY",
        "message": "3 of 4 parts are missing: 1, 3, 4.",
        "field": ["uploadId"],
        "hint": "Send the parts that upload { parts(status: MISSING) } lists.",
    }


async def test_of_many_missing_parts_the_first_are_named(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": 160 * MIB})
    mistake = await gateway.mistake("completeUpload", {"uploadId": image["upload"]["id"]})
    assert mistake["message"] == "10 of 10 parts are missing: 1, 2, 3, 4, 5, …."


async def test_a_part_that_is_arriving_keeps_the_upload_open(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.send(image, b"\1" * MIB)
    arriving, go_on = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"\2" * (MIB // 2)
        arriving.set()
        await go_on.wait()
        yield b"\2" * (MIB // 2)

    url = image["upload"]["parts"]["nodes"][0]["request"]["url"]
    sending = asyncio.create_task(gateway.client.put(url, content=body(), headers={"Content-Length": str(MIB)}))
    async with asyncio.timeout(20):
        await arriving.wait()
    payload = await gateway.mutate("completeUpload", {"uploadId": image["upload"]["id"]})
    go_on.set()
    assert payload["userErrors"] == [
        {
            "code": "NOT_READY",
            "message": "A part is still arriving.",
            "field": ["uploadId"],
            "hint": "Wait until every PUT request has returned.",
        }
    ]
    assert (await sending).status_code == 200
    assert (await gateway.mutate("completeUpload", {"uploadId": image["upload"]["id"]}))["userErrors"] == []
    stored = gateway.store.path(await gateway.source_key(image))
    assert stored.read_bytes() == b"\2" * MIB


async def test_completing_twice_and_at_once_starts_one_conversion(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.send(image, b"\1" * MIB)
    wanted = {"uploadId": image["upload"]["id"]}
    payloads = await asyncio.gather(*(gateway.mutate("completeUpload", wanted) for _ in range(5)))
    payloads.append(await gateway.mutate("completeUpload", wanted))
    assert all(payload["userErrors"] == [] and payload["cursor"] for payload in payloads)
    jobs = [job for job in await gateway.all_jobs() if job.image_id == image["id"] and job.kind == JobKind.CONVERT]
    assert len(jobs) == 1
    updates = [event for event in await gateway.events(image["id"]) if event.kind == EventKind.UPDATED]
    assert [event.detail for event in updates] == [{"aspects": ["UPLOAD", "PROGRESS"]}]


async def test_a_completed_upload_takes_no_byte_and_can_not_be_aborted(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    url = image["upload"]["parts"]["nodes"][0]["request"]["url"]
    assert (await gateway.client.put(url, content=bytes(MIB))).status_code == 409
    mistake = await gateway.mistake("abortUpload", {"uploadId": image["upload"]["id"]}, image=image)
    assert (mistake["code"], mistake["message"]) == ("CONFLICT", "The upload is COMPLETED.")
    assert mistake["hint"] == "Delete the image if you no longer want it."


async def test_an_aborted_upload_ends_its_image_and_stays_aborted(gateway: Gateway) -> None:
    image = await gateway.create()
    wanted = {"uploadId": image["upload"]["id"]}
    fields = "status upload { id } failure { code message hint retriable }"
    payload = await gateway.mutate("abortUpload", wanted, image=fields)
    assert payload["image"] == {
        "status": "ERROR",
        "upload": None,
        "failure": {
            "code": "UPLOAD_ABORTED",
            "message": "The upload was aborted.",
            "hint": "Delete this image and create a new one to upload the file again.",
            "retriable": False,
        },
    }
    before = await gateway.everything()
    again = await gateway.mutate("abortUpload", wanted, image=fields)
    assert (again["userErrors"], again["image"]) == ([], payload["image"])
    assert await gateway.everything() == before
    mistake = await gateway.mistake("completeUpload", wanted, image=image)
    assert mistake == {
        "code": "CONFLICT",
        "message": "The upload was aborted.",
        "field": ["uploadId"],
        "hint": "Delete this image and create a new one to upload the file again.",
    }


@pytest.mark.parametrize("name", ["completeUpload", "abortUpload"])
async def test_a_refused_upload_says_why_each_time_it_is_asked(gateway: Gateway, name: str) -> None:
    image = await gateway.refused_early()
    why = {"code": "CONFLICT", "message": "It is gzip.", "field": ["uploadId"], "hint": "Unpack it."}

    for _ in range(2):
        assert await gateway.mistake(name, {"uploadId": image["upload"]["id"]}, image=image) == why

    fields = "status upload { id } failure { code message hint retriable }"
    payload = await gateway.mutate(name, {"uploadId": image["upload"]["id"]}, image=fields)
    failure = {"code": "FORMAT_MISMATCH", "message": "It is gzip.", "hint": "Unpack it.", "retriable": False}
    assert payload["image"] == {"status": "ERROR", "upload": None, "failure": failure}
    assert (await gateway.upload(image["upload"]["id"])).state == UploadState.REFUSED


async def test_a_part_of_a_refused_upload_is_answered_with_the_reason(gateway: Gateway) -> None:
    image = await gateway.refused_early()

    answer = await gateway.client.put(image["upload"]["parts"]["nodes"][1]["request"]["url"], content=bytes(16 * MIB))

    assert answer.status_code == 409
    assert answer.json() == {"error": {"code": "UPLOAD_CLOSED", "message": "It is gzip.", "hint": "Unpack it."}}


async def test_a_part_on_its_way_is_cut_off_with_the_reason(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": 49 * MIB})
    await gateway.send(image, bytes(49 * MIB), [1])
    claim = await gateway.claim(image["id"], JobKind.INSPECT_HEAD)
    upload = await gateway.upload(image["upload"]["id"])

    async def body() -> AsyncIterator[bytes]:
        yield bytes(MIB)
        failure = ImageFailed(FailureCode.FORMAT_MISMATCH, "It is gzip.", "Unpack it.")
        await conversions.refuse_early(gateway.catalogue, claim, failure)
        await gateway.store.abort_upload(handle_of(upload))
        for _ in range(15):
            yield bytes(MIB)

    url = image["upload"]["parts"]["nodes"][1]["request"]["url"]
    answer = await gateway.client.put(url, content=body(), headers={"Content-Length": str(16 * MIB)})

    assert answer.status_code == 409
    assert answer.json() == {"error": {"code": "UPLOAD_CLOSED", "message": "It is gzip.", "hint": "Unpack it."}}


NODE = """query ($id: ID!) { node(id: $id) { ... on ImageUpload { state receivedBytes partCount
    all: parts(first: 9) { totalCount nodes { status request { url } } }
    missing: parts(status: MISSING, first: 9) { totalCount nodes { number } }
    received: parts(status: RECEIVED, first: 9) { totalCount }
    discarded: parts(status: DISCARDED, first: 9) { totalCount } } } }"""


async def ended(gateway: Gateway, state: str) -> dict[str, Any]:
    """An image whose upload of four parts ended in this state."""
    if state == "REFUSED":
        return await gateway.refused_early()
    if state == "COMPLETED":
        return await gateway.uploaded(bytes(FOUR_PARTS))
    image = await gateway.create(upload={"size": FOUR_PARTS})
    await gateway.send(image, bytes(FOUR_PARTS), [1, 2])
    if state == "ABORTED":
        await gateway.mutate("abortUpload", {"uploadId": image["upload"]["id"]})
    else:
        await gateway.store.abort_upload(handle_of(await gateway.upload(image["upload"]["id"])))
        await uploads.sweep(gateway.catalogue)
    return image


@pytest.mark.parametrize("state", ["ABORTED", "REFUSED", "EXPIRED"])
async def test_of_an_upload_that_ended_no_part_is_missing_or_kept(gateway: Gateway, state: str) -> None:
    image = await ended(gateway, state)

    assert (await gateway.ask(NODE, id=image["upload"]["id"]))["node"] == {
        "state": state,
        "receivedBytes": 0,
        "partCount": 4,
        "all": {"totalCount": 4, "nodes": 4 * [{"status": "DISCARDED", "request": None}]},
        "missing": {"totalCount": 0, "nodes": []},
        "received": {"totalCount": 0},
        "discarded": {"totalCount": 4},
    }


async def test_of_a_completed_upload_every_part_is_received(gateway: Gateway) -> None:
    image = await ended(gateway, "COMPLETED")

    assert (await gateway.ask(NODE, id=image["upload"]["id"]))["node"] == {
        "state": "COMPLETED",
        "receivedBytes": FOUR_PARTS,
        "partCount": 4,
        "all": {"totalCount": 4, "nodes": 4 * [{"status": "RECEIVED", "request": None}]},
        "missing": {"totalCount": 0, "nodes": []},
        "received": {"totalCount": 4},
        "discarded": {"totalCount": 0},
    }


async def test_of_an_upload_that_the_store_has_dropped_no_part_is_offered(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": FOUR_PARTS})
    await gateway.store.abort_upload(handle_of(await gateway.upload(image["upload"]["id"])))

    found = (await gateway.ask(NODE, id=image["upload"]["id"]))["node"]

    assert found["missing"] == {"totalCount": 0, "nodes": []}
    assert found["all"]["nodes"] == 4 * [{"status": "DISCARDED", "request": None}]


class AbortedMeanwhile(FolderStore):
    """A store in which another client aborts the upload right after it was sealed."""

    gateway: Gateway
    upload_id: str

    async def seal_upload(self, upload: UploadHandle) -> None:
        await super().seal_upload(upload)
        await self.gateway.mutate("abortUpload", {"uploadId": self.upload_id})


async def test_completing_an_upload_that_is_aborted_at_that_moment_is_refused(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.send(image, b"\1" * MIB)
    store = AbortedMeanwhile(gateway.settings.objects_path, SECRET.encode())
    store.gateway, store.upload_id = gateway, image["upload"]["id"]
    with pytest.raises(UploadEnded, match="The upload was aborted"):
        await uploads.complete_upload(replace(gateway.catalogue, store=store), Viewer(ADMIN), image["upload"]["id"])
    store.close()
    assert (await gateway.image(image["id"])).status == ImageStatus.ERROR


# ---------------------------------------------------------------- with workers


async def test_a_file_that_can_not_become_an_image_is_refused_while_the_rest_is_missing(
    start_gateway: StartGateway,
) -> None:
    async with start_gateway() as gateway, gateway.working():
        image = await gateway.create(upload={"fileName": "disk.qcow2", "size": 17 * MIB})
        packed = gzip.compress(bytes(range(256)) * 4096).ljust(17 * MIB, b"\1")
        await gateway.send(image, packed, [1])

        async def settled() -> bool:
            return (await gateway.image(image["id"])).status != ImageStatus.QUEUED

        await until(settled)
        row = await gateway.image(image["id"])
        assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.FORMAT_MISMATCH)
        assert row.failure_retriable is False
        assert row.reserved_size == 0
        assert (await gateway.upload(image["upload"]["id"])).state == UploadState.REFUSED
        url = image["upload"]["parts"]["nodes"][1]["request"]["url"]
        await until(gateway.idle)
        assert (await gateway.client.put(url, content=b"\1" * MIB)).status_code == 409
        assert gateway.files() == []


async def test_an_uploaded_disk_becomes_active_and_its_source_is_dropped(
    start_gateway: StartGateway, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("disks")
    raw = raw_disk(folder / "disk.raw", 4 * MIB, [(0, MIB), (3 * MIB, 4096)])
    qemu_img("convert", "-f", "raw", "-O", "vmdk", str(raw), str(folder / "disk.vmdk"))
    content = (folder / "disk.vmdk").read_bytes()
    async with start_gateway() as gateway, gateway.working():
        image = await gateway.uploaded(content, upload={"fileName": "disk.vmdk"})
        await until(gateway.idle)
        document = """query ($id: ID!) { image(by: {id: $id}) { status virtualSize minBootDiskGib storedSize sha256
            progress { phase } upload { id } source { ... on UploadSource { detectedFormat } } download { url } } }"""
        found = (await gateway.ask(document, id=image["id"]))["image"]
        assert (found["status"], found["virtualSize"], found["minBootDiskGib"]) == ("ACTIVE", 4 * MIB, 1)
        assert found["source"] == {"detectedFormat": "VMDK"}
        assert (found["progress"], found["upload"]) == (None, None)
        answer = await gateway.client.get(found["download"]["url"])
        await check_download(answer, found, folder)
        qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(folder / "answer.qcow2"))
        blob = await gateway.blob(image)
        assert [file for file in gateway.files() if not file.endswith(".json")] == [f"objects/{blob.key}"]
        statuses = [event.detail.get("after") for event in await gateway.events(image["id"])]
        assert [status for status in statuses if status] == ["SAVING", "ACTIVE"]
        await gateway.mutate("deleteImage", {"imageId": image["id"]})
        await until(gateway.idle)
        assert [file for file in gateway.files() if not file.endswith(".json")] == []


async def check_download(answer: httpx.Response, found: dict[str, Any], folder: Path) -> None:
    assert answer.status_code == 200
    assert hashlib.sha256(answer.content).hexdigest() == found["sha256"]
    (folder / "answer.qcow2").write_bytes(answer.content)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"fileName": "disk.vmdk"}, FailureCode.FORMAT_MISMATCH),
        ({"fileName": "disk.raw", "sha256": "0" * 64}, FailureCode.CHECKSUM_MISMATCH),
    ],
)
async def test_a_conversion_that_is_refused_says_why_and_keeps_the_bytes(
    start_gateway: StartGateway, given: dict[str, Any], code: FailureCode
) -> None:
    async with start_gateway() as gateway:
        image = await gateway.uploaded(upload=given)
        async with gateway.working():
            await until(gateway.idle)
        row = await gateway.image(image["id"])
        assert (row.status, row.failure_code) == (ImageStatus.ERROR, code)
        assert row.failure_message
        assert row.failure_hint
        event = (await gateway.events(image["id"]))[-1]
        assert event.detail["failure"]["code"] == code
