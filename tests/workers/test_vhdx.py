"""A VHDX's own table of blocks, read by us: hostile ones do no harm."""

import struct
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.workers.conftest import Workbench
from tests.workers.images import KiB, MiB, dense_disk, inspected, make, patch, raw_disk
from workers.inspection.vhdx import (
    BAT,
    FILE_PARAMETERS,
    LOGICAL_SECTOR_SIZE,
    METADATA,
    PARENT_LOCATOR,
    REGIONS_AT,
    VIRTUAL_DISK_SIZE,
    VhdxFacts,
    payload,
)

PHYSICAL_SECTOR_SIZE = UUID("cda348c7-445d-4471-9cc9-e9885251c556")

pytestmark = pytest.mark.needs_program("qemu-img")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return make(dense_disk(tmp_path / "disk.raw", 8 * MiB), tmp_path / "image", "vhdx", block_size="1M")


def place_of(image: Path, guid: UUID, begin: int, end: int) -> int:
    """The place of the entry with this GUID in a table of the file."""
    return begin + image.read_bytes()[begin:end].index(guid.bytes_le)


def region(image: Path, guid: UUID) -> int:
    entry = place_of(image, guid, REGIONS_AT, REGIONS_AT + 64 * KiB)
    return int.from_bytes(image.read_bytes()[entry + 16 : entry + 24], "little")


def edit_region(image: Path, guid: UUID, offset: int) -> None:
    patch(image, place_of(image, guid, REGIONS_AT, REGIONS_AT + 64 * KiB) + 16, struct.pack("<Q", offset))


def metadata_entry(image: Path, guid: UUID) -> int:
    table = region(image, METADATA)
    return place_of(image, guid, table, table + 64 * KiB)


def edit_item(image: Path, guid: UUID, data: bytes) -> None:
    """Overwrite the beginning of a metadata item."""
    entry = metadata_entry(image, guid)
    offset = int.from_bytes(image.read_bytes()[entry + 16 : entry + 20], "little")
    patch(image, region(image, METADATA) + offset, data)


def rename_item(image: Path, before: UUID, after: UUID) -> None:
    patch(image, metadata_entry(image, before), after.bytes_le)


def inspect(image: Path) -> VhdxFacts:
    facts = inspected(image, DiskFormat.VHDX).facts
    assert isinstance(facts, VhdxFacts)
    return facts


def blocks_of(image: Path) -> list[tuple[int, int, int]]:
    content = image.read_bytes()
    return list(payload(inspect(image), lambda offset, length: content[offset : offset + length], len(content)))


def edit_bat(image: Path, block: int, entry: int) -> None:
    patch(image, region(image, BAT) + 8 * block, struct.pack("<Q", entry))


def test_the_blocks_are_found_where_qemu_put_them(image: Path, tmp_path: Path) -> None:
    raw, content = (tmp_path / "disk.raw").read_bytes(), image.read_bytes()
    found = blocks_of(image)
    assert sum(length for _, length, _ in found) == 8 * MiB
    for start, length, offset in found:
        assert content[offset : offset + length] == raw[start : start + length]


@pytest.mark.parametrize("state", [0, 1, 2, 3, 5])
def test_blocks_that_are_not_present_read_as_zeros(image: Path, state: int) -> None:
    edit_bat(image, 0, 5 * MiB | state)
    assert blocks_of(image)[0][0] == 1 * MiB


@pytest.mark.parametrize("entry", [5 * MiB | 7, 5 * MiB | 4, 6])
def test_blocks_in_a_state_that_is_not_known_are_refused(image: Path, entry: int) -> None:
    edit_bat(image, 3, entry)
    with pytest.raises(ImageFailed) as caught:
        blocks_of(image)
    assert caught.value.code is FailureCode.CORRUPT_IMAGE
    assert "block 3" in caught.value.message


def test_a_table_that_is_too_short_is_refused(image: Path) -> None:
    entry = place_of(image, BAT, REGIONS_AT, REGIONS_AT + 64 * KiB)
    patch(image, entry + 24, struct.pack("<I", 7 * 8))
    with pytest.raises(ImageFailed) as caught:
        blocks_of(image)
    assert caught.value.code is FailureCode.CORRUPT_IMAGE


