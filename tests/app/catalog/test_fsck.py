"""`images fsck`: what rows and objects say of one another, found and repaired beside a gateway that runs."""

import os
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from app.catalog.bill import reconciling
from app.catalog.fsck import Finding, Fsck, Problem
from app.lifecycle import FailureCode, ImageStatus, UploadState
from app.models import Blob, Image, Source, StorageEntry, Upload
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import ADMIN, Gateway
from tests.support.sharing import done
from workers.jobs.converters import owner_of, receipt_of

pytestmark = pytest.mark.anyio

CONTENT = b"\1" * MIB
USED = "query ($id: ID!) { project(id: $id) { quota { imageStorage { used reserved } } } }"


@pytest.fixture
async def apart(start_gateway: StartGateway) -> Any:
    """A gateway of its own: what one test breaks, no other one finds."""
    async with start_gateway() as running:
        yield running


async def check(gateway: Gateway, *, repair: bool = False, grace: float = 3600) -> list[Finding]:
    """What is found; the same is still found without a repair, and nothing after one."""
    before = await gateway.everything()
    run = Fsck(gateway.catalogue, timedelta(seconds=grace), owner_of, repair)
    findings = [finding async for finding in run.findings()]
    if not repair:
        assert await gateway.everything() == before
    return findings


async def blob_of(gateway: Gateway, image: dict[str, Any]) -> Blob:
    async with gateway.database.read() as session:
        found = await session.get_one(Image, image["id"])
        return await session.get_one(Blob, found.blob_id)


async def open_lines(gateway: Gateway, image: dict[str, Any]) -> int:
    async with gateway.database.read() as session:
        query = select(StorageEntry).where(StorageEntry.image_id == image["id"], col(StorageEntry.until).is_(None))
        return len((await session.execute(query)).all())


def problems(findings: list[Finding]) -> list[tuple[Problem, str | None, bool]]:
    return sorted((finding.problem, finding.image_id or finding.key, finding.repaired) for finding in findings)


async def test_a_catalogue_in_order_has_no_findings(apart: Gateway) -> None:
    await apart.active(CONTENT)
    await apart.uploaded(CONTENT)
    await apart.create()
    await apart.failed()
    deleted = await apart.active(CONTENT)
    await done(apart, "deleteImage", imageId=deleted["id"])

    # Even where nothing is given any time: the objects of the deleted image wait for their job.
    assert await check(apart, grace=-3600) == []


async def test_an_active_image_without_its_object_is_found_and_ends_in_error(apart: Gateway) -> None:
    image, other = await apart.active(CONTENT), await apart.active(CONTENT)
    blob = await blob_of(apart, image)
    apart.store.path(blob.key).unlink()
    found = (Problem.MISSING_OBJECT, image["id"])

    assert problems(await check(apart)) == [(*found, False)]
    assert problems(await check(apart, repair=True)) == [(*found, True)]
    assert await check(apart, repair=True) == []

    row = await apart.image(image["id"])
    assert (row.status, row.failure_code, row.failure_retriable) == (ImageStatus.ERROR, FailureCode.DATA_LOST, False)
    assert row.stored_size is None
    last = (await apart.events(image["id"]))[-1]
    assert last.detail["before"] == "ACTIVE"
    assert last.detail["failure"]["code"] == "DATA_LOST"
    seen = await apart.ask("query ($id: ID!) { image(by: {id: $id}) { status download { url } } }", id=image["id"])
    assert seen["image"] == {"status": "ERROR", "download": None}
    assert (await apart.image(other["id"])).status == ImageStatus.ACTIVE


async def test_lost_bytes_cost_neither_quota_nor_money(apart: Gateway) -> None:
    image = await apart.active(CONTENT)
    apart.store.path((await blob_of(apart, image)).key).unlink()
    assert await open_lines(apart, image) == 1

    await check(apart, repair=True)
    await reconciling.reconcile(apart.database)

    assert await open_lines(apart, image) == 0
    quota = (await apart.ask(USED, id=apart.alpha))["project"]["quota"]["imageStorage"]
    assert (quota["used"], quota["reserved"]) == (0, 0)


async def test_an_image_whose_object_is_put_back_is_active_again(apart: Gateway) -> None:
    image = await apart.active(CONTENT)
    path = apart.store.path((await blob_of(apart, image)).key)
    path.unlink()
    await check(apart, repair=True)
    path.write_bytes(CONTENT)
    found = (Problem.RESTORED_OBJECT, image["id"])

    assert problems(await check(apart)) == [(*found, False)]
    assert problems(await check(apart, repair=True)) == [(*found, True)]

    row = await apart.image(image["id"])
    assert (row.status, row.failure_code, row.stored_size) == (ImageStatus.ACTIVE, None, MIB)
    assert await open_lines(apart, image) == 1
    assert await check(apart) == []


