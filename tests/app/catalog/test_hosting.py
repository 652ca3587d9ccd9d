"""The jobs of a host: servers become what users want, and nothing is left behind, wherever the host is interrupted."""

import asyncio
import errno
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from app.catalog.servers import watching
from app.errors import StoreUnavailable
from app.lifecycle import JobKind, JobState, ServerFailureCode, ServerGoal, ServerStatus
from app.models import Blob, Host, Server, now
from app.sizes import GIB
from tests.support.gateway import Gateway
from tests.support.host_bench import Bench, host_bench
from tests.support.serving_servers import (
    CONTENT,
    KEY,
    add_host,
    blob_or_none,
    image,
    launch,
    refused,
    server_row,
    volume,
    volume_row,
    volume_rows,
)
from tests.support.sharing import done
from workers.hypervisor.port import HypervisorUnavailable, VolumeInUse

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(gateway: Gateway, tmp_path: Path) -> AsyncIterator[Bench]:
    async with host_bench(gateway, tmp_path) as made:
        yield made


@pytest.fixture
async def disk(gateway: Gateway, project: str) -> dict[str, Any]:
    return await image(gateway, project)


RUNNING = (ServerStatus.RUNNING, ServerGoal.RUNNING)
STOPPED = (ServerStatus.STOPPED, ServerGoal.STOPPED)


