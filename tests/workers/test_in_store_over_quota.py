"""Within a store, a result that takes more room than there is: not made, or deleted again."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome, Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from app.sizes import exactly
from tests.servers.minio import Minio
from tests.workers.images import KiB, MiB, make, qemu_img, raw_disk
from tests.workers.store_bench import SOURCE, StoreBench, store_bench
from workers.convert.split_plan import SplitPlan
from workers.jobs.converters import Order
from workers.jobs.store_converter import StoreConverter
from workers.limits import Limits

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd")

Holds = Callable[[Path, Path], None]

RESULT = "blobs/result.qcow2"
AMPLE = 1 << 40


@pytest.fixture
def bench(minio: Minio, tmp_path: Path) -> Iterator[StoreBench]:
    with store_bench(minio, tmp_path / "bench") as bench:
        yield bench


@pytest.fixture
def converter(bench: StoreBench) -> Iterator[StoreConverter]:
    converter = StoreConverter(bench.bucket.address, Limits(split_bytes=64 * MiB))
    yield converter
    converter.close()


def prepared(way: Way, folder: Path) -> tuple[Path, Path, DiskFormat]:
    """A raw disk, an image of it that goes this way, and its format."""
    raw = raw_disk(folder / "disk.raw", 24 * MiB, [(place, 52 * KiB) for place in range(0, 24 * MiB, 64 * KiB)])
    match way:
        case Way.REFERENCE:
            return raw, make(raw, folder / "image", "vmdk"), DiskFormat.VMDK
        case Way.KEEP:
            qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(folder / "image"))
            return raw, folder / "image", DiskFormat.QCOW2
    return raw, make(raw, folder / "image", "vmdk", subformat="streamOptimized"), DiskFormat.VMDK


def order(bench: StoreBench, declared: DiskFormat, room: int = AMPLE) -> Order:
    size = bench.bucket.size(SOURCE)
    assignment = Assignment("img_1", "prj_1", "upl_1", SOURCE, size, "blb_result", RESULT, declared, None, room)
    return Order(assignment, "job_1", 1, lambda *news: None, bench.cancelled)


def assert_only_the_upload_is_left(bench: StoreBench, image: Path) -> None:
    bench.assert_nothing_left(SOURCE)
    assert bench.bucket.multiparts(RESULT) == []
    assert hashlib.sha256(bench.get(SOURCE).read_bytes()).digest() == hashlib.sha256(image.read_bytes()).digest()


@pytest.mark.parametrize("way", Way)
def test_a_result_that_just_fits_is_made_and_one_byte_less_is_not(
    bench: StoreBench, converter: StoreConverter, holds: Holds, tmp_path: Path, way: Way
) -> None:
    raw, image, declared = prepared(way, tmp_path)
    bench.put(image)
    made = converter.convert(order(bench, declared))
    assert isinstance(made, Outcome)
    assert made.way is way
    converter.undo(order(bench, declared))
    assert_only_the_upload_is_left(bench, image)
    with pytest.raises(ImageFailed) as caught:
        converter.convert(order(bench, declared, made.stored_size - 1))
    assert (caught.value.code, caught.value.retriable) == (FailureCode.QUOTA_EXCEEDED, True)
    assert f" needs {exactly(made.stored_size)} of image storage" in caught.value.message
    assert_only_the_upload_is_left(bench, image)
    assert converter.convert(order(bench, declared, made.stored_size)) == made
    holds(bench.get(RESULT), raw)


@pytest.mark.parametrize("way", Way)
def test_what_is_undone_leaves_the_upload_and_can_be_converted_again(
    bench: StoreBench, converter: StoreConverter, holds: Holds, tmp_path: Path, way: Way
) -> None:
    raw, image, declared = prepared(way, tmp_path)
    bench.put(image)
    made = converter.convert(order(bench, declared))
    bench.bucket.open_multipart(RESULT)
    for _ in range(2):
        converter.undo(order(bench, declared))
        assert_only_the_upload_is_left(bench, image)
    assert converter.convert(order(bench, declared)) == made
    holds(bench.get(RESULT), raw)


def split_order(bench: StoreBench, converter: StoreConverter, tmp_path: Path) -> tuple[Path, Order, SplitPlan]:
    raw = raw_disk(tmp_path / "disk.raw", 128 * MiB + 512, [(0, 70 * MiB), (100 * MiB, 20 * MiB)])
    bench.put(raw)
    wanted = order(bench, DiskFormat.RAW)
    split = converter.convert(wanted)
    assert isinstance(split, SplitPlan)
    assert split.count > 2
    return raw, wanted, split


def within(order: Order, room: int) -> Order:
    return replace(order, assignment=replace(order.assignment, room=room))


def test_the_size_of_a_split_conversion_is_exact_and_its_ranges_are_undone_together(
    bench: StoreBench, converter: StoreConverter, holds: Holds, tmp_path: Path
) -> None:
    raw, wanted, split = split_order(bench, converter, tmp_path)
    stored = [converter.stream_range(wanted, split, index, lambda done: None) for index in range(split.count)]
    assert sum(stored) == 90 * MiB
    with pytest.raises(ImageFailed) as caught:
        converter.assemble(within(wanted, sum(stored)), split)
    assert caught.value.code is FailureCode.QUOTA_EXCEEDED
    assert RESULT not in bench.keys()
    made = converter.assemble(wanted, split)
    assert sum(stored) < made.stored_size < sum(stored) + MiB
    assert converter.assemble(within(wanted, made.stored_size), split) == made
    holds(bench.get(RESULT), raw)
    converter.undo(wanted)
    assert_only_the_upload_is_left(bench, raw)


def test_a_range_alone_that_takes_more_than_there_is_left_stops_early(
    bench: StoreBench, converter: StoreConverter, tmp_path: Path
) -> None:
    raw, wanted, split = split_order(bench, converter, tmp_path)
    reported: list[int] = []
    for room in (-1, 8 * MiB):
        with pytest.raises(ImageFailed) as caught:
            converter.stream_range(within(wanted, room), split, 0, reported.append)
        assert caught.value.code is FailureCode.QUOTA_EXCEEDED
    assert max(reported) < split.bytes_of(0)
    assert not [key for key in bench.keys() if key != SOURCE]
    # While the upload is open, what is freed of it is freed with all the rest.
    assert bench.bucket.multiparts(RESULT) == [split.reference]
    converter.undo(wanted)
    assert_only_the_upload_is_left(bench, raw)
