"""Several workers, a database and a store: an image that is shared out becomes ACTIVE, or fails as one."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.store import S3Store
from app.lifecycle import DiskFormat, EventKind, FailureCode, ImageStatus, JobKind, JobState
from app.models import Image, Job, Project, Source
from app.sizes import GIB
from tests.servers.minio import Minio
from tests.support.gateway import Gateway
from tests.support.overrunning import see_room
from tests.workers.images import KiB, MiB, make, patch, qemu_img, raw_disk
from tests.workers.store_bench import StoreBench, store_bench
from workers.errors import Cancelled
from workers.jobs.conversions import Conversions
from workers.jobs.converters import Order, owner_of
from workers.jobs.duties import Duties
from workers.jobs.runner import JobRunner
from workers.jobs.store_converter import StoreConverter
from workers.limits import Limits

pytestmark = [pytest.mark.anyio, pytest.mark.needs_program("qemu-img", "qemu-nbd")]


@dataclass
class Shop:
    """Workers on one gateway's database, and a bucket in which they convert."""

    gateway: Gateway
    bench: StoreBench
    runners: list[JobRunner]
    image: str = ""
    source: Source | None = None

    async def upload_disk(self, image: Path, declared: DiskFormat) -> None:
        """Have an image wait for a worker whose bytes are in the bucket."""
        made = await self.gateway.uploaded()
        self.image = made["id"]
        size = (await asyncio.to_thread(image.stat)).st_size
        source = await self.gateway.source(made)
        await self.gateway.change(Source, source.id, size=size, declared_format=declared)
        self.source = await self.gateway.source(made)
        await asyncio.to_thread(self.bench.put, image, self.source.key)

    async def open_jobs(self, *kinds: JobKind) -> list[Job]:
        jobs = await self.gateway.all_jobs()
        return [job for job in jobs if job.kind in kinds and job.state != JobState.DONE]

    async def turn(self, *kinds: JobKind) -> int:
        """Have the workers do all the jobs of these kinds that there are; gives how many."""
        found = await self.open_jobs(*kinds)
        workers = [self.runners[number % len(self.runners)] for number in range(len(found))]
        await asyncio.gather(*(worker.run(job.kind) for worker, job in zip(workers, found, strict=True)))
        return len(found)

    async def finish(self) -> None:
        """Have the workers do all there is for the image."""
        while await self.turn(JobKind.CONVERT, JobKind.STREAM_RANGE, JobKind.ASSEMBLE):
            pass

    @property
    def result(self) -> str:
        assert self.source is not None
        return self.source.key_of_result


@pytest.fixture
def shop(gateway: Gateway, minio: Minio, tmp_path: Path) -> Iterator[Shop]:
    """Three workers; more than 32 MiB of data are shared."""
    with store_bench(minio, tmp_path / "bench") as bench:
        address = bench.bucket.address
        converters = [StoreConverter(address, Limits(split_bytes=32 * MiB)) for _ in range(3)]
        store = S3Store(address)
        runners = [
            JobRunner(
                gateway.database,
                Duties(replace(gateway.catalogue, store=store), converter),
                Conversions(gateway.catalogue, gateway.wakeups, converter),
                gateway.settings,
                gateway.queue,
            )
            for converter in converters
        ]
        yield Shop(gateway, bench, runners)
        for converter in converters:
            converter.close()
        store.close()


def disk(path: Path) -> Path:
    return raw_disk(path, 96 * MiB + 512, [(0, 70 * MiB), (90 * MiB, 6 * MiB)])


async def test_an_image_that_three_workers_share_becomes_active_and_leaves_nothing_behind(
    shop: Shop, tmp_path: Path
) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    assert await shop.turn(JobKind.CONVERT) == 1
    assert len(await shop.open_jobs(JobKind.STREAM_RANGE)) == 7
    await shop.finish()
    image = await shop.gateway.image(shop.image)
    assert (image.status, image.virtual_size) == (ImageStatus.ACTIVE, 96 * MiB + 512)
    ranges = shop.bench.keys() - {shop.result, str(shop.source and shop.source.key)}
    assert len(ranges) == 7
    assert {owner_of(key) for key in ranges} == {shop.result}
    await shop.turn(JobKind.ERASE)
    assert shop.bench.keys() == {shop.result}
    result = await asyncio.to_thread(shop.bench.get, shop.result)
    qemu_img("check", "-f", "qcow2", str(result))
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(result))


# ------------------------------------------------------------ more than the project has room for


async def limit_storage(shop: Shop, limit: int) -> None:
    """Give the image a project of its own that may store so many bytes."""
    project = (await shop.gateway.image(shop.image)).project_id
    if project == shop.gateway.alpha:
        project = await shop.gateway.project()
        await shop.gateway.change(Image, shop.image, project_id=project)
    await shop.gateway.change(Project, project, image_storage_limit=limit)


async def assert_over_quota(shop: Shop) -> None:
    """The image is in ERROR for its size, and of all its bytes only those of the upload are in the store."""
    row = await shop.gateway.image(shop.image)
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.QUOTA_EXCEEDED)
    assert (row.stored_size, row.reserved_size, row.failure_retriable) == (None, MiB, True)
    assert shop.source is not None
    assert shop.bench.keys() == {shop.source.key}
    assert shop.bench.bucket.multiparts(shop.result) == []
    assert await shop.open_jobs(JobKind.CONVERT, JobKind.STREAM_RANGE, JobKind.ASSEMBLE) == []


async def assert_a_retry_succeeds(shop: Shop, raw: Path) -> None:
    await limit_storage(shop, GIB)
    await shop.gateway.mutate("retryImage", {"imageId": shop.image})
    await shop.finish()
    row = await shop.gateway.image(shop.image)
    assert (row.status, row.reserved_size, row.failure_code) == (ImageStatus.ACTIVE, 0, None)
    result = await asyncio.to_thread(shop.bench.get, shop.result)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(result))


