"""A conversion that several workers share: one of them finds itself the last, and one failure is enough."""

import asyncio
from typing import Any

import pytest

from app.catalog import conversions, split_conversions
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Assemble
from app.errors import ImageFailed, LeaseLost
from app.lifecycle import FailureCode, ImageStatus, JobKind, JobState
from app.models import Job, now
from app.sizes import MIB
from tests.support.gateway import LEASE, Gateway, claimed, outcome

pytestmark = pytest.mark.anyio

FAILURE = ImageFailed(FailureCode.CORRUPT_IMAGE, "It is broken.", "Mend it.")
SHARED = {"reference": "r", "cuts": [0, 1, 2, 3]}


async def shared_image(gateway: Gateway, ranges: int = 3) -> str:
    """An image whose conversion was shared out."""
    image: str = (await gateway.uploaded())["id"]
    claim, _ = await gateway.begun(image)
    await split_conversions.split(gateway.catalogue, claim, SHARED, ranges)
    return image


async def open_jobs(gateway: Gateway, image: str) -> list[Job]:
    found = [job for job in await gateway.all_jobs() if job.image_id == image and job.kind != JobKind.INSPECT_HEAD]
    return [job for job in found if job.state != JobState.DONE]


async def claims(gateway: Gateway, image: str) -> list[Claim[Any]]:
    """All open jobs of an image, taken as workers do, by their ranges."""
    taken = [await claimed(gateway.database, job.id, LEASE) for job in await open_jobs(gateway, image)]
    found = [claim for claim in taken if claim is not None]
    return sorted(found, key=lambda claim: getattr(claim.detail, "range", 0))


async def kinds(gateway: Gateway, image: str) -> list[JobKind]:
    return [job.kind for job in await open_jobs(gateway, image)]


async def test_each_range_is_a_job_that_knows_what_all_have_agreed_on(gateway: Gateway) -> None:
    image = await shared_image(gateway)
    assert await kinds(gateway, image) == [JobKind.STREAM_RANGE] * 3
    found = await claims(gateway, image)
    assert [claim.detail.range for claim in found] == [0, 1, 2]
    assert all(claim.detail.shared == SHARED for claim in found)
    assert (await gateway.image(image)).status == ImageStatus.SAVING


async def test_a_worker_that_has_lost_its_job_shares_nothing_out(gateway: Gateway) -> None:
    image = (await gateway.uploaded())["id"]
    claim, _ = await gateway.begun(image)
    await gateway.change(Job, claim.job_id, token=claim.token + 1)
    with pytest.raises(LeaseLost):
        await split_conversions.split(gateway.catalogue, claim, SHARED, 3)
    assert await kinds(gateway, image) == [JobKind.CONVERT]


async def test_of_all_that_finish_at_once_one_has_the_ranges_assembled(gateway: Gateway) -> None:
    image = await shared_image(gateway, 5)
    found = await claims(gateway, image)
    await asyncio.gather(*(split_conversions.finish_range(gateway.catalogue, claim, MIB) for claim in found))
    assert await kinds(gateway, image) == [JobKind.ASSEMBLE]
    (claim,) = await claims(gateway, image)
    assert isinstance(claim.detail, Assemble)
    assert claim.detail.shared == SHARED
    assignment = await conversions.begin(gateway.catalogue, claim)
    assert assignment is not None
    await conversions.succeed(gateway.catalogue, claim, assignment, outcome())
    assert (await gateway.image(image)).status == ImageStatus.ACTIVE


async def test_ranges_are_assembled_when_the_last_is_done_and_not_before(gateway: Gateway) -> None:
    image = await shared_image(gateway)
    found = await claims(gateway, image)
    for done, claim in enumerate(found):
        assert await kinds(gateway, image) == [JobKind.STREAM_RANGE] * (3 - done)
        assert await split_conversions.finished_ranges(gateway.catalogue, claim) == list(range(done))
        await split_conversions.finish_range(gateway.catalogue, claim, MIB)
    assert await kinds(gateway, image) == [JobKind.ASSEMBLE]


