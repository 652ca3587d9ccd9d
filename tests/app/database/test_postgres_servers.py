"""Servers against images and hosts on PostgreSQL: the second to come finds what the first has done."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.catalog import deletion
from app.catalog.catalogue import Catalogue
from app.catalog.servers import servers, settling
from app.catalog.servers.requests import NewServer
from app.catalog.work import jobs
from app.database.sessions import Database
from app.errors import LeaseLost, NotFound, UserMistake
from app.lifecycle import JobKind, JobState, ServerGoal, ServerStatus
from app.models import Blob, Image, Server
from app.viewer import Viewer
from tests.app.conftest import NewDatabase, new_on_server
from tests.servers.postgresql import PostgreSQL
from tests.support.contention import one_after_the_other
from tests.support.gateway import ADMIN, LEASE, Gateway
from tests.support.serving_servers import (
    add_host,
    blob_or_none,
    image,
    jobs_of,
    launch,
    remove_hosts,
    server_row,
    volume_rows,
)
from tests.support.sharing import done

pytestmark = pytest.mark.anyio

VIEWER = Viewer(subject=ADMIN)


@pytest.fixture(scope="module")
def new_database(postgresql: PostgreSQL) -> NewDatabase:
    return partial(new_on_server, postgresql)


@pytest.fixture
async def host(gateway: Gateway, tmp_path: Path) -> str:
    """A host of the test's own: others have jobs that are not done."""
    await remove_hosts(gateway)
    return await add_host(gateway, str(tmp_path))


@pytest.fixture
async def disk(gateway: Gateway, project: str) -> dict[str, Any]:
    return await image(gateway, project)


def launching(catalogue: Catalogue, project: str, image_id: str) -> Callable[[], Awaitable[Any]]:
    return lambda: servers.launch_server(
        catalogue, VIEWER, NewServer(project_id=project, image_id=image_id, name="web")
    )


def deleting(catalogue: Catalogue, image_id: str) -> Callable[[], Awaitable[Any]]:
    return lambda: deletion.delete_image(catalogue, VIEWER, image_id, None)


async def claim(gateway: Gateway, host: str) -> Any:
    found = await jobs.claim_of_host(gateway.database, host, LEASE)
    assert found is not None
    return found


async def erasures(gateway: Gateway, key: str) -> int:
    return sum(job.kind == JobKind.ERASE and key in str(job.detail) for job in await gateway.all_jobs())


async def test_an_image_that_is_deleted_just_when_it_is_launched_keeps_its_bytes_for_the_server(
    gateway: Gateway, other: Database, host: str, project: str, disk: dict[str, Any]
) -> None:
    blob = await gateway.blob(disk)
    launched, deleted = await one_after_the_other(
        gateway.database,
        Image,
        disk["id"],
        launching(gateway.catalogue, project, disk["id"]),
        deleting(replace(gateway.catalogue, database=other), disk["id"]),
    )
    assert deleted.row.id == disk["id"]
    (boot,) = await volume_rows(gateway, launched.row.id)
    assert boot.base_id == blob.id
    assert await blob_or_none(gateway, blob.id) is not None
    assert await erasures(gateway, blob.key) == 0


async def test_an_image_that_was_just_deleted_is_not_launched(
    gateway: Gateway, other: Database, host: str, project: str, disk: dict[str, Any]
) -> None:
    deleted, launched = await one_after_the_other(
        gateway.database,
        Image,
        disk["id"],
        deleting(replace(gateway.catalogue, database=other), disk["id"]),
        launching(gateway.catalogue, project, disk["id"]),
    )
    assert deleted.row.id == disk["id"]
    assert isinstance(launched, NotFound)
    assert await jobs_of(gateway, host) == []


