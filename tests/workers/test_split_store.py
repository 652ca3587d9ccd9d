"""A conversion split among several workers produces the same disk, in whatever order and however often ranges run."""

import threading
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from app.catalog.outcome import Outcome
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.servers.minio import Minio
from tests.workers.images import KiB, MiB, make, raw_disk
from tests.workers.store_bench import RESULT, SOURCE, StoreBench, store_bench
from workers.convert.split_plan import SplitPlan
from workers.errors import Cancelled, SplitLost
from workers.limits import Limits, PartRules
from workers.qcow2.extents import Extents
from workers.qcow2.packing import Disk, Packer
from workers.store.pipeline import convert_in_store
from workers.store.range_jobs import assemble, discard_split, stream_range
from workers.store.ranges import cut_evenly, decode_record, encode_record
from workers.store.streaming import Streamed

RAW, VMDK, VHD = (DiskFormat(name) for name in ("RAW", "VMDK", "VHD"))
SIZE = 96 * MiB
needs_programs = pytest.mark.needs_program("qemu-img", "qemu-nbd")

Holds = Callable[[Path, Path], None]


@pytest.fixture
def bench(minio: Minio, tmp_path: Path) -> Iterator[StoreBench]:
    with store_bench(minio, tmp_path / "bench") as bench:
        yield bench


def disk(path: Path) -> Path:
    """Data at both ends, a range with hardly any, and a last cluster that the disk half fills."""
    runs = [(0, 40 * MiB), (48 * MiB, 4 * KiB), (60 * MiB, 30 * MiB), (SIZE, 512)]
    return raw_disk(path, SIZE + 512, runs)


def split_up_by(bench: StoreBench, declared: DiskFormat, limits: Limits) -> SplitPlan:
    split = convert_in_store(bench.task(declared), bench.bucket, limits, lambda *news: None, bench.cancelled)
    assert isinstance(split, SplitPlan)
    assert split == SplitPlan.from_json(split.as_json())
    return split


def stream(bench: StoreBench, declared: DiskFormat, limits: Limits, split: SplitPlan, index: int) -> list[int]:
    """Do a range as a separate worker would; return the reported bytes."""
    reported: list[int] = []
    task = replace(bench.task(declared), workspace=bench.folder / f"job-{index}")
    stream_range(task, split, index, bench.bucket, limits, reported.append, bench.cancelled)
    return reported


def assembled(bench: StoreBench, declared: DiskFormat, limits: Limits, split: SplitPlan) -> Outcome:
    return assemble(bench.task(declared), split, bench.bucket, limits, lambda *news: None, bench.cancelled)


@needs_programs
@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
@pytest.mark.parametrize(
    ("declared", "driver", "options"),
    [
        pytest.param(RAW, "raw", {}, id="raw"),
        pytest.param(VHD, "vpc", {"force_size": "on"}, id="vhd"),
        pytest.param(VMDK, "vmdk", {"subformat": "streamOptimized"}, id="vmdk"),
    ],
)
def test_ranges_that_are_done_at_the_same_time_become_one_disk(
    bench: StoreBench,
    holds: Holds,
    tmp_path: Path,
    declared: DiskFormat,
    driver: str,
    options: dict[str, str],
    compress: bool,
) -> None:
    raw = disk(tmp_path / "disk.raw")
    bench.put(make(raw, tmp_path / "image", driver, **options))
    limits = Limits(compress=compress, split_bytes=32 * MiB)
    split = split_up_by(bench, declared, limits)
    assert split.count > 3
    with ThreadPoolExecutor(3) as workers:
        # A worker with different settings follows the plan.
        others = replace(limits, compress=not compress)
        reported = list(workers.map(lambda index: stream(bench, declared, others, split, index), range(split.count)))
    assert sum(each[-1] for each in reported) == SIZE + 512
    made = assembled(bench, declared, limits, split)
    assert (made.virtual_size, made.detected_format) == (SIZE + 512, declared)
    assert made.file_size == bench.bucket.size(RESULT)
    holds(bench.get(), raw)
    discard_split(RESULT, split, bench.bucket)
    bench.assert_nothing_left(SOURCE, RESULT)


@needs_programs
def test_ranges_in_another_order_and_done_twice_become_the_same_bytes(bench: StoreBench, tmp_path: Path) -> None:
    bench.put(disk(tmp_path / "disk.raw"))
    limits = Limits(split_bytes=32 * MiB)
    results = []
    for order in ([0, 1, 2, 3], [2, 3, 2, 0, 1, 0]):
        split = split_up_by(bench, RAW, limits)
        for index in order:
            stream(bench, RAW, limits, split, index % split.count)
        for index in range(split.count):
            stream(bench, RAW, limits, split, index)
        assembled(bench, RAW, limits, split)
        results.append(bench.get().read_bytes())
    assert results[0] == results[1]


