"""A streamOptimized VMDK read without qemu is the same disk as qemu reads; a damaged one does no harm."""

import os
import random
import struct
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from app.errors import ImageFailed, StoreUnavailable
from app.lifecycle import FailureCode
from tests.workers.images import KiB, MiB, make, patch, raw_disk
from tests.workers.stored import StoredFile, stored
from workers.qemu.nbd_client import HOLE, ZERO
from workers.store.vmdk_stream import VmdkStream, open_stream

pytestmark = pytest.mark.needs_program("qemu-img")

SIZE = 70 * MiB + 5 * 512
GRAIN = 64 * KiB


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random bytes, text, and zeros, over three tables of grains; the disk ends within a grain."""
    runs = [(0, 3 * MiB + 4096), (33 * MiB, MiB), (66 * MiB + 512, 2 * MiB), (SIZE - 700, 700)]
    path = raw_disk(tmp_path_factory.mktemp("disk") / "disk.raw", SIZE, runs)
    return patch(path, 10 * MiB, b"The quick brown fox. " * 100_000)


@pytest.fixture(scope="module")
def image(disk: Path) -> Path:
    return make(disk, disk.parent / "image", "vmdk", subformat="streamOptimized")


@contextmanager
def opened(path: Path, size: int = SIZE) -> Iterator[tuple[StoredFile, VmdkStream]]:
    with stored(path) as (file, source):
        stream = open_stream(source, size)
        assert stream is not None
        with stream:
            yield file, stream


def disk_read_by(stream: VmdkStream, step: int) -> bytes:
    """The whole disk, read in steps by several threads, as the packing does."""

    def read(place: int) -> bytearray:
        buffer = bytearray(min(step, stream.size - place))
        stream.read_into(place, memoryview(buffer))
        return buffer

    with ThreadPoolExecutor(4) as threads:
        return b"".join(threads.map(read, range(0, stream.size, step)))


@pytest.mark.parametrize("step", [2 * MiB, 5 * MiB + 77, 300_001])
def test_the_disk_is_the_one_that_was_converted(disk: Path, image: Path, step: int) -> None:
    with opened(image) as (_, stream):
        assert disk_read_by(stream, step) == disk.read_bytes()


def test_any_range_is_read_exactly(disk: Path, image: Path) -> None:
    content = disk.read_bytes()
    numbers = random.Random(5)
    with opened(image) as (_, stream):
        for _ in range(100):
            offset = numbers.randrange(SIZE)
            buffer = bytearray(min(numbers.choice([1, 700, 80 * KiB, 3 * MiB]), SIZE - offset))
            stream.read_into(offset, memoryview(buffer))
            assert buffer == content[offset : offset + len(buffer)]


def test_the_status_tells_where_the_grains_are(disk: Path, image: Path) -> None:
    with opened(image) as (_, stream):
        found = stream.block_status(0, SIZE)
        place, content = 0, disk.read_bytes()
        for length, flags in found:
            assert flags in (0, HOLE | ZERO)
            assert not flags or not any(content[place : place + length])
            place += length
        assert place == SIZE
        assert sum(length for length, flags in found if not flags) <= 9 * MiB
        assert stream.block_status(5 * MiB + 1, 100) == [(100, HOLE | ZERO)]
        assert stream.block_status(1, 3 * MiB) == [(3 * MiB, 0)]
        assert stream.block_status(40 * MiB, 4 * MiB) == [(4 * MiB, HOLE | ZERO)]


def test_each_byte_of_the_file_is_asked_for_about_once(image: Path) -> None:
    with opened(image) as (file, stream):
        disk_read_by(stream, 2 * MiB)
        assert sum(length for _, length in file.asked) <= 1.2 * file.size


def test_a_store_that_is_away_is_not_the_fault_of_the_image(image: Path) -> None:
    with opened(image) as (file, stream):
        file.broken_from = 0
        with pytest.raises(StoreUnavailable):
            disk_read_by(stream, 2 * MiB)


def test_no_thread_is_left_after_a_stream_is_closed(image: Path) -> None:
    before = set(threading.enumerate())
    with opened(image) as (_, stream):
        stream.block_status(0, SIZE)
        stream.read_into(0, memoryview(bytearray(MiB)))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("driver", ["vmdk", "qcow2", "raw"])
def test_what_is_none_is_left_to_qemu(disk: Path, tmp_path: Path, driver: str) -> None:
    with stored(make(disk, tmp_path / "image", driver)) as (_, source):
        assert open_stream(source, SIZE) is None


def test_so_is_one_whose_disk_has_another_size_than_qemu_says(image: Path) -> None:
    with stored(image) as (_, source):
        assert open_stream(source, SIZE - 512) is None


def places_of(path: Path) -> tuple[int, int, int]:
    """Where the directory, its first table and the first grain are, in bytes."""
    content = path.read_bytes()
    header = content[:512]
    if header[56:64] == b"\xff" * 8:
        header = content[-1024:-512]
    directory = int.from_bytes(header[56:64], "little") * 512
    table = int.from_bytes(content[directory : directory + 4], "little") * 512
    grain = int.from_bytes(content[table : table + 4], "little") * 512
    return directory, table, grain


def number(value: int) -> bytes:
    return struct.pack("<I", value)


@pytest.mark.parametrize(
    ("which", "offset", "data"),
    [
        (0, 0, number(0xFFFFFFFF)),
        (0, 0, number(0x10000)),
        (1, 0, number(0xFFFFFFFF)),
        (1, 4, number(1)),
        (2, 8, number(0)),
        (2, 8, number(0xFFFFFFFF)),
        (2, 8, number(2 * GRAIN)),
        (2, 8, number(10)),
        (2, 12, b"\xee\xee"),
        (2, 2000, b"\xee" * 50),
    ],
)
def test_one_that_was_tampered_with_is_refused(
    image: Path, tmp_path: Path, which: int, offset: int, data: bytes
) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(image.read_bytes())
    patch(copy, places_of(copy)[which] + offset, data)
    with opened(copy) as (_, stream), pytest.raises(ImageFailed) as caught:
        disk_read_by(stream, 2 * MiB)
    assert caught.value.code is FailureCode.CORRUPT_IMAGE


def test_a_directory_outside_the_file_is_refused(image: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(image.read_bytes())
    os.truncate(copy, 2048)
    with stored(copy) as (_, source), pytest.raises(ImageFailed):
        open_stream(source, SIZE)


def without_end(content: bytes) -> bytes:
    deflating = zlib.compressobj()
    return deflating.compress(content) + deflating.flush(zlib.Z_SYNC_FLUSH)


@pytest.mark.parametrize(
    "deflated",
    [
        pytest.param(zlib.compress(bytes(100 * MiB)), id="100 KiB that become 100 MiB"),
        pytest.param(zlib.compress(bytes(GRAIN + 1)), id="a byte too many"),
        pytest.param(without_end(bytes(GRAIN)), id="no end"),
    ],
)
def test_a_grain_inflates_to_its_size_and_costs_no_more_than_that(image: Path, tmp_path: Path, deflated: bytes) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(image.read_bytes())
    _, table, _ = places_of(copy)
    at = -(-copy.stat().st_size // 512) * 512
    patch(copy, table, number(at // 512))
    with copy.open("r+b") as file:
        file.seek(at)
        file.write(struct.pack("<QI", 0, len(deflated)) + deflated)
        file.truncate(at + 512 * KiB)
    footer = image.read_bytes()[-1536:]
    patch(copy, -1536, footer)
    tracemalloc.start()
    try:
        with opened(copy) as (_, stream), pytest.raises(ImageFailed):
            stream.read_into(0, memoryview(bytearray(GRAIN)))
        assert tracemalloc.get_traced_memory()[1] < 20 * MiB
    finally:
        tracemalloc.stop()


def test_random_damage_is_refused_or_read_and_nothing_else(image: Path, tmp_path: Path) -> None:
    numbers = random.Random(6)
    content = image.read_bytes()
    directory, table, grain = places_of(image)
    copy = tmp_path / "copy"
    for _ in range(30):
        damaged = bytearray(content)
        for _ in range(3):
            place = numbers.choice([directory, table, grain, numbers.randrange(len(content))]) + numbers.randrange(64)
            damaged[place % len(content)] = numbers.randrange(256)
        copy.write_bytes(damaged)
        with stored(copy) as (_, source):
            with suppress(ImageFailed):
                stream = open_stream(source, SIZE)
                if stream is not None:
                    with stream:
                        assert sum(length for length, _ in stream.block_status(0, SIZE)) == SIZE
                        assert len(disk_read_by(stream, 8 * MiB)) == SIZE
