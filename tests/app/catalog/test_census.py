"""What metrics say of jobs and uploads, over both databases."""

from datetime import timedelta
from typing import Any

import pytest

from app.catalog import census
from app.lifecycle import JobKind
from app.models import Job, now
from tests.app.conftest import StartGateway
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio


async def test_a_census_counts_what_is_to_do_by_kind_and_state(gateway: Gateway) -> None:
    before = await census.take(gateway.database)
    waiting = [await gateway.uploaded() for _ in range(3)]
    await gateway.claim(waiting[0]["id"])
    await gateway.create()

    found = await census.take(gateway.database)

    def more(state: str) -> int:
        key = (JobKind.CONVERT, state)
        return found.jobs[key] - before.jobs[key]

    assert (more("WAITING"), more("RUNNING")) == (2, 1)
    assert found.open_uploads - before.open_uploads == 1
    assert set(found.jobs) == {(kind, state) for kind in JobKind for state in ("WAITING", "RUNNING")}
    assert found.oldest_waiting[JobKind.CONVERT] > 0
    assert set(found.oldest_waiting) == set(JobKind)


async def test_the_oldest_waiting_job_counts_from_when_it_was_due(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        due, later = await gateway.uploaded(), await gateway.uploaded()
        await change_job(gateway, due, due_at=now() - timedelta(seconds=100))
        await change_job(gateway, later, due_at=now() + timedelta(seconds=100))

        found = await census.take(gateway.database)

        assert 100 <= found.oldest_waiting[JobKind.CONVERT] < 1000
        assert found.jobs[JobKind.CONVERT, "WAITING"] == 2


async def test_a_job_that_is_due_later_only_has_not_waited(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        await change_job(gateway, await gateway.uploaded(), due_at=now() + timedelta(hours=1))

        found = await census.take(gateway.database)

        assert (found.oldest_waiting[JobKind.CONVERT], found.jobs[JobKind.CONVERT, "WAITING"]) == (0, 1)


async def test_a_job_of_a_silent_worker_waits_since_its_lease_ran_out(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        image = await gateway.uploaded()
        await gateway.claim(image["id"])
        held = await census.take(gateway.database)
        await change_job(gateway, image, lease_until=now() - timedelta(seconds=1000))

        lapsed = await census.take(gateway.database)

        waiting, running = (JobKind.CONVERT, "WAITING"), (JobKind.CONVERT, "RUNNING")
        assert (held.jobs[waiting], held.jobs[running]) == (0, 1)
        assert (lapsed.jobs[waiting], lapsed.jobs[running]) == (1, 0)
        assert 1000 <= lapsed.oldest_waiting[JobKind.CONVERT] < 2000


async def change_job(gateway: Gateway, image: dict[str, Any], **values: Any) -> None:
    (job,) = [job for job in await gateway.all_jobs() if job.image_id == image["id"] and job.kind == JobKind.CONVERT]
    await gateway.change(Job, job.id, **values)
