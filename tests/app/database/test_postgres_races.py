"""Many processes that write at once on PostgreSQL: each outcome is one that they could have had one by one."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlmodel import col, select

from app.catalog import conversions, creation, deletion, images, members, uploads
from app.catalog.catalogue import Catalogue
from app.catalog.images import ImagePatch
from app.catalog.new_images import NewUpload
from app.catalog.people import tenancy
from app.catalog.uploads import UploadEnded, handle_of
from app.database.sessions import Database
from app.errors import (
    Conflict,
    DatabaseUnavailable,
    Forbidden,
    ImageFailed,
    PartsMissing,
    ProtectedImage,
    QuotaExceeded,
    StaleRevision,
    UserMistake,
)
from app.lifecycle import Aspect, EventKind, FailureCode, ImageStatus, JobKind, JobState, ProjectRole, UploadState
from app.models import Image, Job, Project, Upload
from app.sizes import MIB
from app.viewer import Viewer
from tests.app.conftest import NewDatabase, new_on_server
from tests.servers.postgresql import PostgreSQL
from tests.servers.relay import relay
from tests.support.contention import one_after_the_other
from tests.support.gateway import ADMIN, MORNING, Gateway

pytestmark = pytest.mark.anyio

VIEWER = Viewer(subject=ADMIN)


@pytest.fixture(scope="module")
def new_database(postgresql: PostgreSQL) -> NewDatabase:
    return partial(new_on_server, postgresql)


def beside(gateway: Gateway, database: Database) -> Catalogue:
    """The catalogue as a process with connections of its own has it."""
    return replace(gateway.catalogue, database=database)


async def jobs_of(gateway: Gateway, image_id: str) -> list[Job]:
    async with gateway.database.read() as session:
        query = select(Job).where(Job.image_id == image_id).order_by(col(Job.id))
        return list((await session.execute(query)).scalars())


# ------------------------------------------------------------ creating


async def make(catalogue: Catalogue, new: NewUpload) -> Image | UserMistake:
    try:
        return (await creation.create_image(catalogue, VIEWER, new)).row
    except UserMistake as mistake:
        return mistake


async def at_once(gateway: Gateway, other: Database, new: NewUpload, times: int) -> list[Image | UserMistake]:
    """The same creation from two processes, so many times in all."""
    both = [gateway.catalogue, beside(gateway, other)]
    return list(await asyncio.gather(*(make(both[at % 2], new) for at in range(times))))


@pytest.mark.parametrize(
    "limit", [{"custom_images_limit": 3}, {"image_storage_limit": 3 * MIB + MIB // 2}], ids=["images", "bytes"]
)
async def test_a_quota_is_never_overrun_however_many_create_at_once(
    gateway: Gateway, other: Database, limit: dict[str, int]
) -> None:
    project = await gateway.project()
    await gateway.change(Project, project, **limit)
    before = gateway.files()
    made = await at_once(gateway, other, NewUpload(project_id=project, name="disk", file_name="disk.raw", size=MIB), 16)
    assert Counter(type(one) for one in made) == {Image: 3, QuotaExceeded: 13}
    async with gateway.database.read() as session:
        rows = (await session.execute(select(Image.id).where(Image.project_id == project))).scalars().all()
    assert sorted(rows) == sorted(one.id for one in made if isinstance(one, Image))
    # Of those that were refused late nothing stays in the store.
    assert len([file for file in gateway.files() if file not in before]) <= 3 * 2


async def test_one_idempotency_key_makes_one_image_however_often_it_is_sent_at_once(
    gateway: Gateway, other: Database
) -> None:
    project = await gateway.project()
    new = NewUpload(project_id=project, name="disk", file_name="disk.raw", size=MIB, idempotency_key="once")
    made = await at_once(gateway, other, new, 12)
    assert len({one.id for one in made if isinstance(one, Image)}) == 1
    assert all(isinstance(one, Image) for one in made)
    async with gateway.database.read() as session:
        assert len((await session.execute(select(Image.id).where(Image.project_id == project))).all()) == 1
    different = await at_once(gateway, other, replace(new, name="another"), 4)
    assert [type(one) for one in different] == [Conflict] * 4


async def test_an_upload_stays_open_when_the_answer_to_its_commit_is_lost(
    gateway: Gateway, postgresql: PostgreSQL
) -> None:
    project = await gateway.project()
    new = NewUpload(project_id=project, name="disk", file_name="disk.raw", size=MIB, idempotency_key="once")
    url = make_url(gateway.settings.database_address)
    with relay(postgresql.port, lambda _: 0, begins=lambda piece: b"COMMIT;" in piece) as port:
        cut_off = Database(url.set(port=port).render_as_string(hide_password=False))
        with pytest.raises(DatabaseUnavailable):
            await creation.create_image(beside(gateway, cut_off), VIEWER, new)
        await cut_off.close()

    written = await creation.create_image(gateway.catalogue, VIEWER, new)

    assert written.position is None  # made by the first attempt
    async with gateway.database.read() as session:
        upload = (await uploads.open_uploads_of(session, [written.row.id]))[written.row.id]
    # A PartsMissing tells that the store knows the upload.
    with pytest.raises(PartsMissing):
        await gateway.store.seal_upload(handle_of(upload))


# ------------------------------------------------------------ members


async def test_an_admin_who_is_removed_while_waiting_does_nothing_any_more(gateway: Gateway, other: Database) -> None:
    """A third admin is there, so that nobody is the last one."""
    project = await gateway.project()
    for subject in ("second", "third"):
        await members.set_member(gateway.catalogue, VIEWER, project, subject, ProjectRole.ADMIN)

    first, second = await one_after_the_other(
        gateway.database,
        Project,
        project,
        lambda: members.set_member(gateway.catalogue, VIEWER, project, "second", ProjectRole.MEMBER),
        lambda: members.remove_member(beside(gateway, other), Viewer("second"), project, ADMIN),
    )

    assert first.row.id == project
    assert isinstance(second, Forbidden)
    async with gateway.database.read() as session:
        assert await tenancy.role_in(session, VIEWER, project) == ProjectRole.ADMIN


# ------------------------------------------------------------ changing


async def test_of_two_changes_to_one_revision_one_is_refused(gateway: Gateway, other: Database) -> None:
    image = await gateway.create()

    def rename(catalogue: Catalogue, name: str) -> Callable[[], Awaitable[Any]]:
        patch = ImagePatch({Aspect.NAME: {"name": name, "name_key": name}})
        return lambda: images.update_image(catalogue, VIEWER, image["id"], patch, image["revision"])

    first, second = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        rename(gateway.catalogue, "first"),
        rename(beside(gateway, other), "second"),
    )
    assert first.row.name == "first"
    assert isinstance(second, StaleRevision)
    assert (await gateway.image(image["id"])).name == "first"
    assert len(await gateway.events(image["id"])) == 2


async def test_two_changes_of_different_fields_at_once_both_stay(gateway: Gateway, other: Database) -> None:
    image = await gateway.create()
    rename = ImagePatch({Aspect.NAME: {"name": "new", "name_key": "new"}})
    protect = ImagePatch({Aspect.PROTECTION: {"protected": True}})
    await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: images.update_image(gateway.catalogue, VIEWER, image["id"], rename, None),
        lambda: images.update_image(beside(gateway, other), VIEWER, image["id"], protect, None),
    )
    found = await gateway.image(image["id"])
    assert (found.name, found.protected, found.revision) == ("new", True, image["revision"] + 2)


async def test_an_image_that_is_protected_while_somebody_deletes_it_stays(gateway: Gateway, other: Database) -> None:
    image = await gateway.create()
    protect = ImagePatch({Aspect.PROTECTION: {"protected": True}})
    _, refused = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: images.update_image(gateway.catalogue, VIEWER, image["id"], protect, None),
        lambda: deletion.delete_image(beside(gateway, other), VIEWER, image["id"], None),
    )
    assert isinstance(refused, ProtectedImage)
    assert (await gateway.image(image["id"])).deleted_at is None


# ------------------------------------------------------------ the ends of an upload


async def sent(gateway: Gateway) -> dict[str, Any]:
    """An image whose bytes have arrived, and whose upload is open."""
    image = await gateway.create()
    await gateway.send(image, b"\1" * MIB)
    return image


async def test_an_upload_that_is_completed_twice_at_once_is_converted_once(gateway: Gateway, other: Database) -> None:
    image = await sent(gateway)
    results = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: uploads.complete_upload(gateway.catalogue, VIEWER, image["upload"]["id"]),
        lambda: uploads.complete_upload(beside(gateway, other), VIEWER, image["upload"]["id"]),
    )
    assert [written.position is None for written in results] == [False, True]
    assert [job.kind for job in await jobs_of(gateway, image["id"])].count(JobKind.CONVERT) == 1


async def test_of_abort_and_complete_at_once_the_first_one_holds(gateway: Gateway, other: Database) -> None:
    image = await sent(gateway)
    aborted, completed = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: uploads.abort_upload(gateway.catalogue, VIEWER, image["upload"]["id"]),
        lambda: uploads.complete_upload(beside(gateway, other), VIEWER, image["upload"]["id"]),
    )
    assert aborted.row.status == ImageStatus.ERROR
    assert isinstance(completed, Conflict)
    assert JobKind.CONVERT not in [job.kind for job in await jobs_of(gateway, image["id"])]


async def test_of_complete_and_abort_at_once_the_first_one_holds(gateway: Gateway, other: Database) -> None:
    image = await sent(gateway)
    _, aborted = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: uploads.complete_upload(beside(gateway, other), VIEWER, image["upload"]["id"]),
        lambda: uploads.abort_upload(gateway.catalogue, VIEWER, image["upload"]["id"]),
    )
    assert isinstance(aborted, Conflict)
    assert (await gateway.upload(image["upload"]["id"])).state == UploadState.COMPLETED
    assert (await gateway.image(image["id"])).status == ImageStatus.QUEUED


async def test_of_refusal_and_completion_at_once_the_first_one_holds(gateway: Gateway, other: Database) -> None:
    image = await sent(gateway)
    claim = await gateway.claim(image["id"], JobKind.INSPECT_HEAD)
    failure = ImageFailed(FailureCode.FORMAT_MISMATCH, "It is gzip.", "Unpack it.")
    _, completed = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: conversions.refuse_early(gateway.catalogue, claim, failure),
        lambda: uploads.complete_upload(beside(gateway, other), VIEWER, image["upload"]["id"]),
    )
    assert isinstance(completed, UploadEnded)
    assert (completed.message, completed.hint) == ("It is gzip.", "Unpack it.")
    assert (completed.image.id, completed.image.status) == (image["id"], ImageStatus.ERROR)
    assert (await gateway.upload(image["upload"]["id"])).state == UploadState.REFUSED


async def test_an_upload_that_expires_in_two_processes_ends_once(gateway: Gateway, other: Database) -> None:
    image = await gateway.create()
    await gateway.change(Upload, image["upload"]["id"], created_at=MORNING, expires_at=MORNING)
    results = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: uploads.sweep(gateway.catalogue),
        lambda: uploads.sweep(beside(gateway, other)),
    )
    assert results == [None, None]
    moves = [event for event in await gateway.events(image["id"]) if event.kind == EventKind.STATUS_CHANGED]
    assert [event.detail["after"] for event in moves] == [ImageStatus.ERROR]


async def test_of_two_retries_at_once_one_starts_a_job(gateway: Gateway, other: Database) -> None:
    image = await gateway.failed()
    _, refused = await one_after_the_other(
        gateway.database,
        Image,
        image["id"],
        lambda: uploads.retry_image(gateway.catalogue, VIEWER, image["id"], None),
        lambda: uploads.retry_image(beside(gateway, other), VIEWER, image["id"], None),
    )
    assert isinstance(refused, Conflict)
    states = Counter(job.state for job in await jobs_of(gateway, image["id"]) if job.kind == JobKind.CONVERT)
    assert states == {JobState.DONE: 1, JobState.WAITING: 1}
