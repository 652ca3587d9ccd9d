"""The job of a host that captures a volume: wherever it is interrupted, it stores the bytes of one moment, or none."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from app.catalog import conversions
from app.catalog.fsck import Fsck
from app.catalog.quotas import quota_of
from app.catalog.servers import forgetting, lost_captures
from app.errors import StoreUnavailable
from app.lifecycle import FailureCode, ImageStatus, ImageType, JobKind
from app.models import Capture, Host, Image, Job, Project, StorageEntry, now
from tests.support.gateway import Gateway, until
from tests.support.host_bench import Bench, host_bench
from tests.support.memory_hypervisor import BLOCK
from tests.support.serving_servers import (
    blob_or_none,
    boot_volume,
    image,
    launch,
    refused,
    snapshot,
    volume,
    volume_row,
)
from tests.support.sharing import done
from workers.capture.task import CaptureTask
from workers.hypervisor.port import HypervisorUnavailable
from workers.jobs.converters import owner_of

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench(gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    # The host works when the test says so, and nobody waits for it. An attempt that fails takes long to log.
    monkeypatch.setattr(gateway.settings, "snapshot_seconds", 0.001)
    monkeypatch.setattr(gateway.settings, "job_attempts", 2)
    async with host_bench(gateway, tmp_path) as bench:
        yield bench


@pytest.fixture
async def disk(gateway: Gateway, project: str) -> dict[str, Any]:
    return await image(gateway, project)


@pytest.fixture
async def server(bench: Bench, gateway: Gateway, project: str, disk: dict[str, Any]) -> dict[str, Any]:
    """A server that runs, and whose guest has written a block."""
    made = await launch(gateway, project, disk["id"])
    await bench.work()
    bench.write(await boot_volume(gateway, made), b"first")
    return made


async def begun(bench: Bench, server: dict[str, Any]) -> dict[str, Any]:
    """A snapshot that its host has yet to take."""
    made = await snapshot(bench.gateway, await boot_volume(bench.gateway, server))
    assert made["source"] == {"capturedAt": None}
    return made


async def content(gateway: Gateway, image: dict[str, Any]) -> bytes:
    return gateway.store.path((await gateway.blob(image)).key).read_bytes()


async def key_of(gateway: Gateway, image: dict[str, Any]) -> str:
    (job,) = [job for job in await gateway.all_jobs() if job.image_id == image["id"] and job.kind == JobKind.CAPTURE]
    return str(job.detail["key"])


async def erased(gateway: Gateway, key: str) -> bool:
    """Whether a job erases an object."""
    return any(job.kind == JobKind.ERASE and key in str(job.detail) for job in await gateway.all_jobs())


async def assert_active(bench: Bench, image: dict[str, Any], expected: bytes) -> None:
    row = await bench.gateway.image(image["id"])
    assert (row.status, row.type, row.captured_at is None) == (ImageStatus.ACTIVE, ImageType.SNAPSHOT, False)
    assert (await content(bench.gateway, image)).startswith(expected)
    assert not await erased(bench.gateway, await key_of(bench.gateway, image))
    await assert_over(bench)


async def assert_failed(bench: Bench, image: dict[str, Any], code: FailureCode) -> Image:
    """The image is in ERROR, and nothing is left of it."""
    row = await bench.gateway.image(image["id"])
    assert (row.status, row.failure_code, row.failure_retriable, row.blob_id) == (ImageStatus.ERROR, code, False, None)
    assert await erased(bench.gateway, await key_of(bench.gateway, image))
    await assert_over(bench)
    return row


async def assert_over(bench: Bench) -> None:
    """The host has nothing left to do, and no point."""
    assert (await bench.unfinished(), bench.hypervisor.points) == ([], set())
    async with bench.gateway.database.read() as session:
        assert (await session.execute(select(Capture).where(Capture.host_id == bench.host_id))).all() == []


async def test_a_capture_stores_a_point_and_leaves_nothing_behind(bench: Bench, server: dict[str, Any]) -> None:
    made = await begun(bench, server)
    before = now()
    await bench.work()
    await assert_active(bench, made, b"first")
    row = await bench.gateway.image(made["id"])
    assert row.captured_at is not None
    assert before <= row.captured_at <= now()
    assert (row.quiet, row.stored_size, row.size_key) == (False, BLOCK, row.virtual_size)
    async with bench.gateway.database.read() as session:
        query = select(StorageEntry).where(StorageEntry.image_id == made["id"], col(StorageEntry.until).is_(None))
        assert (await session.execute(query)).scalar_one().stored_size == BLOCK
    boot = await boot_volume(bench.gateway, server)
    assert bench.hypervisor.done[-4:] == [f"{step} {boot}" for step in ("release", "point", "reading", "release")]


async def test_progress_is_published_while_the_point_is_read(bench: Bench, server: dict[str, Any]) -> None:
    made = await begun(bench, server)
    held = bench.hold_store()
    store = bench.store

    def stored(task: CaptureTask) -> Any:
        task.progress(BLOCK, task.reader.size)
        return store(task)

    bench.store = stored
    await bench.runner.take_due()

    document = "query ($id: ID!) { image(by: {id: $id}) { progress { phase bytesDone } } }"

    async def is_known() -> bool:
        found = (await bench.gateway.ask(document, id=made["id"]))["image"]["progress"]
        return bool(found == {"phase": "CAPTURING", "bytesDone": BLOCK})

    await until(is_known)
    held.go.set()
    await bench.runner.idle()
    await assert_active(bench, made, b"first")


# ------------------------------------------------------------ interrupted

STEPS = ("release", "point", "reading")


async def hold(bench: Bench, step: str) -> Callable[[], None]:
    """Let the host work until it begins a step; returns what lets it go on."""
    if step == "store":
        held = bench.hold_store()
        await bench.runner.take_due()
        await held.reached()
        return held.go.set
    bench.hypervisor.hold(step)
    await bench.runner.take_due()
    await bench.hypervisor.reached[step].wait()
    return lambda: bench.hypervisor.held.pop(step).set()


async def write_later(bench: Bench, server: dict[str, Any]) -> bytes:
    """What the guest of a server writes now, over what it wrote before."""
    bench.write(await boot_volume(bench.gateway, server), b"later")
    return b"later"


@pytest.mark.parametrize("step", [*STEPS, "store"])
async def test_a_process_that_stops_leaves_the_capture_to_the_next_one(
    bench: Bench, server: dict[str, Any], step: str
) -> None:
    made = await begun(bench, server)
    go_on = await hold(bench, step)
    at = (await bench.gateway.image(made["id"])).captured_at
    later = await write_later(bench, server)
    await bench.runner.stop()
    go_on()
    bench.restarted()
    await bench.work()
    await assert_active(bench, made, later if at is None else b"first")
    assert at in (None, (await bench.gateway.image(made["id"])).captured_at)


@pytest.mark.parametrize("step", [*STEPS, "store"])
async def test_a_lost_lease_interrupts_the_capture_and_the_next_claim_finishes_it(
    bench: Bench, server: dict[str, Any], step: str
) -> None:
    made = await begun(bench, server)
    go_on = await hold(bench, step)
    at = (await bench.gateway.image(made["id"])).captured_at
    later = await write_later(bench, server)
    await bench.due_now()
    # The same job is claimed again, while the first claim still acts on the volume.
    await bench.runner.take_due()
    go_on()
    await bench.runner.idle()
    await bench.work()
    await assert_active(bench, made, later if at is None else b"first")


async def test_a_process_killed_after_it_took_the_point_and_before_it_said_so_takes_another(
    bench: Bench, server: dict[str, Any]
) -> None:
    made, boot = await begun(bench, server), await boot_volume(bench.gateway, server)
    await bench.hypervisor.point(boot)
    later = await write_later(bench, server)
    await bench.work()
    await assert_active(bench, made, later)


async def test_a_process_killed_after_the_image_was_active_releases_the_point_later(
    bench: Bench, server: dict[str, Any]
) -> None:
    made = await begun(bench, server)
    held = bench.hold_store()
    await bench.runner.take_due()
    await held.reached()
    bench.hypervisor.failing["release"] = HypervisorUnavailable("killed")
    held.go.set()
    await bench.runner.idle()
    assert (await bench.gateway.image(made["id"])).status == ImageStatus.ACTIVE
    assert bench.hypervisor.points == {await boot_volume(bench.gateway, server)}
    await bench.due_now()
    await bench.work()
    assert (await bench.gateway.image(made["id"])).status == ImageStatus.ACTIVE
    bench.hypervisor.failing.clear()
    await bench.due_now()
    await bench.work()
    await assert_active(bench, made, b"first")


async def test_a_store_that_is_away_for_a_while_does_not_change_the_moment(
    bench: Bench, server: dict[str, Any]
) -> None:
    made, store = await begun(bench, server), bench.store

    def away(_task: CaptureTask) -> Any:
        raise StoreUnavailable("away")

    bench.store = away
    await bench.work()
    at = (await bench.gateway.image(made["id"])).captured_at
    await write_later(bench, server)
    bench.store = store
    await bench.due_now()
    await bench.work()
    await assert_active(bench, made, b"first")
    assert (at is None, (await bench.gateway.image(made["id"])).captured_at) == (False, at)


# ------------------------------------------------------------ lost


async def stop(bench: Bench, server: dict[str, Any]) -> None:
    await done(bench.gateway, "stopServer", serverId=server["id"])
    await bench.runner.take_due()
    await until(lambda: is_ended(bench, server))


async def delete(bench: Bench, server: dict[str, Any]) -> None:
    await done(bench.gateway, "deleteServer", serverId=server["id"])
    await bench.runner.take_due()
    await until(lambda: is_ended(bench, server))


async def is_ended(bench: Bench, server: dict[str, Any]) -> bool:
    return server["id"] not in bench.hypervisor.running


async def crash(bench: Bench, server: dict[str, Any]) -> None:
    bench.hypervisor.crash(server["id"])


async def overflow(bench: Bench, server: dict[str, Any]) -> None:
    bench.hypervisor.lose_point(await boot_volume(bench.gateway, server))


async def kill(bench: Bench, server: dict[str, Any]) -> None:
    """The process of the host and the server end, as when the machine is restarted."""
    await bench.runner.stop()
    bench.hypervisor.restart()
    bench.restarted()


@pytest.mark.parametrize("lose", [stop, delete, crash, overflow, kill])
async def test_a_point_that_is_lost_sets_the_image_to_error_and_harms_nothing_else(
    bench: Bench, server: dict[str, Any], lose: Callable[[Bench, dict[str, Any]], Awaitable[None]]
) -> None:
    made = await begun(bench, server)
    held = bench.hold_store()
    await bench.runner.take_due()
    await held.reached()
    await lose(bench, server)
    held.go.set()
    await bench.runner.idle()
    await bench.work()
    row = await assert_failed(bench, made, FailureCode.SOURCE_UNAVAILABLE)
    assert row.failure_hint == "Delete this image, and create the snapshot again."
    assert (server["id"] in bench.hypervisor.running) == (lose is overflow)
    if lose is overflow:
        await bench.work()
        again = await begun(bench, server)
        await bench.work()
        await assert_active(bench, again, b"first")


async def test_a_volume_that_is_deleted_while_it_is_captured_leaves_nothing(
    bench: Bench, project: str, disk: dict[str, Any]
) -> None:
    data = await volume(bench.gateway, project)
    server = await launch(bench.gateway, project, disk["id"], dataVolumeIds=[data["id"]])
    await bench.work()
    await done(bench.gateway, "deleteServer", serverId=server["id"])
    await bench.work()
    made = await snapshot(bench.gateway, data["id"])
    held = bench.hold_store()
    await bench.runner.take_due()
    await held.reached()
    await done(bench.gateway, "deleteVolume", volumeId=data["id"])
    await bench.runner.take_due()
    await until(lambda: is_gone(bench, data))
    held.go.set()
    await bench.runner.idle()
    await assert_failed(bench, made, FailureCode.SOURCE_UNAVAILABLE)
    assert (await volume_row(bench.gateway, data["id"])).host_id is None


async def is_gone(bench: Bench, volume: dict[str, Any]) -> bool:
    return volume["id"] not in bench.hypervisor.disks


async def test_a_server_does_not_start_from_a_volume_that_is_captured_at_rest(
    bench: Bench, server: dict[str, Any]
) -> None:
    await stop(bench, server)
    await bench.runner.idle()
    made = await begun(bench, server)
    held = bench.hold_store()
    await bench.runner.take_due()
    await held.reached()
    await done(bench.gateway, "startServer", serverId=server["id"])
    await bench.runner.take_due()

    async def waits() -> bool:
        jobs = [job for job in await bench.unfinished() if job.kind == JobKind.SETTLE_SERVER]
        return bool(jobs) and jobs[0].token > 0 and jobs[0].state == "WAITING"

    await until(waits)
    assert bench.hypervisor.running == set()
    held.go.set()
    await bench.runner.idle()
    await bench.due_now()
    await bench.work()
    assert bench.hypervisor.running == {server["id"]}
    await assert_active(bench, made, b"first")
    assert (await bench.gateway.image(made["id"])).quiet is True


async def test_a_volume_whose_disk_is_missing_fails_at_once(bench: Bench, server: dict[str, Any]) -> None:
    made = await begun(bench, server)
    await bench.hypervisor.destroy(server["id"])
    await bench.hypervisor.delete_volume(await boot_volume(bench.gateway, server))
    await bench.work()
    row = await assert_failed(bench, made, FailureCode.SOURCE_UNAVAILABLE)
    assert row.captured_at is None


@pytest.mark.parametrize("taken", [False, True], ids=["before", "after the point"])
async def test_a_host_that_is_gone_fails_its_captures_and_undoes_them_when_it_is_back(
    bench: Bench, server: dict[str, Any], taken: bool
) -> None:
    made = await begun(bench, server)
    if taken:
        held = bench.hold_store()
        await bench.runner.take_due()
        await held.reached()
        await bench.runner.stop()
        held.go.set()
    await lost_captures.lose(bench.gateway.catalogue)
    assert (await bench.gateway.image(made["id"])).status == ImageStatus.SAVING
    await bench.gateway.change(Host, bench.host_id, seen_at=now() - timedelta(hours=1))
    await lost_captures.lose(bench.gateway.catalogue)
    row = await bench.gateway.image(made["id"])
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.SOURCE_UNAVAILABLE)
    assert len(bench.hypervisor.points) == taken
    bench.restarted()
    await bench.work()
    await assert_failed(bench, made, FailureCode.SOURCE_UNAVAILABLE)


async def test_a_host_that_is_forgotten_ends_its_captures(
    bench: Bench, server: dict[str, Any], disk: dict[str, Any]
) -> None:
    made = await begun(bench, server)
    await hold(bench, "store")
    await bench.runner.stop()
    await bench.gateway.change(Host, bench.host_id, seen_at=now() - timedelta(hours=1))
    await forgetting.forget(bench.gateway.database, bench.host_id, now() - timedelta(minutes=1))
    row = await bench.gateway.image(made["id"])
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.SOURCE_UNAVAILABLE)
    assert row.failure_message == "The host of the volume was removed, with its disks."
    assert await bench.unfinished() == []
    boot = await boot_volume(bench.gateway, server)
    mistake = await refused(bench.gateway, "createSnapshot", volumeId=boot, name="x")
    assert (mistake["code"], mistake["field"]) == ("NO_HYPERVISOR", ["volumeId"])


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StoreUnavailable("/secret"), FailureCode.STORAGE_UNAVAILABLE),
        (HypervisorUnavailable("/secret"), FailureCode.SOURCE_UNAVAILABLE),
        (ZeroDivisionError("/secret"), FailureCode.INTERNAL),
    ],
    ids=["store", "hypervisor", "bug"],
)
async def test_a_capture_that_fails_too_often_ends_in_error(
    bench: Bench, server: dict[str, Any], error: Exception, code: FailureCode
) -> None:
    made = await begun(bench, server)

    def broken(_task: CaptureTask) -> Any:
        raise error

    bench.store = broken
    for _ in range(bench.gateway.settings.job_attempts):
        await bench.due_now()
        await bench.work()
    assert (await bench.gateway.image(made["id"])).status == ImageStatus.ERROR
    await bench.work()
    row = await assert_failed(bench, made, code)
    assert "secret" not in f"{row.failure_message} {row.failure_hint}"


# ------------------------------------------------------------ deleted


@pytest.mark.parametrize("step", [*STEPS, "store"])
async def test_an_image_that_is_deleted_while_it_is_captured_ends_the_capture(
    bench: Bench, server: dict[str, Any], step: str
) -> None:
    made = await begun(bench, server)
    go_on = await hold(bench, step)
    await done(bench.gateway, "deleteImage", imageId=made["id"])
    await bench.runner.take_due()
    if step != "store":
        go_on()
    await bench.runner.idle()
    await bench.work()
    assert await erased(bench.gateway, await key_of(bench.gateway, made))
    await assert_over(bench)
    assert bench.hypervisor.running == {server["id"]}


async def test_the_end_of_a_deleted_capture_does_not_release_the_point_of_the_next_one(
    bench: Bench, server: dict[str, Any]
) -> None:
    first = await begun(bench, server)
    await hold(bench, "store")
    await bench.runner.stop()
    await done(bench.gateway, "deleteImage", imageId=first["id"])
    second = await begun(bench, server)
    (waiting,) = [job for job in await bench.unfinished() if job.image_id == first["id"]]
    await bench.gateway.change(Job, waiting.id, due_at=now() + timedelta(hours=1))
    bench.restarted()
    go_on = await hold(bench, "store")
    await bench.runner.stop()
    await write_later(bench, server)
    bench.restarted()
    await bench.gateway.change(Job, waiting.id, due_at=now() - timedelta(hours=1))
    await bench.runner.take_due()
    go_on()
    await bench.runner.idle()
    await assert_active(bench, second, b"first")
    assert await erased(bench.gateway, await key_of(bench.gateway, first))


# ------------------------------------------------------------ quotas and bytes


@pytest.mark.parametrize("early", [True, False], ids=["while it is read", "at the end"])
async def test_a_capture_that_needs_more_than_there_is_room_for_fails(
    bench: Bench, project: str, server: dict[str, Any], early: bool
) -> None:
    boot = await boot_volume(bench.gateway, server)
    for at in range(4):
        bench.write(boot, b"x", at)
    made = await begun(bench, server)
    async with bench.gateway.database.read() as session:
        row = await session.get_one(Project, project)
        used = (await quota_of(session, row, bench.gateway.settings)).storage_used
    limit = used + 3 * BLOCK
    if early:
        await bench.gateway.change(Project, project, image_storage_limit=limit)
    held = bench.hold_store()
    await bench.runner.take_due()
    await held.reached()
    await bench.gateway.change(Project, project, image_storage_limit=limit)
    held.go.set()
    await bench.runner.idle()
    failed = await assert_failed(bench, made, FailureCode.QUOTA_EXCEEDED)
    assert "retryImage" not in f"{failed.failure_hint}"
    await bench.gateway.change(Project, project, image_storage_limit=limit + BLOCK)
    again = await begun(bench, server)
    await bench.work()
    await assert_active(bench, again, b"x")


async def test_the_room_of_the_snapshot_that_is_replaced_counts(
    bench: Bench, project: str, server: dict[str, Any]
) -> None:
    await bench.gateway.change(Project, project, snapshots_per_volume_limit=1)
    first = await begun(bench, server)
    await bench.work()
    async with bench.gateway.database.read() as session:
        row = await session.get_one(Project, project)
        used = (await quota_of(session, row, bench.gateway.settings)).storage_used
    await bench.gateway.change(Project, project, image_storage_limit=used)
    second = await begun(bench, server)
    await bench.work()
    await assert_active(bench, second, b"first")
    assert (await bench.gateway.image(first["id"])).deleted_at is not None
    # One that is larger than all that there is room for replaces nothing.
    bench.write(await boot_volume(bench.gateway, server), b"x", 1)
    third = await begun(bench, server)
    await bench.work()
    await assert_failed(bench, third, FailureCode.QUOTA_EXCEEDED)
    assert (await bench.gateway.image(second["id"])).deleted_at is None


async def test_the_base_is_kept_until_the_capture_ends(
    bench: Bench, server: dict[str, Any], disk: dict[str, Any]
) -> None:
    base = await bench.gateway.blob(disk)
    made = await begun(bench, server)
    bases: list[Any] = []
    held = bench.hold_store()
    store = bench.store

    def stored(task: CaptureTask) -> Any:
        bases.append(task.base)
        return store(task)

    bench.store = stored
    await bench.runner.take_due()
    await held.reached()
    assert [(one.blob_id, one.key, one.size) for one in bases] == [(base.id, base.key, base.file_size)]
    await done(bench.gateway, "deleteImage", imageId=disk["id"])
    await delete(bench, server)
    await until(lambda: has_no_disk(bench))
    assert await blob_or_none(bench.gateway, base.id) is not None
    held.go.set()
    await bench.runner.idle()
    await assert_failed(bench, made, FailureCode.SOURCE_UNAVAILABLE)
    assert await blob_or_none(bench.gateway, base.id) is None
    assert await erased(bench.gateway, base.key)


async def has_no_disk(bench: Bench) -> bool:
    rows = [job for job in await bench.unfinished() if job.kind == JobKind.SETTLE_SERVER]
    return not rows and not bench.hypervisor.disks


async def test_bytes_that_are_being_stored_are_no_orphans(bench: Bench, server: dict[str, Any]) -> None:
    made = await begun(bench, server)
    key = await key_of(bench.gateway, made)
    assert {key, "blobs/other"} & await conversions.named_keys(bench.gateway.catalogue, [key, "blobs/other"]) == {key}
    await bench.work()
    assert key in await conversions.named_keys(bench.gateway.catalogue, [key])
    run = Fsck(bench.gateway.catalogue, timedelta(0), owner_of)
    assert [found async for found in run.findings() if made["id"] == found.image_id or key == found.key] == []
