"""Snapshots against deletions and promotions on PostgreSQL: the second to come finds what the first has done."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from app.catalog import creation, deletion
from app.catalog.catalogue import Catalogue
from app.catalog.new_images import NewPromotion, NewSnapshot
from app.catalog.servers import lost_captures, servers, settling
from app.catalog.snapshots import capturing, creating
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CaptureVolume
from app.database.sessions import Database
from app.errors import InUse, LeaseLost, NotFound, NotReady, UserMistake
from app.lifecycle import ImageStatus, JobKind, ServerStatus
from app.models import Blob, Capture, Image, Project, Server, Volume
from app.viewer import Viewer
from tests.app.conftest import NewDatabase, new_on_server
from tests.servers.postgresql import PostgreSQL
from tests.support.contention import one_after_the_other
from tests.support.gateway import ADMIN, LEASE, Gateway
from tests.support.host_bench import STORED, capture
from tests.support.serving_servers import (
    add_host,
    blob_or_none,
    boot_volume,
    image,
    jobs_of,
    launch,
    promote,
    remove_hosts,
)

pytestmark = pytest.mark.anyio

VIEWER = Viewer(subject=ADMIN)


@pytest.fixture(scope="module")
def new_database(postgresql: PostgreSQL) -> NewDatabase:
    return partial(new_on_server, postgresql)


@pytest.fixture
async def host(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A host of the test's own, which no one waits for."""
    monkeypatch.setattr(gateway.settings, "snapshot_seconds", 0.001)
    await remove_hosts(gateway)
    return await add_host(gateway, str(tmp_path))


@pytest.fixture
async def server(gateway: Gateway, host: str, project: str) -> dict[str, Any]:
    return await run(gateway, host, project)


async def run(gateway: Gateway, host: str, project: str) -> dict[str, Any]:
    """A server that runs."""
    made = await launch(gateway, project, (await image(gateway, project))["id"])
    claimed = await jobs.claim_of_host(gateway.database, host, LEASE)
    assert claimed is not None
    assert await settling.settled(gateway.catalogue, claimed, await settling.order_for(gateway.catalogue, claimed))
    await gateway.change(Server, made["id"], status=ServerStatus.RUNNING)
    return made


def elsewhere(gateway: Gateway, other: Database) -> Catalogue:
    return replace(gateway.catalogue, database=other)


def snapping(catalogue: Catalogue, volume_id: str) -> Callable[[], Awaitable[Any]]:
    return lambda: creating.create_snapshot(catalogue, VIEWER, NewSnapshot(volume_id=volume_id, name="nightly"))


def deleting(catalogue: Catalogue, image_id: str) -> Callable[[], Awaitable[Any]]:
    return lambda: deletion.delete_image(catalogue, VIEWER, image_id, None)


def promoting(catalogue: Catalogue, project: str, image_id: str) -> Callable[[], Awaitable[Any]]:
    new = NewPromotion(project_id=project, name="promoted", snapshot_id=image_id)
    return lambda: creation.create_image(catalogue, VIEWER, new)


async def begun(gateway: Gateway, host: str, volume_id: str) -> tuple[Image, Claim[CaptureVolume]]:
    """A capture that its host has begun."""
    made = (await snapping(gateway.catalogue, volume_id)()).row
    claimed = await jobs.claim_of_host(gateway.database, host, LEASE)
    assert claimed is not None
    assert claimed.image_id == made.id
    return made, claimed


async def stored(gateway: Gateway, host: str, volume_id: str) -> Image:
    """An ACTIVE snapshot."""
    made, claim = await begun(gateway, host, volume_id)
    await capture(gateway.catalogue, claim)
    return await gateway.image(made.id)


async def captures(gateway: Gateway, host: str) -> int:
    async with gateway.database.read() as session:
        return len((await session.execute(select(Capture).where(Capture.host_id == host))).all())