async def test_bytes_are_erased_once_when_image_and_disk_go_at_once(
    gateway: Gateway, other: Database, host: str, project: str, disk: dict[str, Any]
) -> None:
    blob = await gateway.blob(disk)
    server = await launch(gateway, project, disk["id"])
    await done(gateway, "deleteServer", serverId=server["id"])
    claimed = await claim(gateway, host)
    order = await settling.order_for(gateway.catalogue, claimed)
    deleted, settled = await one_after_the_other(
        gateway.database,
        Blob,
        blob.id,
        deleting(replace(gateway.catalogue, database=other), disk["id"]),
        lambda: settling.settled(gateway.catalogue, claimed, order),
    )
    assert (deleted.row.id, settled) == (disk["id"], True)
    assert await blob_or_none(gateway, blob.id) is None
    assert await erasures(gateway, blob.key) == 1


async def test_a_job_that_ends_just_when_the_server_is_stopped_looks_again(
    gateway: Gateway, other: Database, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    claimed = await claim(gateway, host)
    order = await settling.order_for(gateway.catalogue, claimed)
    elsewhere = replace(gateway.catalogue, database=other)
    stopped, settled = await one_after_the_other(
        gateway.database,
        Server,
        server["id"],
        lambda: servers.stop_server(elsewhere, VIEWER, server["id"], None),
        lambda: settling.settled(gateway.catalogue, claimed, order),
    )
    assert (stopped.row.goal, settled) == (ServerGoal.STOPPED, False)
    (job,) = await jobs_of(gateway, host)
    assert (job.id, job.state) == (claimed.job_id, JobState.RUNNING)


async def test_a_server_that_is_stopped_just_after_its_job_ended_gets_another(
    gateway: Gateway, other: Database, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    claimed = await claim(gateway, host)
    order = await settling.order_for(gateway.catalogue, claimed)
    elsewhere = replace(gateway.catalogue, database=other)
    settled, stopped = await one_after_the_other(
        gateway.database,
        Server,
        server["id"],
        lambda: settling.settled(gateway.catalogue, claimed, order),
        lambda: servers.stop_server(elsewhere, VIEWER, server["id"], None),
    )
    assert (settled, stopped.row.status) == (True, ServerStatus.RUNNING)
    (job,) = await jobs_of(gateway, host)
    assert (job.id != claimed.job_id, job.state) == (True, JobState.WAITING)


async def tried(act: Awaitable[Any]) -> None:
    """The errors for users and hosts when others were faster; a deadlock would be something else."""
    try:
        await act
    except (UserMistake, LeaseLost):
        pass


async def settle(catalogue: Catalogue, host: str) -> None:
    """Do a job of the host, without a hypervisor."""
    claimed = await jobs.claim_of_host(catalogue.database, host, LEASE)
    if claimed is None or claimed.kind is not JobKind.SETTLE_SERVER:
        return
    while not await settling.settled(catalogue, claimed, await settling.order_for(catalogue, claimed)):
        pass


async def test_many_concurrent_changes_of_servers_never_deadlock_and_leave_nothing_behind(
    gateway: Gateway, other: Database, host: str, project: str
) -> None:
    chance = random.Random(5)
    disks = [await image(gateway, project) for _ in range(3)]
    made = [await launch(gateway, project, chance.choice(disks)["id"]) for _ in range(8)]

    def acts(server: dict[str, Any], catalogue: Catalogue) -> list[Awaitable[Any]]:
        id_ = server["id"]
        return [
            servers.stop_server(catalogue, VIEWER, id_, None),
            servers.start_server(catalogue, VIEWER, id_, None),
            settle(catalogue, host),
            settle(catalogue, host),
            launching(catalogue, project, chance.choice(disks)["id"])(),
            *([servers.delete_server(catalogue, VIEWER, id_, None)] if chance.random() < 0.3 else []),
        ]

    both = (gateway.catalogue, replace(gateway.catalogue, database=other))
    everything = [act for server in made for here in both for act in acts(server, here)]
    everything += [deletion.delete_image(gateway.catalogue, VIEWER, disks[0]["id"], None)]
    chance.shuffle(everything)
    await asyncio.gather(*(tried(act) for act in everything))
    while await jobs_of(gateway, host):
        await settle(gateway.catalogue, host)
    for server in made:
        row = await server_row(gateway, server["id"])
        if row.deleted_at is None:
            assert row.status.value == row.goal.value
        else:
            assert all(volume.base_id is None for volume in await volume_rows(gateway, row.id))
