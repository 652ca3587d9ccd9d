"""Workers against one another and against users, on PostgreSQL: a job is done once, and nothing is left over."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlmodel import col, select

from app.catalog import conversions, deletion, findings, images, uploads
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.images import ImagePatch
from app.catalog.work import jobs, turns
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.errors import ImageFailed, LeaseLost, UserMistake
from app.lifecycle import Aspect, EventKind, FailureCode, ImageStatus, JobKind, JobState
from app.models import Blob, Event, Image, Job, Project, Upload, now
from app.sizes import MIB
from app.viewer import Viewer
from tests.app.conftest import NewDatabase, new_on_server
from tests.servers.postgresql import PostgreSQL
from tests.support.contention import one_after_the_other, row_held
from tests.support.gateway import ADMIN, LEASE, Gateway, claimed, outcome

pytestmark = pytest.mark.anyio

VIEWER = Viewer(subject=ADMIN)
FAILURE = ImageFailed(FailureCode.CORRUPT_IMAGE, "It is broken.", "Mend it.", retriable=True)


@pytest.fixture(scope="module")
def new_database(postgresql: PostgreSQL) -> NewDatabase:
    return partial(new_on_server, postgresql)


async def blob(gateway: Gateway, blob_id: str) -> Blob | None:
    async with gateway.database.read() as session:
        return await session.get(Blob, blob_id)


async def open_jobs(gateway: Gateway, kind: JobKind) -> list[Job]:
    return [job for job in await gateway.all_jobs() if job.kind == kind and job.state != JobState.DONE]


async def erasures(gateway: Gateway, key: str) -> int:
    return [key in job.detail.get("keys", []) for job in await gateway.all_jobs()].count(True)


# ------------------------------------------------------------ claims


async def test_a_job_that_ten_workers_want_at_once_is_given_to_one(gateway: Gateway, other: Database) -> None:
    image = await gateway.uploaded()
    (job,) = [job for job in await open_jobs(gateway, JobKind.CONVERT) if job.image_id == image["id"]]
    claims = await asyncio.gather(*(claimed(here, job.id, LEASE) for here in (gateway.database, other) * 5))
    (claim,) = [claim for claim in claims if claim is not None]
    assert (claim.token, claim.attempt) == (1, 1)


async def test_a_worker_does_not_wait_for_a_job_that_another_one_is_taking(gateway: Gateway) -> None:
    image = await gateway.uploaded()
    (job,) = [job for job in await open_jobs(gateway, JobKind.CONVERT) if job.image_id == image["id"]]
    async with row_held(gateway.database, Job, job.id), asyncio.timeout(20):
        assert await claimed(gateway.database, job.id, LEASE) is None
    assert await claimed(gateway.database, job.id, LEASE) is not None


async def all_turns(gateway: Gateway) -> list[str | None]:
    """Take every turn that there is; gives the images."""
    taken = []
    while claim := await turns.take_turn(gateway.database, LEASE, limit=1000):
        taken.append(claim.image_id)
    return taken


async def test_a_worker_that_comes_for_a_turn_gets_the_next_when_somebody_holds_the_first(gateway: Gateway) -> None:
    project = await gateway.project()
    first, second = [(await gateway.uploaded(projectId=project))["id"] for _ in range(2)]
    (job,) = [job for job in await open_jobs(gateway, JobKind.CONVERT) if job.image_id == first]
    async with row_held(gateway.database, Job, job.id), asyncio.timeout(20):
        taken = await all_turns(gateway)
        assert second in taken
        assert first not in taken
    assert await all_turns(gateway) == [first]


async def test_of_two_workers_that_hold_a_job_by_turns_only_the_later_can_end_it(
    gateway: Gateway, other: Database
) -> None:
    image = await gateway.uploaded()
    first, assignment = await gateway.begun(image["id"])
    await gateway.change(Job, first.job_id, lease_until=now() - LEASE)
    second = await gateway.claim(image["id"])
    lost, done = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: conversions.succeed(gateway.catalogue, first, assignment, outcome()),
        lambda: conversions.fail(replace(gateway.catalogue, database=other), second, assignment, FAILURE),
    )
    assert isinstance(lost, LeaseLost)
    assert done is None
    assert (await gateway.image(image["id"])).status == ImageStatus.ERROR
    assert await blob(gateway, assignment.result_id) is None


async def test_of_two_conversions_that_need_the_last_room_of_a_project_the_first_gets_it(
    gateway: Gateway, other: Database
) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, image_storage_limit=6 * MIB)
    both = []
    for _ in range(2):
        image = await gateway.uploaded(projectId=project)
        both.append((image["id"], *await gateway.begun(image["id"])))

    def ending(at: int, catalogue: Catalogue) -> Callable[[], Awaitable[Any]]:
        _, claim, assignment = both[at]
        made = outcome(stored_size=5 * MIB)
        return lambda: conversions.succeed(catalogue, claim, assignment, made)

    active, refused = await one_after_the_other(
        gateway.database,
        Project,
        project,
        ending(0, gateway.catalogue),
        ending(1, replace(gateway.catalogue, database=other)),
    )
    assert active is None
    assert isinstance(refused, ImageFailed)
    assert refused.code is FailureCode.QUOTA_EXCEEDED
    statuses = [(await gateway.image(image)).status for image, *_ in both]
    assert statuses == [ImageStatus.ACTIVE, ImageStatus.SAVING]


# ------------------------------------------------------------ a conversion that ends while its image is deleted


def succeeding(gateway: Gateway, claim: Claim[Any], assignment: Assignment) -> Callable[[], Awaitable[Any]]:
    return lambda: conversions.succeed(gateway.catalogue, claim, assignment, outcome())


def deleting(catalogue: Catalogue, image_id: str) -> Callable[[], Awaitable[Any]]:
    return lambda: deletion.delete_image(catalogue, VIEWER, image_id, None)


async def test_a_conversion_that_succeeds_after_its_image_was_deleted_comes_to_nothing(
    gateway: Gateway, other: Database
) -> None:
    image = await gateway.uploaded()
    claim, assignment = await gateway.begun(image["id"])
    deleted, succeeded = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        deleting(replace(gateway.catalogue, database=other), image["id"]),
        succeeding(gateway, claim, assignment),
    )
    assert deleted.row.id == image["id"]
    assert isinstance(succeeded, LeaseLost)
    assert await blob(gateway, assignment.result_id) is None
    assert (await gateway.events(image["id"]))[-1].kind == EventKind.DELETED


async def test_an_image_that_is_deleted_just_when_it_became_active_leaves_no_blob(
    gateway: Gateway, other: Database
) -> None:
    image = await gateway.uploaded()
    claim, assignment = await gateway.begun(image["id"])
    succeeded, deleted = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        succeeding(gateway, claim, assignment),
        deleting(replace(gateway.catalogue, database=other), image["id"]),
    )
    assert succeeded is None
    assert deleted.row.id == image["id"]
    assert await blob(gateway, assignment.result_id) is None
    assert await erasures(gateway, assignment.result_key) == 1
    assert [job for job in await gateway.all_jobs() if job.image_id == image["id"] and job.state != JobState.DONE] == []


async def test_a_blob_goes_when_the_last_two_images_that_name_it_are_deleted_at_once(
    gateway: Gateway, other: Database
) -> None:
    one = await gateway.active()
    blob_id = (await gateway.image(one["id"])).blob_id
    assert blob_id is not None
    (copy,) = await gateway.stock(gateway.alpha, {"status": ImageStatus.ACTIVE, "blob_id": blob_id})
    key = (await gateway.blob(one)).key
    await one_after_the_other(
        gateway.database,
        Blob,
        blob_id,
        deleting(gateway.catalogue, one["id"]),
        deleting(replace(gateway.catalogue, database=other), copy),
    )
    assert await blob(gateway, blob_id) is None
    assert await erasures(gateway, key) == 1


async def test_a_hash_that_comes_while_the_image_is_deleted_is_dropped(gateway: Gateway, other: Database) -> None:
    image = await gateway.active()
    claim = await gateway.claim(image["id"], JobKind.HASH)
    _, kept = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        deleting(replace(gateway.catalogue, database=other), image["id"]),
        lambda: findings.keep_hash(gateway.catalogue, claim, "0" * 64),
    )
    assert isinstance(kept, LeaseLost)
    assert (await gateway.events(image["id"]))[-1].kind == EventKind.DELETED


# ------------------------------------------------------------ everything at once


async def tried(act: Awaitable[Any]) -> None:
    """What users and workers are told when somebody else was faster; a deadlock would be something else."""
    try:
        await act
    except (UserMistake, LeaseLost):
        pass


async def convert(catalogue: Catalogue, image_id: str, chance: random.Random) -> None:
    """Do the conversion of an image as a worker does, well or badly."""
    async with catalogue.database.read() as session:
        query = select(Job.id).where(Job.image_id == image_id, Job.kind == JobKind.CONVERT)
        found = (await session.execute(query)).scalars().all()
    for job_id in found:
        claim = await claimed(catalogue.database, job_id, LEASE)
        assignment = await conversions.begin(catalogue, claim) if claim else None
        if claim is None or assignment is None:
            continue
        await jobs.renew(catalogue.database, claim, LEASE)
        if chance.random() < 0.5:
            await conversions.succeed(catalogue, claim, assignment, outcome())
        else:
            await conversions.fail(catalogue, claim, assignment, FAILURE)


async def test_many_concurrent_changes_of_images_never_deadlock_and_leave_nothing_behind(
    gateway: Gateway, other: Database
) -> None:
    chance = random.Random(4)
    made = [await gateway.uploaded(b"\1" * 1024) for _ in range(12)]

    def acts(image: dict[str, Any], catalogue: Catalogue) -> list[Awaitable[Any]]:
        upload_id, image_id = image["upload"]["id"], image["id"]
        name = ImagePatch({Aspect.NAME: {"name": str(chance.random()), "name_key": "n"}})
        return [
            uploads.complete_upload(catalogue, VIEWER, upload_id),
            uploads.abort_upload(catalogue, VIEWER, upload_id),
            uploads.retry_image(catalogue, VIEWER, image_id, None),
            images.update_image(catalogue, VIEWER, image_id, name, None),
            convert(catalogue, image_id, chance),
            convert(catalogue, image_id, chance),
            *([deletion.delete_image(catalogue, VIEWER, image_id, None)] if chance.random() < 0.2 else []),
        ]

    both = (gateway.catalogue, replace(gateway.catalogue, database=other))
    for _ in range(3):
        everything = [act for image in made for here in both for act in acts(image, here)]
        chance.shuffle(everything)
        await asyncio.gather(*(tried(act) for act in everything))
    for image in made:
        await _require_sense(gateway, image["id"])


async def _require_sense(gateway: Gateway, image_id: str) -> None:
    """The rows about an image fit each other, and its events tell how it became what it is."""
    image = await gateway.image(image_id)
    async with gateway.database.read() as session:
        upload = (await session.execute(select(Upload).where(Upload.image_id == image_id))).scalar_one()
        query = select(Event).where(Event.subject_id == image_id).order_by(col(Event.seq))
        events = (await session.execute(query)).scalars().all()
    stored = await blob(gateway, upload.source.result_id)
    status = ImageStatus.QUEUED
    for event in events:
        if event.kind == EventKind.STATUS_CHANGED:
            assert event.detail["before"] == status
            status = ImageStatus(event.detail["after"])
    assert (status, image.revision) == (image.status, len(events))
    assert (image.deleted_at is not None) == (events[-1].kind == EventKind.DELETED)
    assert (stored is not None) == (image.status == ImageStatus.ACTIVE and image.deleted_at is None)
    assert upload.source.kept == (image.status != ImageStatus.ACTIVE and image.deleted_at is None)
    if image.deleted_at is not None:
        assert image.reserved_size == 0
