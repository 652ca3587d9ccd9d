"""A packed disk reads back as the same disk, wherever its data is stored and whichever clusters are compressed."""

import itertools
import json
import random
import tempfile
from array import array
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.images import KiB, MiB, qemu_img
from workers.qcow2 import clusters, packing
from workers.qcow2.clusters import PackedClusters, PackedRange, Runs
from workers.qcow2.extents import Extents
from workers.qcow2.metadata import front_size, lay_out, read_header, tables_touched
from workers.qcow2.packing import Disk, Packed, Packer, runs_within
from workers.store.ranges import stretches

needs_qemu = pytest.mark.needs_program("qemu-img")


def disk_of(content: bytes, extents: Extents | None = None, source: bytes | None = None) -> Disk:
    """A disk in memory; without extents all of it is data, at its own offsets."""
    if extents is None:
        extents = Extents()
        extents.add(0, len(content), 0)
    stored = content if source is None else source

    def read_into(offset: int, buffer: memoryview) -> None:
        found = stored[offset : offset + len(buffer)]
        assert len(found) == len(buffer)
        buffer[:] = found

    return Disk(len(content), extents, read_into)


def packed_image(path: Path, packer: Packer, bounds: list[int]) -> None:
    """A qcow2 of ranges of a disk, packed each for itself: from one of the bounds to before the next, in clusters."""
    size = packer.cluster_size
    ranges: list[tuple[int, array[int]]] = []
    data: list[bytes] = []
    for first, last in itertools.pairwise(bounds):
        sizes, done = array("I"), b""
        for batch in range(first, last, packer.batch):
            packed = packer.pack(batch)
            sizes.extend(packed.sizes)
            done += bytes(-len(done) % size if packed.plain else 0) + packed.plain + b"".join(packed.compressed)
        ranges.append((first, sizes))
        data.append(done + bytes(-len(done) % size))
    length = sum(map(len, data))

    def placed(at: int) -> PackedClusters:
        found = []
        for (first, sizes), part in zip(ranges, data, strict=True):
            found.append(PackedRange(first, sizes, at))
            at += len(part)
        return PackedClusters(found, size, at)

    front = front_size(packer.disk.size, size, tables_touched(placed(0), size), 0, length)
    layout = lay_out(packer.disk.size, size, placed(front), size)
    head = layout.header().ljust(size, b"\0") + b"".join(layout.tables())
    path.write_bytes(head.ljust(front, b"\0") + b"".join(data))
    report = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(path)))
    assert not report.get("leaks")
    assert not report.get("corruptions")
    assert layout.file_size == path.stat().st_size
    used = [length for _, sizes in ranges for length in sizes if length]
    assert report.get("allocated-clusters", 0) == len(used)
    assert report.get("compressed-clusters", 0) == sum(length < size for length in used)