async def test_of_two_captures_at_once_one_is_made(
    gateway: Gateway, other: Database, host: str, project: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    first, second = await one_after_the_other(
        gateway.database,
        Project,
        project,
        snapping(gateway.catalogue, boot),
        snapping(elsewhere(gateway, other), boot),
    )
    assert first.row.status == ImageStatus.SAVING
    assert isinstance(second, NotReady)
    assert (len(await jobs_of(gateway, host)), await captures(gateway, host)) == (1, 1)


async def test_a_snapshot_that_is_deleted_just_when_it_is_promoted_is_in_use(
    gateway: Gateway, other: Database, host: str, project: str, server: dict[str, Any]
) -> None:
    made = await stored(gateway, host, await boot_volume(gateway, server))
    promoted, deleted = await one_after_the_other(
        gateway.database,
        Image,
        made.id,
        promoting(gateway.catalogue, project, made.id),
        deleting(elsewhere(gateway, other), made.id),
    )
    assert (promoted.row.status, promoted.row.blob_id) == (ImageStatus.ACTIVE, made.blob_id)
    assert isinstance(deleted, InUse)


async def test_a_snapshot_that_was_just_deleted_is_not_promoted(
    gateway: Gateway, other: Database, host: str, project: str, server: dict[str, Any]
) -> None:
    made = await stored(gateway, host, await boot_volume(gateway, server))
    deleted, promoted = await one_after_the_other(
        gateway.database,
        Image,
        made.id,
        deleting(elsewhere(gateway, other), made.id),
        promoting(gateway.catalogue, project, made.id),
    )
    assert deleted.row.id == made.id
    assert isinstance(promoted, NotFound)
    assert await blob_or_none(gateway, str(made.blob_id)) is None


async def test_a_capture_whose_image_was_just_deleted_stores_nothing(
    gateway: Gateway, other: Database, host: str, server: dict[str, Any]
) -> None:
    made, claim = await begun(gateway, host, await boot_volume(gateway, server))
    order = await capturing.order_for(gateway.catalogue, claim)
    assert order is not None
    deleted, succeeded = await one_after_the_other(
        gateway.database,
        Image,
        made.id,
        deleting(elsewhere(gateway, other), made.id),
        lambda: capturing.succeed(gateway.catalogue, claim, order, STORED),
    )
    assert deleted.row.id == made.id
    assert isinstance(succeeded, LeaseLost)
    again = await jobs.claim_of_host(gateway.database, host, LEASE)
    assert again is not None
    assert (again.job_id, await capturing.order_for(gateway.catalogue, again)) == (claim.job_id, None)
    await capture(gateway.catalogue, again)
    erasing = [job for job in await gateway.all_jobs() if job.kind == JobKind.ERASE]
    assert [job for job in erasing if order.key in str(job.detail)] != []


async def test_an_image_that_is_deleted_just_when_it_is_active_is_erased(
    gateway: Gateway, other: Database, host: str, server: dict[str, Any]
) -> None:
    made, claim = await begun(gateway, host, await boot_volume(gateway, server))
    order = await capturing.order_for(gateway.catalogue, claim)
    assert order is not None
    _, deleted = await one_after_the_other(
        gateway.database,
        Image,
        made.id,
        lambda: capturing.succeed(gateway.catalogue, claim, order, STORED),
        deleting(elsewhere(gateway, other), made.id),
    )
    assert deleted.row.id == made.id
    assert (len(await jobs_of(gateway, host)), await captures(gateway, host)) == (1, 0)
    async with gateway.database.read() as session:
        assert (await session.execute(select(Blob).where(Blob.key == order.key))).first() is None


async def test_a_volume_that_was_just_deleted_is_not_captured(
    gateway: Gateway, other: Database, host: str, server: dict[str, Any]
) -> None:
    boot = await boot_volume(gateway, server)
    deleted, snapped = await one_after_the_other(
        gateway.database,
        Volume,
        boot,
        lambda: servers.delete_server(elsewhere(gateway, other), VIEWER, server["id"], None),
        snapping(gateway.catalogue, boot),
    )
    assert deleted.row.id == server["id"]
    assert isinstance(snapped, NotFound)
    assert await captures(gateway, host) == 0


async def tried(act: Awaitable[Any]) -> None:
    """The errors for users and hosts when others were faster; a deadlock would be something else."""
    try:
        await act
    except (UserMistake, LeaseLost):
        pass


async def work(catalogue: Catalogue, host: str) -> None:
    """Do a job of the host."""
    claimed = await jobs.claim_of_host(catalogue.database, host, LEASE)
    if claimed is None:
        return
    if claimed.kind is JobKind.CAPTURE:
        return await capture(catalogue, claimed)
    while not await settling.settled(catalogue, claimed, await settling.order_for(catalogue, claimed)):
        pass


async def test_many_concurrent_changes_of_snapshots_never_deadlock_and_leave_nothing_behind(
    gateway: Gateway, other: Database, host: str, project: str
) -> None:
    chance = random.Random(7)
    await gateway.change(Project, project, snapshots_per_volume_limit=2)
    made = [await run(gateway, host, project) for _ in range(3)]
    boots = [await boot_volume(gateway, server) for server in made]
    old = [await stored(gateway, host, boot) for boot in boots for _ in range(2)]
    await promote(gateway, project, {"id": old[0].id})

    def acts(at: int, catalogue: Catalogue) -> list[Awaitable[Any]]:
        snapshot = chance.choice(old)
        return [
            snapping(catalogue, boots[at])(),
            work(catalogue, host),
            work(catalogue, host),
            promoting(catalogue, project, snapshot.id)(),
            deleting(catalogue, snapshot.id)(),
            lost_captures.lose(catalogue),
            *([servers.delete_server(catalogue, VIEWER, made[at]["id"], None)] if chance.random() < 0.2 else []),
        ]

    both = (gateway.catalogue, elsewhere(gateway, other))
    everything = [act for _ in range(3) for at in range(3) for here in both for act in acts(at, here)]
    chance.shuffle(everything)
    await asyncio.gather(*(tried(act) for act in everything))
    while await jobs_of(gateway, host):
        await work(gateway.catalogue, host)
    assert await captures(gateway, host) == 0
    async with gateway.database.read() as session:
        rows = (await session.execute(select(Image).where(Image.project_id == project))).scalars().all()
    assert all(row.status == ImageStatus.ACTIVE for row in rows if row.deleted_at is None)
    live = {row.id for row in rows if row.deleted_at is None}
    assert {row.source_image_id for row in rows if row.deleted_at is None and row.source_image_id} <= live
