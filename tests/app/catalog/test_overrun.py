"""Quotas are hard for conversions, too: what takes more than there is room for ends in ERROR, and is freed."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from app.catalog import conversions
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.errors import ImageFailed, LeaseLost
from app.lifecycle import FailureCode, ImageStatus
from app.models import Job, Project
from app.sizes import MIB, exactly
from tests.support.gateway import LEASE, Gateway, outcome
from tests.support.overrunning import limited, storage

pytestmark = pytest.mark.anyio

Begun = tuple[str, Claim[Any], Assignment]


async def begun(gateway: Gateway, project: str) -> Begun:
    """An image of one uploaded MiB that a worker has taken up."""
    image = await gateway.uploaded(projectId=project)
    return image["id"], *await gateway.begun(image["id"])


async def succeed(gateway: Gateway, work: Begun, stored: int, catalogue: Catalogue | None = None) -> None:
    _, claim, assignment = work
    made = outcome(stored_size=stored)
    await conversions.succeed(catalogue or gateway.catalogue, claim, assignment, made)


# ------------------------------------------------------------ how much room there is


async def test_a_conversion_is_told_what_is_promised_to_it_and_what_is_free_beside(gateway: Gateway) -> None:
    project = await limited(gateway, 10 * MIB)
    await gateway.stock(project, {"stored_size": 2 * MIB, "status": ImageStatus.ACTIVE})
    await gateway.create(projectId=project, upload={"size": 3 * MIB})
    _, _, assignment = await begun(gateway, project)
    assert assignment.room == MIB + (10 - 2 - 3 - 1) * MIB


async def test_a_conversion_in_a_project_that_is_over_its_limit_keeps_what_was_promised(gateway: Gateway) -> None:
    project = await limited(gateway, 10 * MIB)
    work = await begun(gateway, project)
    await gateway.stock(project, {"stored_size": 8 * MIB, "status": ImageStatus.ACTIVE})
    await gateway.change(Project, project, image_storage_limit=4 * MIB)
    again = await conversions.begin(gateway.catalogue, work[1])
    assert again is not None
    assert again.room == MIB
    with pytest.raises(ImageFailed):
        await succeed(gateway, work, MIB + 1)
    await succeed(gateway, work, MIB)
    assert (await gateway.image(work[0])).status == ImageStatus.ACTIVE
    assert await storage(gateway, project) == (9 * MIB, 0)


async def test_a_result_that_just_fits_is_taken_in(gateway: Gateway) -> None:
    project = await limited(gateway, 10 * MIB)
    work = await begun(gateway, project)
    await succeed(gateway, work, 10 * MIB)
    image = await gateway.image(work[0])
    assert (image.status, image.stored_size, image.reserved_size) == (ImageStatus.ACTIVE, 10 * MIB, 0)
    assert await storage(gateway, project) == (10 * MIB, 0)


async def test_one_byte_more_writes_nothing_and_tells_the_numbers(gateway: Gateway) -> None:
    project = await limited(gateway, 10 * MIB)
    await gateway.stock(project, {"stored_size": 2 * MIB, "status": ImageStatus.ACTIVE})
    work = await begun(gateway, project)
    before = await gateway.everything()
    with pytest.raises(ImageFailed) as caught:
        await succeed(gateway, work, 8 * MIB + 1)
    assert await gateway.everything() == before
    failure = caught.value
    assert (failure.code, failure.retriable) == (FailureCode.QUOTA_EXCEEDED, True)
    for number in (8 * MIB + 1, 10 * MIB, 2 * MIB, MIB):
        assert exactly(number) in failure.message
    assert "retryImage" in failure.hint
    await jobs.renew(gateway.database, work[1], LEASE)


async def test_a_worker_that_has_lost_its_job_is_told_so_and_not_of_the_quota(gateway: Gateway) -> None:
    work = await begun(gateway, await limited(gateway, MIB))
    await gateway.change(Job, work[1].job_id, token=work[1].token + 1)
    with pytest.raises(LeaseLost):
        await succeed(gateway, work, 2 * MIB)


async def test_other_projects_room_is_none_of_its_own(gateway: Gateway) -> None:
    full = await limited(gateway, MIB)
    await gateway.uploaded(projectId=full)
    work = await begun(gateway, await limited(gateway, 3 * MIB))
    await succeed(gateway, work, 3 * MIB)
    assert (await gateway.image(work[0])).status == ImageStatus.ACTIVE


@pytest.mark.parametrize("turn", range(5))
async def test_of_two_that_succeed_at_once_and_together_overrun_one_is_active(
    gateway: Gateway, other: Database, turn: int
) -> None:
    project = await limited(gateway, 6 * MIB)
    both = [await begun(gateway, project) for _ in range(2)]

    async def end(work: Begun, catalogue: Catalogue) -> ImageStatus:
        _, claim, assignment = work
        try:
            await succeed(gateway, work, 5 * MIB, catalogue)
        except ImageFailed as failure:
            await conversions.fail(catalogue, claim, assignment, failure)
        return (await gateway.image(work[0])).status

    ended = await asyncio.gather(*map(end, both, (gateway.catalogue, replace(gateway.catalogue, database=other))))
    assert sorted(ended) == [ImageStatus.ACTIVE, ImageStatus.ERROR]
    assert await storage(gateway, project) == (5 * MIB, MIB)


# ------------------------------------------------------------ after a failure


async def failed(gateway: Gateway, project: str, stored: int) -> str:
    """An image in ERROR, since it would have stored so much."""
    image, claim, assignment = work = await begun(gateway, project)
    with pytest.raises(ImageFailed) as caught:
        await succeed(gateway, work, stored)
    await conversions.fail(gateway.catalogue, claim, assignment, caught.value)
    return image


async def test_an_image_that_overran_keeps_its_upload_and_what_is_promised_to_it(gateway: Gateway) -> None:
    project = await limited(gateway, 2 * MIB)
    row = await gateway.image(await failed(gateway, project, 3 * MIB))
    assert (row.status, row.failure_code, row.failure_retriable) == (
        ImageStatus.ERROR,
        FailureCode.QUOTA_EXCEEDED,
        True,
    )
    assert (row.stored_size, row.blob_id, row.reserved_size) == (None, None, MIB)
    assert await storage(gateway, project) == (0, MIB)


@pytest.mark.parametrize("raised", [True, False], ids=["limit-raised", "image-deleted"])
async def test_once_there_is_room_a_retry_makes_it_active(gateway: Gateway, raised: bool) -> None:
    project = await limited(gateway, 4 * MIB)
    other = await gateway.active(projectId=project, content=b"\2" * MIB)
    image = await failed(gateway, project, 4 * MIB)
    if raised:
        await gateway.change(Project, project, image_storage_limit=5 * MIB)
    else:
        await gateway.mutate("deleteImage", {"imageId": other["id"]})
    payload = await gateway.mutate("retryImage", {"imageId": image})
    assert payload["userErrors"] == []
    work = image, *await gateway.begun(image)
    assert work[2].room == 4 * MIB
    await succeed(gateway, work, 4 * MIB)
    row = await gateway.image(image)
    assert (row.status, row.failure_code, row.reserved_size) == (ImageStatus.ACTIVE, None, 0)