@st.composite
def contents(draw: st.DrawFn) -> tuple[int, bytes]:
    """A cluster size, and a disk of zeros, of bytes that shrink, and of bytes that don't, cluster by cluster."""
    size = 1 << draw(st.integers(9, 17))
    kinds = draw(st.lists(st.sampled_from("0scr"), min_size=1, max_size=40))
    numbers = random.Random(draw(st.integers(0, 99)))
    blocks = {
        "0": lambda: bytes(size),
        "s": lambda: b"same" * (size // 4),
        "c": lambda: numbers.randbytes(size // 2) + bytes(size // 2),
        "r": lambda: numbers.randbytes(size),
    }
    content = b"".join(blocks[kind]() for kind in kinds)
    return size, content[: len(content) - draw(st.integers(0, size // 512 - 1)) * 512]


@needs_qemu
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(made=contents(), compress=st.booleans(), batch=st.integers(1, 12), cuts=st.sets(st.integers(1, 12), max_size=3))
def test_any_disk_is_read_back_in_however_many_ranges(
    made: tuple[int, bytes], compress: bool, batch: int, cuts: set[int]
) -> None:
    size, content = made
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_BATCH", batch * size)
        packer = Packer(disk_of(content), size, compress=compress)
        bounds = [0, *sorted({cut * batch for cut in cuts if cut * batch < packer.clusters}), packer.clusters]
        path = Path(name) / "image"
        packed_image(path, packer, bounds)
        raw = path.with_suffix(".raw")
        raw.write_bytes(content)
        qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(path))
        header = read_header(path.read_bytes()[:512])
        assert header.size == len(content)


@st.composite
def mapped_disks(draw: st.DrawFn) -> tuple[bytes, Extents, bytes]:
    """A disk in sectors, some of them data, which are stored in a source in any order and at any distance."""
    sectors = draw(st.lists(st.booleans(), min_size=1, max_size=60))
    numbers = random.Random(draw(st.integers(0, 99)))
    content = b"".join(numbers.randbytes(512) if data else bytes(512) for data in sectors)
    places = [index for index, data in enumerate(sectors) if data]
    order = draw(st.permutations(places))
    gap = draw(st.integers(0, 3)) * 512
    source = bytearray()
    offsets = {}
    for place in order:
        offsets[place] = len(source)
        source += content[place * 512 : place * 512 + 512] + b"x" * gap
    extents = Extents()
    for place in places:
        extents.add(place * 512, 512, offsets[place])
    return content, extents, bytes(source)


@settings(max_examples=200, deadline=None)
@given(made=mapped_disks(), bits=st.integers(9, 13), batch=st.integers(1, 5), at_once=st.integers(1, 9))
def test_data_is_read_from_wherever_a_map_says(
    made: tuple[bytes, Extents, bytes], bits: int, batch: int, at_once: int
) -> None:
    content, extents, source = made
    size = 1 << bits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_BATCH", batch * size)
        patch.setattr(packing, "_AT_ONCE", at_once * 512)
        packer = Packer(disk_of(content, extents, source), size)
        found = b"".join(unpacked(packer.pack(first), size) for first in range(0, packer.clusters, packer.batch))
    assert found[: len(content)] == content
    assert not any(found[len(content) :])


@settings(max_examples=200, deadline=None)
@given(made=mapped_disks(), batch=st.integers(1, 5), cut=st.integers(0, 12))
def test_a_batch_that_is_passed_over_holds_nothing(made: tuple[bytes, Extents, bytes], batch: int, cut: int) -> None:
    content, extents, source = made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_BATCH", batch * KiB)
        packer = Packer(disk_of(content, extents, source), KiB)
        middle = min(cut * batch, packer.clusters)
        named = [*packer.batches(0, middle), *packer.batches(middle, packer.clusters)]
        holding = [first for first in range(0, packer.clusters, batch) if packer.pack(first).length]
    assert named == sorted(set(named))
    assert set(holding) <= set(named) <= set(range(0, packer.clusters, batch))
    # Sectors of data are half a cluster: none is named in vain.
    assert holding == named


@given(sizes=st.lists(st.sampled_from([0, 0, 0, 7, 8]), max_size=60), batch=st.integers(1, 5))
def test_stretches_are_all_that_is_not_zeros(sizes: list[int], batch: int) -> None:
    found = list(stretches(array("I", sizes), batch))
    kept = [0] * len(sizes)
    for begin, numbers in found:
        assert begin % batch == 0
        assert all(any(numbers[place : place + batch]) for place in range(0, len(numbers), batch))
        kept[begin : begin + len(numbers)] = numbers
    assert kept == sizes
    # Between two of them is at least one batch.
    assert all(begin + len(numbers) + batch <= after for (begin, numbers), (after, _) in itertools.pairwise(found))


def unpacked(packed: Packed, size: int) -> bytes:
    """A batch without compression, as it is on the disk."""
    plain = iter(range(0, len(packed.plain), size))
    return b"".join(
        bytes(packed.plain[(place := next(plain)) : place + size]) if length else bytes(size) for length in packed.sizes
    )


def test_sectors_of_zeros_within_data_are_left_out_in_whole_clusters() -> None:
    content = bytes(KiB) + b"x" * KiB + bytes(2 * KiB)
    packed = Packer(disk_of(content), KiB).pack(0)
    assert list(packed.sizes) == [0, KiB, 0, 0]
    assert bytes(packed.plain) == b"x" * KiB


def test_a_batch_with_little_data_keeps_little_memory() -> None:
    content = b"x" * (64 * KiB) + bytes(8 * MiB - 64 * KiB)
    packed = Packer(disk_of(content), 64 * KiB).pack(0)
    assert isinstance(packed.plain.obj, bytes)
    assert len(packed.plain.obj) == 64 * KiB


def test_a_batch_always_becomes_the_same_bytes() -> None:
    content = random.Random(7).randbytes(96 * KiB) + b"y" * (64 * KiB)
    packer = Packer(disk_of(content), 64 * KiB, compress=True)
    first, second = packer.pack(0), packer.pack(0)
    assert first == replace(second, buffer=first.buffer)
    assert first.compressed
    assert first.plain


def test_runs_are_cut_where_they_leave_the_range() -> None:
    extents = Extents()
    for start, length, offset in [(0, 10, 100), (20, 10, 200), (40, 10, 50)]:
        extents.add(start, length, offset)
    assert list(runs_within(extents, 5, 45)) == [(5, 5, 105), (20, 10, 200), (40, 5, 50)]
    assert list(runs_within(extents, 10, 20)) == []
    assert list(runs_within(Extents(), 0, 20)) == []


def test_runs_of_whole_clusters_and_packed_ones_agree_where_nothing_is_compressed() -> None:
    size = 64 * KiB
    sizes = array("I", [size, 0, size, size])
    packed = PackedClusters([PackedRange(0, sizes, 5 * size)], size, 8 * size)
    extents = Extents()
    extents.add(0, size, 5 * size)
    extents.add(2 * size, 2 * size, 6 * size)
    runs = Runs(extents, size)
    assert (packed.size, packed.end, packed.l2_indices()) == (runs.size, runs.end, runs.l2_indices())
    assert list(packed.l2_tables()) == list(runs.l2_tables())
    assert not packed.compressed