async def test_a_worker_that_has_lost_its_range_finishes_nothing(gateway: Gateway) -> None:
    image = await shared_image(gateway, 1)
    (claim,) = await claims(gateway, image)
    await gateway.change(Job, claim.job_id, lease_until=now() - LEASE)
    (later,) = await claims(gateway, image)
    with pytest.raises(LeaseLost):
        await split_conversions.finish_range(gateway.catalogue, claim, MIB)
    assert await kinds(gateway, image) == [JobKind.STREAM_RANGE]
    await split_conversions.finish_range(gateway.catalogue, later, MIB)
    assert await kinds(gateway, image) == [JobKind.ASSEMBLE]


async def test_one_range_that_fails_fails_the_image_once_and_ends_the_others(gateway: Gateway) -> None:
    image = await shared_image(gateway)
    found = await claims(gateway, image)
    assignment = await conversions.begin(gateway.catalogue, found[0])
    assert assignment is not None

    async def fail(claim: Claim[Any]) -> Any:
        try:
            return await split_conversions.fail(gateway.catalogue, claim, assignment, FAILURE)
        except LeaseLost as lost:
            return lost

    results = await asyncio.gather(*(fail(claim) for claim in found))
    assert sorted(isinstance(result, LeaseLost) for result in results) == [False, True, True]
    row = await gateway.image(image)
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.CORRUPT_IMAGE)
    assert await open_jobs(gateway, image) == []
    with pytest.raises(LeaseLost):
        await jobs.renew(gateway.database, found[1], LEASE)


async def test_a_range_that_continues_alone_ends_the_others_and_counts_the_finished_ones(
    gateway: Gateway,
) -> None:
    image = await shared_image(gateway)
    first, second, third = await claims(gateway, image)
    await split_conversions.finish_range(gateway.catalogue, first, 5 * MIB)
    await split_conversions.end_others(gateway.catalogue, third)
    for attempt in (
        split_conversions.finish_range(gateway.catalogue, second, MIB),
        split_conversions.restart(gateway.catalogue, second),
        split_conversions.end_others(gateway.catalogue, second),
    ):
        with pytest.raises(LeaseLost):
            await attempt
    assert await split_conversions.stored_so_far(gateway.catalogue, third) == 5 * MIB
    assert await split_conversions.finished_ranges(gateway.catalogue, third) == [0]
    assert [job.id for job in await open_jobs(gateway, image)] == [third.job_id]
    await jobs.renew(gateway.database, third, LEASE)


async def test_a_share_that_is_lost_begins_anew_and_is_counted(gateway: Gateway) -> None:
    image = await shared_image(gateway)
    for times in (1, 2):
        found = await claims(gateway, image)
        assert await split_conversions.restart(gateway.catalogue, found[0]) == times
        with pytest.raises(LeaseLost):
            await split_conversions.restart(gateway.catalogue, found[1])
        assert await kinds(gateway, image) == [JobKind.CONVERT]
        claim, assignment = await gateway.begun(image)
        assert assignment.image_id == image
        assert claim.detail.times == times
        await split_conversions.split(gateway.catalogue, claim, {**SHARED, "reference": str(times)}, 3)
        (first, *_) = await open_jobs(gateway, image)
        assert first.detail["times"] == times


async def test_ranges_of_an_earlier_attempt_do_not_count(gateway: Gateway) -> None:
    image = await shared_image(gateway)
    first, *_ = await claims(gateway, image)
    await split_conversions.finish_range(gateway.catalogue, first, MIB)
    second, *_ = await open_jobs(gateway, image)
    await gateway.change(Job, second.id, lease_until=now() - LEASE)
    (claim,) = await claims(gateway, image)
    await split_conversions.restart(gateway.catalogue, claim)
    again, _ = await gateway.begun(image)
    await split_conversions.split(gateway.catalogue, again, {**SHARED, "reference": "other"}, 2)
    found = await claims(gateway, image)
    assert await split_conversions.finished_ranges(gateway.catalogue, found[0]) == []


async def test_an_image_that_is_deleted_ends_all_its_ranges(gateway: Gateway) -> None:
    image = await shared_image(gateway)
    found = await claims(gateway, image)
    await gateway.mutate("deleteImage", {"imageId": image})
    for claim in found:
        with pytest.raises(LeaseLost):
            await split_conversions.finish_range(gateway.catalogue, claim, MIB)
    assert JobKind.ASSEMBLE not in await kinds(gateway, image)