@pytest.mark.parametrize("room", [6 * MiB, 40 * MiB], ids=["for-no-range", "for-some-ranges"])
async def test_ranges_that_overrun_the_quota_end_all_of_them_before_the_last(
    shop: Shop, tmp_path: Path, room: int
) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    await limit_storage(shop, room)
    assert await shop.turn(JobKind.CONVERT) == 1
    for job in await shop.open_jobs(JobKind.STREAM_RANGE):
        await shop.runners[0].run(job.kind)
    assert not [job for job in await shop.gateway.all_jobs() if job.kind == JobKind.ASSEMBLE and is_of(shop, job)]
    await assert_over_quota(shop)
    await assert_a_retry_succeeds(shop, raw)


def is_of(shop: Shop, job: Job) -> bool:
    return job.image_id == shop.image


async def test_ranges_that_overrun_the_quota_at_the_same_time_fail_the_image_once(shop: Shop, tmp_path: Path) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    await limit_storage(shop, 6 * MiB)
    await shop.finish()
    await assert_over_quota(shop)
    failures = [
        event
        for event in await shop.gateway.events(shop.image)
        if event.kind == EventKind.STATUS_CHANGED and event.detail["after"] == ImageStatus.ERROR
    ]
    assert len(failures) == 1
    await assert_a_retry_succeeds(shop, raw)


async def test_a_worker_that_misses_what_was_freed_does_not_begin_anew(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    await limit_storage(shop, 6 * MiB)
    await shop.turn(JobKind.CONVERT)
    real, loop = StoreConverter.undo, asyncio.get_running_loop()

    async def do_another() -> None:
        # Just now there is room, so that it would go on until it misses its upload.
        await limit_storage(shop, GIB)
        await shop.runners[1].run(JobKind.STREAM_RANGE)

    def undo(converter: StoreConverter, order: Order) -> None:
        real(converter, order)
        asyncio.run_coroutine_threadsafe(do_another(), loop).result()

    monkeypatch.setattr(StoreConverter, "undo", undo)
    await shop.runners[0].run(JobKind.STREAM_RANGE)
    await assert_over_quota(shop)
    await assert_a_retry_succeeds(shop, raw)


async def test_room_that_is_taken_meanwhile_is_missed_by_who_assembles(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    await limit_storage(shop, 75 * MiB)
    see_room(monkeypatch)
    await shop.finish()
    assert [job for job in await shop.gateway.all_jobs() if job.kind == JobKind.ASSEMBLE and is_of(shop, job)]
    await assert_over_quota(shop)
    assert " limit 75 MiB, " in str((await shop.gateway.image(shop.image)).failure_message)
    await assert_a_retry_succeeds(shop, raw)


@pytest.mark.parametrize("point", [1, 2, 3], ids=["before-the-result", "after-the-result", "between-ranges"])
async def test_a_kill_while_a_result_is_freed_leaves_what_the_next_attempt_ends(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int
) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    await limit_storage(shop, 75 * MiB)
    see_room(monkeypatch)
    real, calls = Bucket.delete, []

    def delete(bucket: Bucket, key: str) -> None:
        calls.append(key)
        if len(calls) == point:
            # A job that is let go of is given on at once, as after a kill and the end of its lease.
            raise Cancelled("killed")
        real(bucket, key)

    monkeypatch.setattr(Bucket, "delete", delete)
    await shop.finish()
    assert len(calls) > point
    await assert_over_quota(shop)
    await assert_a_retry_succeeds(shop, raw)


# ------------------------------------------------------------ failures


async def test_a_range_that_can_not_be_read_fails_the_image_once(shop: Shop, tmp_path: Path) -> None:
    image = make(disk(tmp_path / "disk.raw"), tmp_path / "image", "vmdk", subformat="streamOptimized")
    await shop.upload_disk(patch(image, 30 * MiB, bytes(256 * KiB)), DiskFormat.VMDK)
    await shop.finish()
    row = await shop.gateway.image(shop.image)
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.CORRUPT_IMAGE)
    assert shop.bench.bucket.multiparts(shop.result) == []
    assert shop.result not in shop.bench.keys()


async def test_an_upload_that_the_store_has_dropped_is_begun_anew(shop: Shop, tmp_path: Path) -> None:
    raw = disk(tmp_path / "disk.raw")
    await shop.upload_disk(raw, DiskFormat.RAW)
    await shop.turn(JobKind.CONVERT)
    (reference,) = shop.bench.bucket.multiparts(shop.result)
    shop.bench.bucket.abort(shop.result, reference)
    await shop.finish()
    assert (await shop.gateway.image(shop.image)).status == ImageStatus.ACTIVE
    result = await asyncio.to_thread(shop.bench.get, shop.result)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(result))


async def test_a_store_that_drops_every_upload_makes_the_image_fail_for_now(shop: Shop, tmp_path: Path) -> None:
    await shop.upload_disk(disk(tmp_path / "disk.raw"), DiskFormat.RAW)
    while await shop.turn(JobKind.CONVERT):
        for reference in shop.bench.bucket.multiparts(shop.result):
            shop.bench.bucket.abort(shop.result, reference)
        await shop.turn(JobKind.STREAM_RANGE)
    row = await shop.gateway.image(shop.image)
    assert (row.status, row.failure_code, row.failure_retriable) == (
        ImageStatus.ERROR,
        FailureCode.STORAGE_UNAVAILABLE,
        True,
    )
    assert await shop.open_jobs(JobKind.STREAM_RANGE, JobKind.ASSEMBLE, JobKind.CONVERT) == []
