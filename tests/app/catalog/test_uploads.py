"""The sweep of uploads: what got no byte expires, what was sealed is finished, and nothing stays in between."""

import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.adapters.folder.store import FolderStore
from app.catalog import uploads
from app.catalog.uploads import handle_of
from app.errors import StoreUnavailable
from app.lifecycle import EventKind, FailureCode, ImageStatus, JobKind, UploadState
from app.models import Upload, now
from app.ports import UploadHandle, UploadReceipt
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import SECRET, Gateway, until

pytestmark = pytest.mark.anyio

LONG_AGO = timedelta(hours=25)


async def overdue(gateway: Gateway, image: dict[str, Any]) -> None:
    """Make an upload look as if nothing had come for longer than an upload may be idle."""
    long_ago = now() - LONG_AGO
    await gateway.change(Upload, image["upload"]["id"], created_at=long_ago, expires_at=now() - timedelta(seconds=1))


async def age(gateway: Gateway, image: dict[str, Any]) -> None:
    """Make the newest byte of an upload an old one."""
    data = gateway.settings.objects_path / "open" / (await gateway.source_key(image)).replace("/", "+") / "data"
    then = (now() - LONG_AGO).timestamp()
    os.utime(data, (then, then))


async def test_an_upload_without_a_byte_expires_and_its_bytes_are_freed(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        silent, partly, fresh = [await gateway.create(upload={"size": 17 * MIB}) for _ in range(3)]
        await gateway.send(partly, bytes(17 * MIB), [1])
        await age(gateway, partly)
        for image in (silent, partly):
            await overdue(gateway, image)
        await uploads.sweep(gateway.catalogue)
        for image in (silent, partly):
            row, upload = await gateway.image(image["id"]), await gateway.upload(image["upload"]["id"])
            assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.UPLOAD_EXPIRED)
            assert row.failure_message == "The upload has expired: no byte arrived for 24 hours."
            assert (row.failure_retriable, row.reserved_size) == (False, 0)
            assert (upload.state, upload.source.kept) == (UploadState.EXPIRED, False)
            assert (await gateway.events(image["id"]))[-1].detail["failure"]["code"] == "UPLOAD_EXPIRED"
            mistake = await gateway.mistake("completeUpload", {"uploadId": upload.id}, image=image)
            assert (mistake["code"], mistake["message"]) == ("CONFLICT", row.failure_message)
            assert mistake["hint"] == row.failure_hint
        assert (await gateway.image(fresh["id"])).status == ImageStatus.QUEUED
        await gateway.mutate("deleteImage", {"imageId": fresh["id"]})
        async with gateway.working():
            await until(gateway.idle)
        assert gateway.files() == []


async def test_every_byte_that_comes_moves_the_end_on(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": 17 * MIB})
    await gateway.send(image, bytes(17 * MIB), [2])
    await overdue(gateway, image)
    await uploads.sweep(gateway.catalogue)
    upload = await gateway.upload(image["upload"]["id"])
    assert upload.state == UploadState.OPEN
    assert upload.expires_at > now() + timedelta(hours=23)
    events = await gateway.events(image["id"])
    assert [event.kind for event in events] == [EventKind.CREATED]


@pytest.mark.parametrize("by", ["the sweep", "completion"])
async def test_an_upload_that_the_store_has_dropped_expires_at_once(gateway: Gateway, by: str) -> None:
    image = await gateway.create()
    upload = await gateway.upload(image["upload"]["id"])
    await gateway.store.abort_upload(handle_of(upload))
    if by == "completion":
        payload = await gateway.mutate("completeUpload", {"uploadId": upload.id}, image="status failure { message }")
        (mistake,) = payload["userErrors"]
        message = "The object store discarded the upload because it was open for too long."
        assert (mistake["code"], mistake["message"]) == ("CONFLICT", message)
        assert payload["image"] == {"status": "ERROR", "failure": {"message": message}}
        assert await gateway.mistake("completeUpload", {"uploadId": upload.id}, image=image) == mistake
    else:
        await uploads.sweep(gateway.catalogue)
    row, upload = await gateway.image(image["id"]), await gateway.upload(upload.id)
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.UPLOAD_EXPIRED)
    assert (row.failure_retriable, row.reserved_size) == (False, 0)
    assert (upload.state, upload.source.kept) == (UploadState.EXPIRED, False)


