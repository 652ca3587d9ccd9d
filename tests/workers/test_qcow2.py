"""The table builder: whatever map it is given, qemu-img finds its tables sound and reads the mapped bytes."""

import itertools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.images import KiB, MiB, make, qemu_img, raw_disk
from workers.qcow2.clusters import Runs
from workers.qcow2.extents import Extents
from workers.qcow2.metadata import (
    COMPRESSION_TYPE,
    EXTENSION_BITMAPS,
    Header,
    Layout,
    MalformedHeader,
    TablesTooLarge,
    extension_types,
    lay_out,
    read_header,
    write_header,
)

needs_qemu = pytest.mark.needs_program("qemu-img")
TiB = 1 << 40


def extents_of(*runs: tuple[int, int, int]) -> Extents:
    extents = Extents()
    for run in runs:
        extents.add(*run)
    return extents


def extents_in(layout: Layout) -> Extents:
    assert isinstance(layout.clusters, Runs)
    return layout.clusters.extents


def write_image(path: Path, layout: Layout) -> None:
    """Header and tables into a file, and into each cluster of data its own address on the disk, all over it."""
    with path.open("wb") as file:
        file.truncate(layout.file_size)
        file.write(layout.header())
        for start, length, offset in extents_in(layout):
            for place in range(0, length, 512):
                file.seek(offset + place)
                file.write((start + place).to_bytes(8, "big") * 64)
        file.seek(layout.tables_at)
        for piece in layout.tables():
            file.write(piece)
        assert file.tell() == layout.tables_at + layout.tables_size


def mapped(path: Path) -> list[tuple[int, int, int]]:
    """Where qemu-img finds the data of a disk: start, length, offset in the file."""
    found = json.loads(qemu_img("map", "--output=json", "-f", "qcow2", str(path)))
    return [(entry["start"], entry["length"], entry["offset"]) for entry in found if entry["data"]]


def assert_reads_back(path: Path, layout: Layout) -> None:
    """qemu-img finds no fault, and reads what write_image put there, zeros elsewhere."""
    report = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(path)))
    assert not report.get("leaks")
    assert not report.get("corruptions")
    clusters = sum(-(-length // layout.cluster_size) for length in extents_in(layout).lengths)
    assert report.get("allocated-clusters", 0) == clusters
    assert layout.stored_size == (1 + clusters) * layout.cluster_size + layout.tables_size
    raw = path.with_suffix(".raw")
    with raw.open("wb") as file:
        file.truncate(layout.virtual_size)
        for start, length, _ in extents_in(layout):
            file.seek(start)
            file.write(b"".join((start + place).to_bytes(8, "big") * 64 for place in range(0, length, 512)))
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(path))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """A disk of any size and cluster size, its data anywhere on it and anywhere in the file, in any order."""
    size = 1 << draw(st.integers(9, 21))
    last = draw(st.integers(1, 60))
    virtual_size = last * size - draw(st.integers(0, size // 512 - 1)) * 512
    used = sorted(draw(st.sets(st.integers(0, last - 1), max_size=8 if size > 64 * KiB else 30)))
    places = draw(st.permutations(range(len(used))))
    gap = draw(st.integers(0, 3))
    tables_first = draw(st.booleans())
    data_at = 1000 * size if tables_first else size
    extents = Extents()
    for index, place in zip(used, places, strict=True):
        start = index * size
        extents.add(start, min(size, virtual_size - start), data_at + place * (gap + 1) * size)
    tables_at = size if tables_first else data_at + (len(used) * (gap + 1) + draw(st.integers(0, 40))) * size
    return lay_out(virtual_size, size, extents, tables_at)


@needs_qemu
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layout=layouts())
def test_any_map_is_read_back(layout: Layout) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        write_image(path, layout)
        assert_reads_back(path, layout)


@needs_qemu
@pytest.mark.parametrize("size", [512, 4 * KiB, 64 * KiB, 2 * MiB])
def test_an_empty_disk_is_read_back(tmp_path: Path, size: int) -> None:
    layout = lay_out(10 * MiB, size, Extents(), size)
    write_image(tmp_path / "image", layout)
    assert_reads_back(tmp_path / "image", layout)


@needs_qemu
@pytest.mark.parametrize("size", [512, 4 * KiB, 64 * KiB])
def test_a_full_disk_in_one_extent_is_read_back(tmp_path: Path, size: int) -> None:
    layout = lay_out(6 * MiB, size, extents_of((0, 6 * MiB, size)), size + 6 * MiB)
    write_image(tmp_path / "image", layout)
    assert_reads_back(tmp_path / "image", layout)


@needs_qemu
def test_a_hundred_thousand_extents_are_read_back(tmp_path: Path) -> None:
    size, count = 512, 100_000
    extents = Extents()
    # Their order in the file is such that no extent continues the one before.
    for index in range(count):
        extents.add(index * size, size, (1 + (index * 7919) % count) * size)
    layout = lay_out((count + 9) * size, size, extents, (count + 1) * size)
    assert len(extents_in(layout)) == count
    path = tmp_path / "image"
    write_image(path, layout)
    assert json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(path)))["allocated-clusters"] == count
    assert mapped(path) == list(extents_in(layout))