def test_blocks_that_overlap_are_refused(tmp_path: Path) -> None:
    image = make(dense_disk(tmp_path / "disk.raw", 8 * MiB), tmp_path / "image", "vhdx", block_size="2M")
    (_, _, offset), *_ = blocks_of(image)
    edit_bat(image, 3, offset + 1 * MiB | 6)
    with pytest.raises(ImageFailed) as caught:
        blocks_of(image)
    assert caught.value.code is FailureCode.UNSAFE_IMAGE


def test_blocks_far_apart_are_found_in_a_long_table(tmp_path: Path) -> None:
    # Each MiB of the table is for 128 GiB, and the last one ends within a step of it.
    runs = [(place * MiB, 1 * MiB) for place in (0, 511, 512, 4096, 131_071, 131_072, 300_000, 300_006)]
    raw = raw_disk(tmp_path / "disk.raw", 300_007 * MiB, runs)
    image = make(raw, tmp_path / "image", "vhdx", block_size="1M")
    assert [start for start, _, _ in unmerged(blocks_of(image))] == [start for start, _ in runs]


def unmerged(blocks: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Runs of blocks of 1 MiB, block by block."""
    return [(start + done, MiB, offset + done) for start, length, offset in blocks for done in range(0, length, MiB)]


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda image: patch(image, REGIONS_AT, b"nope"), FailureCode.CORRUPT_IMAGE),
        (lambda image: patch(image, REGIONS_AT + 8, struct.pack("<I", 2048)), FailureCode.CORRUPT_IMAGE),
        (lambda image: edit_region(image, BAT, 1 << 62), FailureCode.CORRUPT_IMAGE),
        (lambda image: edit_region(image, METADATA, 64 * KiB), FailureCode.CORRUPT_IMAGE),
        (lambda image: patch(image, region(image, METADATA), b"nope"), FailureCode.CORRUPT_IMAGE),
        (lambda image: patch(image, metadata_entry(image, VIRTUAL_DISK_SIZE), bytes(16)), FailureCode.CORRUPT_IMAGE),
        (lambda image: edit_item(image, FILE_PARAMETERS, struct.pack("<I", 3 * MiB)), FailureCode.CORRUPT_IMAGE),
        (lambda image: edit_item(image, FILE_PARAMETERS, struct.pack("<I", 512)), FailureCode.CORRUPT_IMAGE),
        (lambda image: edit_item(image, VIRTUAL_DISK_SIZE, bytes(8)), FailureCode.CORRUPT_IMAGE),
        (lambda image: edit_item(image, VIRTUAL_DISK_SIZE, struct.pack("<Q", 1 << 62)), FailureCode.TOO_LARGE),
        (lambda image: edit_item(image, LOGICAL_SECTOR_SIZE, struct.pack("<I", 4096)), FailureCode.UNSUPPORTED_FORMAT),
        (lambda image: edit_item(image, FILE_PARAMETERS, struct.pack("<II", MiB, 2)), FailureCode.UNSAFE_IMAGE),
        (lambda image: rename_item(image, PHYSICAL_SECTOR_SIZE, PARENT_LOCATOR), FailureCode.UNSAFE_IMAGE),
    ],
)  # fmt: skip
def test_structures_that_make_no_sense_are_refused(
    image: Path, damage: Callable[[Path], Path | None], code: FailureCode
) -> None:
    damage(image)
    with pytest.raises(ImageFailed) as caught:
        inspect(image)
    assert caught.value.code is code


@pytest.mark.parametrize("offset", [64 << 20, 1 << 50, 0xFFFFFFFFFFF00000])
def test_a_block_outside_the_file_is_refused(workbench: Workbench, image: Path, offset: int) -> None:
    edit_bat(image, 3, offset | 6)
    image.rename(workbench.source)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(DiskFormat.VHDX)
    assert caught.value.code is FailureCode.CORRUPT_IMAGE
    assert workbench.names() == {"source"}


def test_two_blocks_in_the_same_place_are_refused(workbench: Workbench, image: Path) -> None:
    (_, _, offset), *_ = blocks_of(image)
    edit_bat(image, 3, offset | 6)
    image.rename(workbench.source)

    with pytest.raises(ImageFailed) as caught:
        workbench.convert(DiskFormat.VHDX)

    assert caught.value.code is FailureCode.UNSAFE_IMAGE
    assert workbench.names() == {"source"}