async def test_a_launched_server_runs_from_an_overlay_over_the_verified_base(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    data = await volume(bench.gateway, project, sizeGib=3)
    server = await launch(
        bench.gateway, project, disk["id"], name="Web Server!", vcpus=2, memoryMib=256, bootDiskGib=9, sshKeys=[KEY],
        userData="#!/bin/sh\n", dataVolumeIds=[data["id"]],
    )  # fmt: skip
    await bench.work()
    assert await bench.status(server) == RUNNING
    machine = bench.hypervisor.machines[server["id"]]
    boot, attached = await volume_rows(bench.gateway, server["id"])
    assert (machine.vcpus, machine.memory, machine.volumes) == (2, 256 << 20, [boot.id, attached.id])
    assert (machine.seed.host_name, machine.seed.ssh_keys, machine.seed.user_data) == (
        "web-server", [KEY], "#!/bin/sh\n",
    )  # fmt: skip
    assert machine.seed.instance_id == (await server_row(bench.gateway, server["id"])).instance_id
    base = bench.hypervisor.disks[boot.id].base
    assert base is not None
    assert (bench.hypervisor.disks[boot.id].size, base.read_bytes(), base.stat().st_mode & 0o777) == (
        9 * GIB, CONTENT, 0o444,
    )  # fmt: skip
    assert (bench.hypervisor.disks[attached.id].size, bench.hypervisor.disks[attached.id].base) == (3 * GIB, None)
    assert await bench.unfinished() == []


async def test_servers_of_an_image_share_one_base(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    for _ in range(3):
        await launch(bench.gateway, project, disk["id"])
    await bench.work()
    assert len({spec.base for spec in bench.hypervisor.disks.values()}) == 1
    assert len(bench.fetched()) == 1


async def test_a_server_is_stopped_and_started_with_the_same_disks(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    await bench.work()
    before = dict(bench.hypervisor.disks)
    await done(bench.gateway, "stopServer", serverId=server["id"])
    assert (await bench.status(server))[0] == ServerStatus.RUNNING
    await bench.work()
    assert await bench.status(server) == STOPPED
    assert bench.hypervisor.running == set()
    await done(bench.gateway, "startServer", serverId=server["id"])
    await bench.work()
    assert await bench.status(server) == RUNNING
    assert bench.hypervisor.disks == before


async def test_a_deleted_server_leaves_its_data_volumes_and_nothing_else(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    data = await volume(bench.gateway, project)
    server = await launch(bench.gateway, project, disk["id"], dataVolumeIds=[data["id"]])
    await bench.work()
    await done(bench.gateway, "deleteServer", serverId=server["id"])
    await bench.work()
    assert (bench.hypervisor.machines, set(bench.hypervisor.disks)) == ({}, {data["id"]})
    row = await volume_row(bench.gateway, data["id"])
    assert (row.server_id, row.host_id) == (None, bench.host_id)
    again = await launch(bench.gateway, project, disk["id"], dataVolumeIds=[data["id"]])
    await bench.work()
    assert await bench.status(again) == RUNNING
    await done(bench.gateway, "deleteServer", serverId=again["id"])
    await bench.work()
    await done(bench.gateway, "deleteVolume", volumeId=data["id"])
    await bench.work()
    assert bench.hypervisor.disks == {}
    assert (await volume_row(bench.gateway, data["id"])).host_id is None
    assert await bench.unfinished() == []


async def test_the_bytes_of_a_deleted_image_are_erased_with_the_last_disk(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    blob = await bench.gateway.blob(disk)
    servers = [await launch(bench.gateway, project, disk["id"]) for _ in range(2)]
    await bench.work()
    await bench.gateway.mutate("deleteImage", {"imageId": disk["id"]})
    for server in servers:
        assert await blob_or_none(bench.gateway, blob.id) is not None
        await done(bench.gateway, "deleteServer", serverId=server["id"])
        assert await blob_or_none(bench.gateway, blob.id) is not None
        await bench.work()
    assert await blob_or_none(bench.gateway, blob.id) is None
    erasing = [job for job in await bench.gateway.all_jobs() if job.kind == JobKind.ERASE]
    assert [job for job in erasing if blob.key in str(job.detail)] != []


async def test_the_bytes_of_an_image_outlive_its_servers(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    blob = await bench.gateway.blob(disk)
    server = await launch(bench.gateway, project, disk["id"])
    await bench.work()
    await done(bench.gateway, "deleteServer", serverId=server["id"])
    await bench.work()
    assert await blob_or_none(bench.gateway, blob.id) is not None


# ------------------------------------------------------------ interrupted

STEPS = {
    "launch": ["create_volume", "launch"],
    "stop": ["stop"],
    "delete": ["destroy", "delete_volume"],
}
POINTS = [(action, step) for action, steps in STEPS.items() for step in steps]


async def begin(bench: Bench, action: str, project: str, disk: dict[str, Any]) -> dict[str, Any]:
    """A server whose next job is an action."""
    server = await launch(bench.gateway, project, disk["id"])
    if action != "launch":
        await bench.work()
        await done(bench.gateway, f"{action}Server", serverId=server["id"])
    return server


async def assert_done(bench: Bench, action: str, server: dict[str, Any]) -> None:
    expected = {"launch": RUNNING, "stop": STOPPED}
    if action == "delete":
        assert (bench.hypervisor.machines, bench.hypervisor.disks) == ({}, {})
        assert await volume_rows(bench.gateway, server["id"]) != []
        assert all(row.base_id is None for row in await volume_rows(bench.gateway, server["id"]))
    else:
        assert await bench.status(server) == expected[action]
        assert len(bench.hypervisor.disks) == 1
    assert await bench.unfinished() == []


@pytest.mark.parametrize(("action", "step"), POINTS)
async def test_an_operation_that_fails_is_repeated(
    bench: Bench, project: str, disk: dict[str, Any], action: str, step: str
) -> None:
    server = await begin(bench, action, project, disk)
    bench.hypervisor.failing[step] = HypervisorUnavailable("it is away")
    await bench.work()
    (job,) = await bench.unfinished()
    assert (job.state, job.attempts) == (JobState.WAITING, 1)
    bench.hypervisor.failing.clear()
    await bench.due_now()
    await bench.work()
    await assert_done(bench, action, server)


@pytest.mark.parametrize(("action", "step"), POINTS)
async def test_a_process_that_stops_releases_its_job_to_the_next_one(
    bench: Bench, project: str, disk: dict[str, Any], action: str, step: str
) -> None:
    server = await begin(bench, action, project, disk)
    bench.hypervisor.hold(step)
    await bench.runner.take_due()
    await bench.hypervisor.reached[step].wait()
    await bench.runner.stop()
    (job,) = await bench.unfinished()
    assert (job.state, job.attempts) == (JobState.WAITING, 0)
    bench.hypervisor.held.clear()
    bench.restarted()
    await bench.work()
    await assert_done(bench, action, server)


@pytest.mark.parametrize(("action", "step"), POINTS)
async def test_a_lost_lease_interrupts_the_job_and_the_next_claim_finishes_it(
    bench: Bench, project: str, disk: dict[str, Any], action: str, step: str
) -> None:
    server = await begin(bench, action, project, disk)
    bench.hypervisor.hold(step)
    await bench.runner.take_due()
    await bench.hypervisor.reached[step].wait()
    await bench.due_now()
    # The same job is claimed again, while the first claim still acts on the server.
    await bench.runner.take_due()
    held = bench.hypervisor.held.pop(step)
    held.set()
    await bench.runner.idle()
    await bench.due_now()
    await bench.work()
    await assert_done(bench, action, server)
    row = await server_row(bench.gateway, server["id"])
    (job,) = [job for job in await bench.gateway.all_jobs() if job.id == row.job_id]
    assert (job.state, job.token >= 2) == (JobState.DONE, True)


@pytest.mark.parametrize("step", STEPS["launch"])
async def test_a_server_that_is_deleted_while_it_starts_leaves_nothing_behind(
    bench: Bench, project: str, disk: dict[str, Any], step: str
) -> None:
    server = await begin(bench, "launch", project, disk)
    bench.hypervisor.hold(step)
    await bench.runner.take_due()
    await bench.hypervisor.reached[step].wait()
    await done(bench.gateway, "deleteServer", serverId=server["id"])
    bench.hypervisor.held.pop(step).set()
    await bench.runner.idle()
    await assert_done(bench, "delete", server)


async def test_a_server_that_is_stopped_while_it_starts_is_stopped_by_the_same_job(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await begin(bench, "launch", project, disk)
    bench.hypervisor.hold("launch")
    await bench.runner.take_due()
    await bench.hypervisor.reached["launch"].wait()
    await done(bench.gateway, "stopServer", serverId=server["id"])
    bench.hypervisor.held.pop("launch").set()
    await bench.runner.idle()
    assert await bench.status(server) == STOPPED
    assert await bench.unfinished() == []


# ------------------------------------------------------------ what fails


async def fail(bench: Bench) -> None:
    """Let the job fail as often as it is attempted."""
    for _ in range(bench.gateway.settings.job_attempts):
        await bench.due_now()
        await bench.work()


async def test_a_hypervisor_that_does_not_start_a_server_sets_it_to_error_until_it_is_started_again(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    bench.hypervisor.failing["launch"] = HypervisorUnavailable("/secret/path")
    await fail(bench)
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.goal) == (ServerStatus.ERROR, ServerGoal.STOPPED)
    assert row.failure_code == ServerFailureCode.HYPERVISOR_UNAVAILABLE
    assert "secret" not in str(row.failure_message)
    assert await bench.unfinished() == []
    bench.hypervisor.failing.clear()
    await done(bench.gateway, "startServer", serverId=server["id"])
    await bench.work()
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.failure_code, row.failed_at) == (ServerStatus.RUNNING, None, None)


async def test_a_full_host_sets_a_server_to_error_that_says_so(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    bench.hypervisor.failing["create_volume"] = OSError(errno.ENOSPC, "/secret is full")
    await fail(bench)
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.failure_code) == (ServerStatus.ERROR, ServerFailureCode.HOST_FULL)


async def test_a_server_does_not_wait_forever_for_an_image_that_is_not_verified(bench: Bench, project: str) -> None:
    made = await bench.gateway.active(CONTENT, projectId=project)
    server = await launch(bench.gateway, project, made["id"])
    await bench.work()
    assert (await bench.status(server))[0] == ServerStatus.STARTING
    await bench.gateway.change(Server, server["id"], updated_at=now() - timedelta(hours=2))
    await bench.due_now()
    await bench.work()
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.failure_code) == (ServerStatus.ERROR, ServerFailureCode.IMAGE_UNAVAILABLE)
    assert row.failure_message == "The image has not been verified yet."
    assert await bench.unfinished() == []


async def test_a_server_waits_for_a_volume_that_is_in_use_and_not_forever(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    bench.hypervisor.failing["launch"] = VolumeInUse("it has a point")
    await bench.work()
    assert (await bench.status(server))[0] == ServerStatus.STARTING
    (job,) = await bench.unfinished()
    assert job.attempts == 0
    await bench.gateway.change(Server, server["id"], updated_at=now() - timedelta(hours=2))
    await bench.due_now()
    await bench.work()
    assert (await server_row(bench.gateway, server["id"])).failure_code == ServerFailureCode.VOLUME_IN_USE


async def test_a_server_that_can_not_be_stopped_is_tried_again_and_again(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await begin(bench, "stop", project, disk)
    bench.hypervisor.failing["stop"] = HypervisorUnavailable("away")
    await fail(bench)
    assert (await bench.status(server))[0] == ServerStatus.RUNNING
    (job,) = await bench.unfinished()
    assert job.attempts == bench.gateway.settings.job_attempts
    bench.hypervisor.failing.clear()
    await bench.due_now()
    await bench.work()
    await assert_done(bench, "stop", server)


async def test_a_base_whose_bytes_differ_is_not_used(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    blob = await bench.gateway.blob(disk)
    path = bench.gateway.store.path(blob.key)
    path.chmod(0o644)
    path.write_bytes(b"\2" * len(CONTENT))
    await fail(bench)
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.failure_code) == (ServerStatus.ERROR, ServerFailureCode.IMAGE_UNAVAILABLE)
    assert bench.hypervisor.disks == {}
    assert bench.fetched() == []


async def test_a_base_that_is_not_hashed_yet_costs_no_attempt(bench: Bench, project: str) -> None:
    made = await bench.gateway.active(CONTENT, projectId=project)
    server = await launch(bench.gateway, project, made["id"])
    await bench.work()
    (job,) = await bench.unfinished()
    assert (job.state, job.attempts) == (JobState.WAITING, 0)
    blob = await bench.gateway.blob(made)
    await bench.gateway.change(Blob, blob.id, sha256=hashlib.sha256(CONTENT).hexdigest())
    await bench.due_now()
    await bench.work()
    assert await bench.status(server) == RUNNING


async def test_a_store_that_is_away_is_a_failure_of_the_image(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    @asynccontextmanager
    async def away(_base: object) -> AsyncIterator[Path]:
        raise StoreUnavailable("away")
        yield Path()

    bench.restarted(away)
    server = await launch(bench.gateway, project, disk["id"])
    await fail(bench)
    row = await server_row(bench.gateway, server["id"])
    assert row.failure_code == ServerFailureCode.IMAGE_UNAVAILABLE


async def test_a_host_does_only_its_own_jobs(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    other = await add_host(bench.gateway, f"other {bench.host_id}", memory=2048 * GIB)
    server = await launch(bench.gateway, project, disk["id"])
    assert (await server_row(bench.gateway, server["id"])).host_id == other
    await bench.work()
    assert await bench.status(server) == (ServerStatus.STARTING, ServerGoal.RUNNING)
    assert bench.hypervisor.done == []


# ------------------------------------------------------------ what ends by itself


async def test_a_server_whose_guest_powered_off_is_stopped(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    servers = [await launch(bench.gateway, project, disk["id"]) for _ in range(2)]
    await bench.work()
    bench.hypervisor.crash(servers[0]["id"])
    await bench.sweep()
    assert await bench.status(servers[0]) == STOPPED
    assert await bench.status(servers[1]) == RUNNING


async def test_servers_that_ended_with_their_machine_are_stopped(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    await bench.work()
    bench.hypervisor.restart()
    await bench.sweep()
    assert await bench.status(server) == STOPPED


async def test_a_server_that_is_being_started_is_not_taken_for_one_that_ended(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    await bench.sweep()
    assert await bench.status(server) == (ServerStatus.STARTING, ServerGoal.RUNNING)
    await bench.work()
    thought = await watching.thought_to_run(bench.gateway.database, bench.host_id)
    revision = thought[server["id"]]
    await done(bench.gateway, "stopServer", serverId=server["id"])
    await done(bench.gateway, "startServer", serverId=server["id"])
    assert not await watching.found(bench.gateway.database, server["id"], revision, running=False)
    await bench.work()
    assert await bench.status(server) == RUNNING


async def test_servers_of_a_host_that_is_gone_are_in_error_until_it_is_back(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    servers = [await launch(bench.gateway, project, disk["id"]) for _ in range(2)]
    await bench.work()
    starting = await launch(bench.gateway, project, disk["id"])
    await bench.gateway.change(Host, bench.host_id, seen_at=now() - timedelta(hours=1))
    await watching.lose_servers(bench.gateway.catalogue)
    for server in (*servers, starting):
        row = await server_row(bench.gateway, server["id"])
        assert (row.status, row.goal) == (ServerStatus.ERROR, ServerGoal.RUNNING)
        assert row.failure_code == ServerFailureCode.HOST_UNAVAILABLE
    bench.hypervisor.crash(servers[1]["id"])
    await bench.sweep()
    assert await bench.status(servers[0]) == RUNNING
    assert await bench.status(servers[1]) == STOPPED
    await bench.work()
    assert await bench.status(starting) == RUNNING
    await watching.lose_servers(bench.gateway.catalogue)
    assert await bench.status(servers[0]) == RUNNING


async def test_a_server_that_is_to_be_stopped_is_in_error_as_long_as_its_host_is_gone(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    await bench.work()
    await done(bench.gateway, "stopServer", serverId=server["id"])
    await bench.gateway.change(Host, bench.host_id, seen_at=now() - timedelta(hours=1))
    await watching.lose_servers(bench.gateway.catalogue)
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.goal, row.failure_code) == (
        ServerStatus.ERROR, ServerGoal.STOPPED, ServerFailureCode.HOST_UNAVAILABLE,
    )  # fmt: skip
    await bench.sweep()
    await bench.work()
    row = await server_row(bench.gateway, server["id"])
    assert (row.status, row.failure_code) == (ServerStatus.STOPPED, None)
    assert bench.hypervisor.running == set()


async def test_a_server_is_stopped_and_not_started_while_its_host_is_gone(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    await bench.work()
    await bench.gateway.change(Host, bench.host_id, seen_at=now() - timedelta(hours=1))
    await watching.lose_servers(bench.gateway.catalogue)
    mistake = await refused(bench.gateway, "startServer", serverId=server["id"])
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["serverId"])
    await done(bench.gateway, "stopServer", serverId=server["id"])
    assert await bench.status(server) == (ServerStatus.ERROR, ServerGoal.STOPPED)
    await bench.sweep()
    assert await bench.status(server) == (ServerStatus.ERROR, ServerGoal.STOPPED)
    await bench.work()
    assert await bench.status(server) == STOPPED


async def test_a_host_whose_hypervisor_is_away_does_not_report(bench: Bench) -> None:
    await bench.gateway.change(Host, bench.host_id, seen_at=now() - timedelta(hours=1))
    bench.hypervisor.failing["servers"] = HypervisorUnavailable("away")
    with pytest.raises(HypervisorUnavailable):
        await bench.sweep()
    async with bench.gateway.database.read() as session:
        assert (await session.get_one(Host, bench.host_id)).seen_at < now() - timedelta(minutes=50)


async def test_a_running_server_is_not_changed_by_a_sweep(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    server = await launch(bench.gateway, project, disk["id"])
    await bench.work()
    before = await server_row(bench.gateway, server["id"])
    await bench.sweep()
    assert await server_row(bench.gateway, server["id"]) == before
    assert isinstance(before, Server)


async def test_the_runner_works_until_it_is_stopped(bench: Bench, project: str, disk: dict[str, Any]) -> None:
    running = asyncio.create_task(bench.runner.run())
    woken: list[bool] = []

    async def listen() -> None:
        async for _ in bench.gateway.bells.listen(bench.host_id):
            woken.append(True)
            bench.runner.wake()

    listening = asyncio.create_task(listen())
    server = await launch(bench.gateway, project, disk["id"])
    async with asyncio.timeout(30):
        while await bench.status(server) != RUNNING:  # noqa: ASYNC110 (it is another task that changes it)
            await asyncio.sleep(0.01)
    listening.cancel()
    await bench.runner.stop()
    await running
    assert woken