@needs_qemu
@pytest.mark.parametrize(
    ("virtual_size", "size"), [(16 * TiB, MiB), (16 * TiB, 2 * MiB), (TiB, 64 * KiB), (TiB - 512, 64 * KiB)]
)
def test_a_huge_disk_with_data_at_both_ends_is_sound(tmp_path: Path, virtual_size: int, size: int) -> None:
    end = (virtual_size - 1) // size * size
    extents = extents_of((0, size, size), (end, virtual_size - end, 2 * size))
    layout = lay_out(virtual_size, size, extents, 3 * size)
    path = tmp_path / "image"
    write_image(path, layout)
    report = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(path)))
    assert report["allocated-clusters"] == 2
    assert "leaks" not in report or report["leaks"] == 0
    assert mapped(path) == list(extents)


@needs_qemu
def test_a_terabyte_full_of_data_has_sound_tables_within_bounds(tmp_path: Path) -> None:
    virtual_size, size = TiB // 16, 64 * KiB
    layout = lay_out(virtual_size, size, extents_of((0, virtual_size, size)), size + virtual_size)
    assert layout.tables_size < virtual_size // 4096
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(layout.file_size)
        file.write(layout.header())
        file.seek(layout.tables_at)
        pieces = list(layout.tables())
        file.writelines(pieces)
    assert max(len(piece) for piece in pieces) <= 2 * MiB
    report = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(path)))
    assert report["allocated-clusters"] == virtual_size // size
    assert report["image-end-offset"] == layout.file_size


@pytest.mark.parametrize("size", [512, 1024])
def test_tables_that_qemu_would_not_open_are_not_built(size: int) -> None:
    with pytest.raises(TablesTooLarge):
        lay_out(16 * TiB, size, Extents(), size)


@needs_qemu
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_the_header_that_qemu_writes_is_read(tmp_path: Path, compat: str) -> None:
    raw = raw_disk(tmp_path / "raw", 3 * MiB, [(0, MiB)])
    head = make(raw, tmp_path / "image", "qcow2", compat=compat, cluster_size="4k").read_bytes()[:4096]
    header = read_header(head)
    assert (header.size, header.cluster_size, header.version) == (3 * MiB, 4096, 2 if compat == "0.10" else 3)
    assert header.nb_snapshots == header.crypt_method == header.backing_file_offset == 0


@needs_qemu
def test_extensions_are_listed(tmp_path: Path) -> None:
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", str(image), "3M")
    qemu_img("bitmap", "--add", "-f", "qcow2", str(image), "changes")
    head = image.read_bytes()[:65536]
    assert EXTENSION_BITMAPS in extension_types(head, read_header(head))


def test_a_header_that_is_written_is_read_back() -> None:
    header = Header(3, 0, 0, 16, 5 << 30, 0, 7, 1 << 16, 1 << 17, 1, 0, 0, header_length=104)
    assert read_header(write_header(header)) == header
    zstd = replace(header, incompatible=COMPRESSION_TYPE, compression_type=1, header_length=112)
    assert read_header(write_header(zstd)) == zstd
    assert len(write_header(header)) == len(write_header(zstd)) == 512
    assert extension_types(write_header(zstd), zstd) == []


def test_what_is_dropped_from_a_header_does_not_come_back() -> None:
    header = Header(3, 4096, 9, 16, 5 << 30, 1, 7, 1 << 16, 1 << 17, 1, 3, 1 << 18, 1, 1, 1, 4, 112, 0)
    clean = read_header(write_header(header))
    assert clean == Header(3, 0, 0, 16, 5 << 30, 0, 7, 1 << 16, 1 << 17, 1, 0, 0, header_length=104)


@pytest.mark.parametrize(
    "head", [b"", b"QFI", b"QFI\xfb", b"x" * 200, b"QFI\xfb\0\0\0\2" + bytes(50), b"QFI\xfb\0\0\0\4" + bytes(200)]
)
def test_what_is_no_header_is_named_so(head: bytes) -> None:
    with pytest.raises(MalformedHeader):
        read_header(head)


def test_tables_come_in_the_order_of_the_disk_whatever_the_order_in_the_file() -> None:
    size = 64 * KiB
    span = size * size // 8
    layout = lay_out(3 * span, size, extents_of((0, size, 5 * size), (2 * span, size, 3 * size)), 10 * size)
    pieces = itertools.islice(layout.tables(), 3)
    l1, first, second = (memoryview(piece).cast("B")[:24].hex() for piece in pieces)
    assert l1[16:32] == "0" * 16
    assert first.startswith(f"{5 * size | 1 << 63:016x}")
    assert second.startswith(f"{3 * size | 1 << 63:016x}")
