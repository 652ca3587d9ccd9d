"""Jobs: one claim wins, a lost lease writes nothing, and what falls silent is given on (architecture, rule 3)."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from app.catalog import conversions, findings
from app.catalog.uploads import handle_of
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Erase, Hash
from app.errors import ImageFailed, LeaseLost
from app.lifecycle import FailureCode, ImageStatus, JobKind, JobState, UploadState
from app.models import Blob, Image, Job, now
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.support.gateway import LEASE, Gateway, claimed, outcome, until

pytestmark = pytest.mark.anyio

FAILURE = ImageFailed(FailureCode.CORRUPT_IMAGE, "It is broken.", "Mend it.")


async def start(gateway: Gateway, *keys: str) -> str:
    async with gateway.database.transaction() as tx:
        return jobs.start(tx, Erase(keys=keys)).id


async def job(gateway: Gateway, job_id: str) -> Job:
    async with gateway.database.read() as session:
        return await session.get_one(Job, job_id)


async def taken(gateway: Gateway, job_id: str, lease: timedelta = LEASE) -> Claim[Any]:
    claim = await claimed(gateway.database, job_id, lease)
    assert claim is not None
    return claim


async def is_due(gateway: Gateway, job_id: str) -> bool:
    return job_id in [waiting.id for waiting in await jobs.due(gateway.database, 1000)]


async def test_of_many_who_claim_at_once_one_gets_the_job(gateway: Gateway) -> None:
    job_id = await start(gateway, "blobs/x")
    claims = await asyncio.gather(*(claimed(gateway.database, job_id, LEASE) for _ in range(10)))
    (claim,) = [claim for claim in claims if claim]
    assert claim == Claim(job_id, JobKind.ERASE, token=1, attempt=1, image_id=None, detail=Erase(keys=("blobs/x",)))
    row = await job(gateway, job_id)
    assert (row.state, row.token, row.attempts) == (JobState.RUNNING, 1, 1)
    assert row.lease_until is not None
    assert row.lease_until > now()


async def test_a_job_that_is_done_is_not_claimed_again(gateway: Gateway) -> None:
    job_id = await start(gateway)
    claim = await taken(gateway, job_id)
    assert not await is_due(gateway, job_id)
    async with gateway.database.transaction() as tx:
        await jobs.finish(tx, claim)
    assert await claimed(gateway.database, job_id, LEASE) is None
    assert not await is_due(gateway, job_id)


async def test_what_does_not_exist_is_not_claimed(gateway: Gateway) -> None:
    assert await claimed(gateway.database, "job_x", LEASE) is None


async def test_the_job_of_a_silent_worker_is_reassigned_and_the_first_can_no_longer_write(
    gateway: Gateway,
) -> None:
    job_id = await start(gateway)
    silent = await taken(gateway, job_id, timedelta(seconds=-1))
    assert await is_due(gateway, job_id)
    second = await taken(gateway, job_id)
    assert (second.token, second.attempt) == (2, 2)
    before = await job(gateway, job_id)
    with pytest.raises(LeaseLost):
        await jobs.renew(gateway.database, silent, LEASE)
    for write in (jobs.hold, jobs.finish):
        with pytest.raises(LeaseLost):
            async with gateway.database.transaction() as tx:
                await write(tx, silent)
    await jobs.requeue(gateway.database, silent, delay=timedelta(0))
    assert await job(gateway, job_id) == before
    await jobs.renew(gateway.database, second, LEASE)


async def test_a_renewed_lease_keeps_others_away(gateway: Gateway) -> None:
    job_id = await start(gateway)
    claim = await taken(gateway, job_id, timedelta(seconds=-1))
    await jobs.renew(gateway.database, claim, LEASE)
    assert not await is_due(gateway, job_id)
    assert await claimed(gateway.database, job_id, LEASE) is None


async def test_what_is_handed_back_waits_its_time_and_counts_as_an_attempt_if_it_failed(gateway: Gateway) -> None:
    job_id = await start(gateway)
    await jobs.requeue(gateway.database, await taken(gateway, job_id), delay=timedelta(0), failed=False)
    assert (await job(gateway, job_id)).attempts == 0
    claim = await taken(gateway, job_id)
    assert (claim.token, claim.attempt) == (2, 1)
    await jobs.requeue(gateway.database, claim, delay=timedelta(hours=1))
    row = await job(gateway, job_id)
    assert (row.state, row.attempts, row.lease_until) == (JobState.WAITING, 1, None)
    assert not await is_due(gateway, job_id)
    assert await claimed(gateway.database, job_id, LEASE) is None
    await gateway.change(Job, job_id, due_at=now())
    assert (await taken(gateway, job_id)).attempt == 2


async def test_those_that_wait_longest_come_first(gateway: Gateway) -> None:
    ids = [await start(gateway) for _ in range(3)]
    for at, job_id in enumerate(ids):
        await gateway.change(Job, job_id, due_at=now() - timedelta(days=at + 1))
    assert [waiting.id for waiting in await jobs.due(gateway.database, 2)] == [ids[2], ids[1]]


async def test_a_worker_takes_the_job_of_a_kind_that_has_waited_longest(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        ids = [await start(gateway) for _ in range(4)]
        for hours, job_id in zip((2, 3, 1, -1), ids, strict=True):
            await gateway.change(Job, job_id, due_at=now() - timedelta(hours=hours))
        await gateway.change(Job, ids[2], state=JobState.RUNNING, lease_until=now() - timedelta(seconds=1))
        async with gateway.database.transaction() as tx:
            jobs.start(tx, Hash(blob="blb_x")).due_at = now() - timedelta(hours=9)

        found = [await jobs.claim(gateway.database, JobKind.ERASE, LEASE) for _ in range(4)]

        assert [claim and claim.job_id for claim in found] == [ids[1], ids[0], ids[2], None]


async def test_workers_that_come_at_once_take_different_jobs(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        ids = {await start(gateway) for _ in range(5)}
        found = await asyncio.gather(*(jobs.claim(gateway.database, JobKind.ERASE, LEASE) for _ in range(5)))
        assert {claim.job_id for claim in found if claim is not None} == ids


async def test_jobs_that_were_done_long_ago_are_forgotten(gateway: Gateway) -> None:
    long_ago = now() - timedelta(days=8)
    old, new, waiting = [await start(gateway) for _ in range(3)]
    for job_id in (old, new):
        claim = await taken(gateway, job_id)
        async with gateway.database.transaction() as tx:
            await jobs.finish(tx, claim)
    for job_id in (old, waiting):
        await gateway.change(Job, job_id, created_at=long_ago)
    await jobs.prune(gateway.database, timedelta(days=7))
    async with gateway.database.read() as session:
        left = set((await session.execute(select(Job.id))).scalars())
    assert old not in left
    assert {new, waiting} <= left


# ---------------------------------------------------------------- writes of a worker whose lease is lost


async def lost(gateway: Gateway, claim: Claim[Any]) -> None:
    """Somebody else takes the job, since its lease ran out."""
    await gateway.change(Job, claim.job_id, lease_until=now() - timedelta(seconds=1))
    await taken(gateway, claim.job_id)


async def test_a_conversion_that_is_in_other_hands_can_not_be_begun_or_ended(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    claim, assignment = await gateway.begun(image["id"])
    await lost(gateway, claim)
    before = await gateway.everything()
    with pytest.raises(LeaseLost):
        await conversions.begin(gateway.catalogue, claim)
    with pytest.raises(LeaseLost):
        await conversions.succeed(gateway.catalogue, claim, assignment, outcome())
    with pytest.raises(LeaseLost):
        await conversions.fail(gateway.catalogue, claim, assignment, FAILURE)
    assert await gateway.everything() == before


async def test_a_conversion_whose_image_was_deleted_writes_nothing(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    claim, assignment = await gateway.begun(image["id"])
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    before = await gateway.everything()
    for end in (
        conversions.begin(gateway.catalogue, claim),
        conversions.succeed(gateway.catalogue, claim, assignment, outcome()),
        conversions.fail(gateway.catalogue, claim, assignment, FAILURE),
    ):
        with pytest.raises(LeaseLost):
            await end
    assert await gateway.everything() == before


async def test_a_look_at_the_head_that_is_in_other_hands_refuses_nothing(gateway: Gateway) -> None:
    image = await gateway.create()
    await gateway.send(image, b"\1" * MIB)
    claim = await gateway.claim(image["id"], JobKind.INSPECT_HEAD)
    await lost(gateway, claim)
    before = await gateway.everything()
    for failure in (FAILURE, None):
        with pytest.raises(LeaseLost):
            await conversions.refuse_early(gateway.catalogue, claim, failure)
    assert await gateway.everything() == before


async def test_a_hash_that_is_in_other_hands_is_not_kept(gateway: Gateway) -> None:
    image = await gateway.active()
    claim = await gateway.claim(image["id"], JobKind.HASH)
    await lost(gateway, claim)
    before = await gateway.everything()
    with pytest.raises(LeaseLost):
        await findings.keep_hash(gateway.catalogue, claim, "0" * 64)
    assert await gateway.everything() == before


async def test_a_hash_is_kept_and_told(gateway: Gateway) -> None:
    image = await gateway.active()
    claim = await gateway.claim(image["id"], JobKind.HASH)
    blob = await findings.blob_of(gateway.catalogue, claim)
    assert blob is not None
    assert (blob.key, blob.sha256) == ((await gateway.blob(image)).key, None)
    await findings.keep_hash(gateway.catalogue, claim, "0" * 64)
    assert (await gateway.image(image["id"])).sha256 == "0" * 64
    assert (await gateway.events(image["id"]))[-1].detail["aspects"] == ["SHA256"]


# ---------------------------------------------------------------- how a conversion begins and ends


async def test_a_conversion_begins_once_and_goes_on_after_a_worker_was_lost(gateway: Gateway) -> None:
    image = await gateway.uploaded(upload={"sha256": "ab" * 32})
    claim, assignment = await gateway.begun(image["id"])
    upload = await gateway.upload(image["upload"]["id"])
    assert (assignment.source_key, assignment.result_key) == (upload.source.key, upload.source.key_of_result)
    assert (assignment.source_size, assignment.declared_sha256) == (MIB, "ab" * 32)
    events = len(await gateway.events(image["id"]))
    await gateway.change(Job, claim.job_id, lease_until=now() - timedelta(seconds=1))
    again, same = await gateway.begun(image["id"])
    assert again.token == claim.token + 1
    assert same == assignment
    assert len(await gateway.events(image["id"])) == events
    assert (await gateway.image(image["id"])).status == ImageStatus.SAVING


async def test_success_makes_a_blob_settles_the_quota_and_drops_the_source(gateway: Gateway) -> None:
    image = await gateway.active(virtual_size=5 * MIB)
    row, upload = await gateway.image(image["id"]), await gateway.upload(image["upload"]["id"])
    assert (row.status, row.virtual_size, row.size_key) == (ImageStatus.ACTIVE, 5 * MIB, 5 * MIB)
    assert (row.stored_size, row.reserved_size) == (MIB, 0)
    assert row.blob_id == upload.source.result_id
    assert (upload.state, upload.source.kept) == (UploadState.COMPLETED, False)
    async with gateway.database.read() as session:
        blob = await session.get_one(Blob, upload.source.result_id)
    assert (blob.key, blob.virtual_size, blob.file_size) == (upload.source.key_of_result, 5 * MIB, MIB)
    started = [job for job in await gateway.all_jobs() if job.state == JobState.WAITING]
    of_blob = {job.kind for job in started if job.detail == {"blob": blob.id}}
    assert of_blob == {JobKind.HASH, JobKind.CHECK_READINESS}
    assert {job.kind for job in started if job.detail == {"sources": [upload.source_id]}} == {JobKind.ERASE}


async def test_failure_keeps_the_source_and_the_promise_for_a_retry(gateway: Gateway) -> None:
    image = await gateway.failed()
    row, upload = await gateway.image(image["id"]), await gateway.upload(image["upload"]["id"])
    assert (row.status, row.reserved_size, upload.source.kept) == (ImageStatus.ERROR, MIB, True)
    both = {upload.source.key, upload.source.key_of_result}
    assert await conversions.named_keys(gateway.catalogue, both) == both


async def test_a_job_without_its_image_is_done_without_a_word(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    claim = await gateway.claim(image["id"])
    await gateway.change(Image, image["id"], deleted_at=now())
    assert await conversions.begin(gateway.catalogue, claim) is None
    assert (await job(gateway, claim.job_id)).state == JobState.DONE


async def test_what_is_to_be_erased_are_the_upload_and_a_result_that_nobody_wants(gateway: Gateway) -> None:
    wanted, unwanted = await gateway.active(), await gateway.failed()
    await gateway.mutate("deleteImage", {"imageId": unwanted["id"]})
    results = {}
    for image in (wanted, unwanted):
        upload = await gateway.upload(image["upload"]["id"])
        detail = Erase(sources=(upload.source_id,), keys=("blobs/old.qcow2",))
        claim = Claim("job_x", JobKind.ERASE, 1, 1, None, detail)
        erasure = await conversions.to_erase(gateway.catalogue, claim)
        assert erasure.uploads == [handle_of(upload)]
        assert erasure.results == [upload.source.key_of_result]
        results[image["id"]] = (erasure.keys, upload.source)
    keys, source = results[wanted["id"]]
    assert keys == ["blobs/old.qcow2", source.key]
    keys, source = results[unwanted["id"]]
    assert keys == ["blobs/old.qcow2", source.key_of_result, source.key]


# ---------------------------------------------------------------- attempts, with workers at hand


@pytest.mark.parametrize(
    ("attempts", "harm", "code"),
    [(5, "too many attempts", FailureCode.INTERNAL), (4, "no storage", FailureCode.STORAGE_UNAVAILABLE)],
)
async def test_a_conversion_that_was_begun_too_often_ends_in_an_error_that_can_be_retried(
    start_gateway: StartGateway, attempts: int, harm: str, code: FailureCode
) -> None:
    async with start_gateway(job_attempts=5) as gateway:
        image = await gateway.uploaded()
        blobs = gateway.settings.objects_path / "objects" / "blobs"
        if harm == "no storage":
            blobs.write_text("no folder")
        (waiting,) = [job for job in await gateway.all_jobs() if job.kind == JobKind.CONVERT]
        await gateway.change(Job, waiting.id, attempts=attempts)
        async with gateway.working():

            async def settled() -> bool:
                return (await gateway.image(image["id"])).status == ImageStatus.ERROR

            await until(settled)
            row = await gateway.image(image["id"])
            assert (row.failure_code, row.failure_retriable) == (code, True)
            assert row.failure_message
            assert row.failure_hint
            if harm == "no storage":
                blobs.unlink()
            payload = await gateway.mutate("retryImage", {"imageId": image["id"]})
            assert payload["userErrors"] == []
            await until(gateway.idle)
        assert (await gateway.image(image["id"])).status == ImageStatus.ACTIVE


async def test_jobs_are_found_by_workers_that_start_later(start_gateway: StartGateway) -> None:
    """After a restart no message is left: the rows alone tell what is to be done."""
    async with start_gateway() as gateway:
        image = await gateway.uploaded()
        claim = await gateway.claim(image["id"])
        await gateway.change(Job, claim.job_id, lease_until=now() - timedelta(seconds=1))
    async with start_gateway() as gateway:
        async with gateway.working():
            await until(gateway.idle)
        assert (await gateway.image(image["id"])).status == ImageStatus.ACTIVE