@needs_programs
def test_a_range_that_was_broken_off_is_done_by_another_worker(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = disk(tmp_path / "disk.raw")
    bench.put(raw)
    limits = Limits(split_bytes=32 * MiB, parts=PartRules(sent=10 * MiB))
    split = split_up_by(bench, RAW, limits)
    broken = threading.Event()
    task = replace(bench.task(RAW), workspace=bench.folder / "broken")
    with pytest.raises(Cancelled):
        stream_range(task, split, 0, bench.bucket, limits, lambda done: broken.set(), broken)
    for index in range(split.count):
        stream(bench, RAW, limits, split, index)
    assembled(bench, RAW, limits, split)
    holds(bench.get(), raw)


@needs_programs
def test_an_assembled_result_may_be_assembled_again(bench: StoreBench, tmp_path: Path) -> None:
    bench.put(disk(tmp_path / "disk.raw"))
    limits = Limits(split_bytes=32 * MiB)
    split = split_up_by(bench, RAW, limits)
    for index in range(split.count):
        stream(bench, RAW, limits, split, index)
    assert assembled(bench, RAW, limits, split) == assembled(bench, RAW, limits, split)


@needs_programs
def test_an_upload_or_a_range_that_is_gone_is_lost(bench: StoreBench, tmp_path: Path) -> None:
    bench.put(disk(tmp_path / "disk.raw"))
    limits = Limits(split_bytes=32 * MiB)
    split = split_up_by(bench, RAW, limits)
    stream(bench, RAW, limits, split, 0)
    with pytest.raises(SplitLost):
        assembled(bench, RAW, limits, split)
    bench.bucket.abort(RESULT, split.reference)
    with pytest.raises(SplitLost):
        stream(bench, RAW, limits, split, 0)
    discard_split(RESULT, split, bench.bucket)
    bench.assert_nothing_left(SOURCE)


@needs_programs
def test_an_attempt_does_not_take_the_ranges_of_another_for_its_own(bench: StoreBench, tmp_path: Path) -> None:
    bench.put(disk(tmp_path / "disk.raw"))
    limits = Limits(split_bytes=32 * MiB)
    first, second = (split_up_by(bench, RAW, limits) for _ in range(2))
    assert first.cuts == second.cuts
    assert {first.key(RESULT, 0), first.key(RESULT, 1)}.isdisjoint({second.key(RESULT, 0), second.key(RESULT, 1)})


@needs_programs
def test_what_several_workers_make_is_bounded_too(bench: StoreBench, tmp_path: Path) -> None:
    bench.put(disk(tmp_path / "disk.raw"))
    limits = Limits(split_bytes=32 * MiB, max_stored_size=50 * MiB)
    split = split_up_by(bench, RAW, limits)
    for index in range(split.count):
        stream(bench, RAW, limits, split, index)
    with pytest.raises(ImageFailed) as failure:
        assembled(bench, RAW, limits, split)
    assert failure.value.code is FailureCode.QUOTA_EXCEEDED


@needs_programs
def test_a_disk_with_little_data_is_not_shared(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk.raw", SIZE, [(0, 4 * MiB)])
    bench.put(make(raw, tmp_path / "image", "vpc", force_size="on"))
    bench.convert(VHD, Limits(split_bytes=32 * MiB))
    holds(bench.get(), raw)


def packer_of(size: int, *runs: tuple[int, int]) -> Packer:
    extents = Extents()
    for start, length in runs:
        extents.add(start, length, start)
    return Packer(Disk(size, extents, lambda offset, buffer: None), 64 * KiB)


@pytest.mark.parametrize(
    ("packer", "share", "count"),
    [
        (packer_of(1024 * MiB, (0, 1024 * MiB)), 256 * MiB, 4),
        (packer_of(1024 * MiB, (0, 1024 * MiB)), 300 * MiB, 4),
        (packer_of(1024 * MiB, (0, 64 * MiB), (900 * MiB, 64 * MiB)), 32 * MiB, 4),
        (packer_of(1024 * MiB), 32 * MiB, 1),
        (packer_of(10 * MiB, (0, 10 * MiB)), 32 * MiB, 1),
        (packer_of(64 * 1024 * MiB, (0, 64 * 1024 * MiB)), 8 * MiB, 250),
    ],
)
def test_a_disk_is_cut_into_ranges_of_about_as_much_data(packer: Packer, share: int, count: int) -> None:
    cuts = cut_evenly(packer, share)
    assert (cuts[0], cuts[-1], len(cuts) - 1) == (0, packer.clusters, count)
    assert list(cuts) == sorted(set(cuts))
    assert all(cut % packer.batch == 0 for cut in cuts[:-1])
    data = [packer.most_data(first, last) for first, last in pairwise(cuts)]
    assert max(data) - min(data) <= 2 * packer.batch * packer.cluster_size


def test_part_numbers_of_ranges_are_apart_and_within_what_a_store_takes() -> None:
    split = SplitPlan("reference", tuple(range(0, 251)), 250 << 16, 1 << 16, False, RAW, ())
    numbers = [number for index in range(split.count) for number in split.numbers(index, PartRules())]
    assert numbers == list(range(2, 2 + len(numbers)))
    assert numbers[-1] <= 10_000
    assert min(len(split.numbers(index, PartRules())) for index in range(split.count)) >= 39


def test_what_is_written_down_about_a_range_is_read_back() -> None:
    sizes = array("I", [65536, 0, 17])
    # A batch has 64 clusters of 64 KiB, and the last one may have fewer.
    stretches = [(0, array("I", [*sizes, *bytes(61)])), (448, sizes)]
    streamed = Streamed(stretches, 131072, [(2, "etag"), (3, "other")])
    written = encode_record(streamed, 451)
    assert decode_record(written, 451, 64 * KiB) == streamed
    for damaged in (b"", b"{}\n", written[:-3], written.replace(b"length", b"width")):
        with pytest.raises(SplitLost):
            decode_record(damaged, 451, 64 * KiB)
    for clusters in (450, 452):
        with pytest.raises(SplitLost):
            decode_record(written, clusters, 64 * KiB)