async def test_what_was_sealed_by_a_process_that_died_is_finished(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.send(image, b"\1" * MIB)
    await gateway.store.seal_upload(handle_of(await gateway.upload(image["upload"]["id"])))
    await overdue(gateway, image)
    found = await gateway.ask("query ($id: ID!) { image(by: {id: $id}) { upload { receivedBytes } } }", id=image["id"])
    assert found["image"]["upload"]["receivedBytes"] == MIB
    await uploads.sweep(gateway.catalogue)
    await uploads.sweep(gateway.catalogue)
    upload = await gateway.upload(image["upload"]["id"])
    assert (upload.state, upload.source.kept) == (UploadState.COMPLETED, True)
    assert (await gateway.image(image["id"])).status == ImageStatus.QUEUED
    jobs = [job for job in await gateway.all_jobs() if job.image_id == image["id"] and job.kind == JobKind.CONVERT]
    assert len(jobs) == 1
    payload = await gateway.mutate("completeUpload", {"uploadId": upload.id})
    assert payload["userErrors"] == []


class PartlyUnreadable(FolderStore):
    """A store that can't say what has arrived of one upload."""

    broken_key: str

    async def receipt(self, upload: UploadHandle) -> UploadReceipt:
        if upload.key == self.broken_key:
            raise StoreUnavailable("the disk has a bad sector")
        return await super().receipt(upload)


async def test_an_upload_that_can_not_be_read_does_not_keep_others_from_their_end(gateway: Gateway) -> None:
    broken, other = await gateway.create(), await gateway.create()
    store = PartlyUnreadable(gateway.settings.objects_path, SECRET.encode())
    store.broken_key = await gateway.source_key(broken)
    for image in (broken, other):
        await overdue(gateway, image)
    await uploads.sweep(replace(gateway.catalogue, store=store))
    store.close()
    assert (await gateway.image(other["id"])).failure_code == FailureCode.UPLOAD_EXPIRED
    assert (await gateway.image(broken["id"])).status == ImageStatus.QUEUED


async def test_workers_sweep_by_themselves(start_gateway: StartGateway) -> None:
    async with start_gateway(upload_idle_seconds=60) as gateway:
        image = await gateway.create()
        upload = await gateway.upload(image["upload"]["id"])
        assert now() < upload.expires_at < now() + timedelta(seconds=61)
        await overdue(gateway, image)
        async with gateway.working():

            async def expired() -> bool:
                return (await gateway.image(image["id"])).status == ImageStatus.ERROR

            await until(expired)
            await until(gateway.idle)
        assert gateway.files() == []


async def test_the_head_of_an_upload_is_looked_at_once_it_is_there(gateway: Gateway) -> None:
    image = await gateway.create(upload={"size": 17 * MIB})
    await gateway.send(image, bytes(17 * MIB), [2])
    assert [job.kind for job in await gateway.all_jobs() if job.image_id == image["id"]] == []
    await gateway.send(image, bytes(17 * MIB), [1])
    (job,) = [job for job in await gateway.all_jobs() if job.image_id == image["id"]]
    assert (job.kind, job.detail) == (JobKind.INSPECT_HEAD, {"source": (await gateway.source(image)).id})


async def test_a_head_of_nothing_that_is_known_starts_nothing(gateway: Gateway) -> None:
    before = await gateway.everything()
    await uploads.head_arrived(gateway.catalogue, "uploads/unknown")
    assert await gateway.everything() == before