async def test_every_image_that_shares_the_lost_bytes_ends_in_error(apart: Gateway) -> None:
    image = await apart.active(CONTENT)
    copy = await done(
        apart, "createImage", give="image { id }", projectId=apart.alpha, name="copy",
        source={"image": {"imageId": image["id"]}},
    )  # fmt: skip
    apart.store.path((await blob_of(apart, image)).key).unlink()

    findings = await check(apart, repair=True)

    assert {finding.image_id for finding in findings} == {image["id"], copy["id"]}
    assert await open_lines(apart, image) + await open_lines(apart, copy) == 0
    for lost in (image, copy):
        await done(apart, "deleteImage", imageId=lost["id"])
    assert await check(apart, grace=-3600) == []


@pytest.mark.parametrize("size", [0, MIB - 1, MIB + 1])
async def test_an_object_of_another_size_is_found(apart: Gateway, size: int) -> None:
    image = await apart.active(CONTENT)
    os.truncate(apart.store.path((await blob_of(apart, image)).key), size)

    (finding,) = await check(apart)

    assert (finding.problem, finding.image_id) == (Problem.SIZE_MISMATCH, image["id"])
    assert (finding.expected_size, finding.found_size) == (MIB, size)
    assert problems(await check(apart, repair=True)) == [(Problem.SIZE_MISMATCH, image["id"], True)]
    assert (await apart.image(image["id"])).failure_code == FailureCode.DATA_LOST


async def test_objects_that_no_row_names_are_removed_when_they_are_old(apart: Gateway) -> None:
    image = await apart.active(CONTENT)
    key = "blobs/blb_01k0000000000000000000dead.qcow2"
    for orphan in (key, receipt_of(key), "uploads/upl_01k0000000000000000000dead", "blobs/somebody-elses.txt"):
        apart.store.path(orphan).parent.mkdir(parents=True, exist_ok=True)
        apart.store.path(orphan).write_bytes(b"orphan")
    gone = [(Problem.ORPHANED_OBJECT, orphan) for orphan in (key, receipt_of(key), f"uploads/upl_{key[10:36]}")]

    assert await check(apart) == []
    assert problems(await check(apart, grace=-3600)) == [(*found, False) for found in sorted(gone)]
    assert problems(await check(apart, grace=-3600, repair=True)) == [(*found, True) for found in sorted(gone)]

    assert await check(apart, grace=-3600) == []
    assert apart.store.path((await blob_of(apart, image)).key).exists()
    assert apart.store.path("blobs/somebody-elses.txt").exists()


async def test_what_is_being_uploaded_or_converted_is_no_orphan_however_old(apart: Gateway) -> None:
    waiting, converting = await apart.create(), await apart.uploaded(CONTENT)
    _, assignment = await apart.begun(converting["id"])
    result = apart.store.path(assignment.result_key)
    result.parent.mkdir(parents=True, exist_ok=True)
    result.write_bytes(b"half of it")

    assert await check(apart, grace=-3600, repair=True) == []

    assert result.exists()
    await apart.send(waiting, CONTENT)


async def test_quota_that_is_reserved_by_nothing_is_freed(apart: Gateway) -> None:
    running, stale = await apart.create(), await apart.create()
    await apart.change(Image, stale["id"], status=ImageStatus.ERROR)
    upload = await apart.upload(stale["upload"]["id"])
    await apart.change(Upload, upload.id, state=UploadState.EXPIRED)
    await apart.change(Source, upload.source_id, kept=False)
    found = (Problem.STALE_RESERVATION, stale["id"])

    assert problems(await check(apart)) == [(*found, False)]
    assert problems(await check(apart, repair=True)) == [(*found, True)]

    quota = (await apart.ask(USED, id=apart.alpha))["project"]["quota"]["imageStorage"]
    assert quota["reserved"] == MIB
    assert (await apart.image(running["id"])).reserved_size == MIB


async def test_a_retry_whose_source_is_lost_is_offered_no_longer(apart: Gateway) -> None:
    image = await apart.failed(retriable=True)
    upload = await apart.upload(image["upload"]["id"])
    apart.store.path(upload.source.key).unlink()
    found = (Problem.MISSING_SOURCE, image["id"])

    assert problems(await check(apart)) == [(*found, False)]
    assert problems(await check(apart, repair=True)) == [(*found, True)]

    assert await check(apart) == []
    row = await apart.image(image["id"])
    assert (row.failure_code, row.failure_retriable, row.reserved_size) == (FailureCode.DATA_LOST, False, 0)
    assert (await apart.mistake("retryImage", {"imageId": image["id"]}, ADMIN))["code"] == "CONFLICT"


async def test_more_rows_than_a_page_holds_are_all_looked_at(apart: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.catalog.fsck._PAGE", 2)
    lost = [await apart.active(CONTENT) for _ in range(5)]
    for image in lost:
        apart.store.path((await blob_of(apart, image)).key).unlink()

    findings = await check(apart, repair=True)

    assert {finding.image_id for finding in findings} == {image["id"] for image in lost}
    assert len(findings) == 5
