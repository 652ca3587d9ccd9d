"""Both stores refuse an image that would have wrong bytes, and accept one that only seems damaged."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.fuzz.places import FolderPlace, Place, store_place
from tests.servers.minio import Minio
from tests.workers.images import (
    KiB,
    MiB,
    dense_disk,
    edit_vhd_footer,
    edit_vhdx_regions,
    make,
    patch,
    patch_number,
    qemu_img,
    raw_disk,
    scattered_disk,
)

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd")

Holds = Callable[[Path, Path], None]

QCOW2, VMDK = DiskFormat("QCOW2"), DiskFormat("VMDK")
CLUSTER = 64 * KiB


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "folder":
        yield FolderPlace(tmp_path / "store")
        return
    minio: Minio = request.getfixturevalue("minio")
    with store_place(minio, tmp_path / "bench") as place:
        yield place


def packed(folder: Path, compression: str) -> tuple[Path, Path]:
    """A raw disk, and a qcow2 of it whose clusters are compressed."""
    raw, image = raw_disk(folder / "disk.raw", 4 * MiB, [(0, 20 * KiB), (1 * MiB, 20 * KiB)]), folder / "image"
    kind = f"compression_type={compression}"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", "-o", kind, str(raw), str(image))
    return raw, image


def first_table(image: Path) -> int:
    """The offset of the first L2 table of a qcow2."""
    content = image.read_bytes()
    l1 = int.from_bytes(content[40:48], "big")
    return int.from_bytes(content[l1 : l1 + 8], "big") & ~(1 << 63)


def entry(image: Path, number: int) -> int:
    """An entry of that table."""
    place = first_table(image) + 8 * number
    return int.from_bytes(image.read_bytes()[place : place + 8], "big")


def refuse(place: Place, image: Path, declared: DiskFormat) -> ImageFailed:
    """Convert an image that has to be refused."""
    with pytest.raises(ImageFailed) as caught:
        place.convert(image.read_bytes(), declared)
    return caught.value


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("number", [0, 16], ids=["first", "last"])
def test_a_compressed_cluster_that_cannot_be_read_is_found(
    place: Place, tmp_path: Path, compression: str, number: int
) -> None:
    _, image = packed(tmp_path, compression)
    # A block of an invalid type, and no zstd frame.
    patch(image, entry(image, number) & (1 << 54) - 1, b"\xff\xff")
    failure = refuse(place, image, QCOW2)
    assert (failure.code, failure.retriable) == (FailureCode.CORRUPT_IMAGE, False)
    assert "damaged" in failure.message


def test_a_compressed_cluster_behind_the_end_of_the_disk_does_not_matter(
    place: Place, holds: Holds, tmp_path: Path
) -> None:
    raw, image = packed(tmp_path, "zlib")
    patch(image, entry(image, 16) & (1 << 54) - 1, b"\xff\xff")
    patch_number(image, 24, ">Q", 1 * MiB)
    with raw.open("r+b") as file:
        file.truncate(1 * MiB)
    made, result = place.convert(image.read_bytes(), QCOW2)
    assert made.way is Way.KEEP
    holds(result, raw)


@pytest.mark.parametrize("streamed", [False, True], ids=["monolithicSparse", "streamOptimized"])
@pytest.mark.parametrize("beyond", ["directory", "table"])
def test_a_vmdk_whose_tables_lie_behind_its_end_is_refused(
    place: Place, tmp_path: Path, beyond: str, streamed: bool
) -> None:
    kind = "streamOptimized" if streamed else "monolithicSparse"
    image = make(dense_disk(tmp_path / "disk.raw"), tmp_path / "image", "vmdk", subformat=kind)
    sectors = image.stat().st_size // 512
    directory = int.from_bytes(image.read_bytes()[56:64], "little")
    if beyond == "table":
        patch_number(image, 512 * directory, "<I", sectors + 8)
    else:
        patch(image, 48, struct.pack("<QQ", sectors + 8, sectors + 8))
    assert refuse(place, image, VMDK).code is FailureCode.CORRUPT_IMAGE


def zeroed(image: Path) -> None:
    """All clusters are free according to their reference counts."""
    table = int.from_bytes(image.read_bytes()[48:56], "big")
    block = int.from_bytes(image.read_bytes()[table : table + 8], "big")
    patch(image, block, bytes(CLUSTER))


def random_counts(image: Path) -> None:
    table = int.from_bytes(image.read_bytes()[48:56], "big")
    block = int.from_bytes(image.read_bytes()[table : table + 8], "big")
    patch(image, block, struct.pack(">32768H", *(number * 40503 % 65536 for number in range(32768))))


def counts_outside(image: Path) -> None:
    """The refcount block is past the end of the file."""
    table = int.from_bytes(image.read_bytes()[48:56], "big")
    patch_number(image, table, ">Q", 1 << 40)


def counts_between(image: Path) -> None:
    """The refcount block does not begin at a cluster boundary."""
    table = int.from_bytes(image.read_bytes()[48:56], "big")
    patch_number(image, table, ">Q", 3 * CLUSTER + 512)


def dirty(image: Path) -> None:
    """Its writer died, and had not counted its last clusters."""
    zeroed(image)
    patch_number(image, 72, ">Q", int.from_bytes(image.read_bytes()[72:80], "big") | 1)


@pytest.mark.parametrize("scramble", [zeroed, random_counts, counts_outside, counts_between, dirty])
@pytest.mark.parametrize("compression", ["", "zlib", "zstd"], ids=["plain", "zlib", "zstd"])
def test_a_qcow2_whose_reference_counts_are_wrong_is_taken_with_a_warning(
    place: Place, holds: Holds, tmp_path: Path, compression: str, scramble: Callable[[Path], None]
) -> None:
    if compression:
        raw, image = packed(tmp_path, compression)
    else:
        raw = scattered_disk(tmp_path / "disk.raw")
        image = make(raw, tmp_path / "image", "qcow2")
    scramble(image)
    made, result = place.convert(image.read_bytes(), QCOW2)
    assert made.way is (Way.COPY if compression else Way.REFERENCE)
    assert len(made.warnings) == 1
    assert "reference counts" in made.warnings[0]
    holds(result, raw)


def test_a_qcow2_that_names_its_own_tables_as_data_is_refused(place: Place, tmp_path: Path) -> None:
    image = make(dense_disk(tmp_path / "disk.raw"), tmp_path / "image", "qcow2")
    patch_number(image, first_table(image) + 8, ">Q", first_table(image) | 1 << 63)
    failure = refuse(place, image, QCOW2)
    assert failure.code is FailureCode.CORRUPT_IMAGE
    assert "tables" in failure.message


def test_a_qcow2_of_version_2_with_an_extension_is_taken(place: Place, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    image = make(raw, tmp_path / "image", "qcow2", compat="0.10")
    # Its length is stored where version 3 has the feature of an external data file.
    patch(image, 72, struct.pack(">II8sII", 0x12345678, 5, b"hello", 0, 0))
    made, result = place.convert(image.read_bytes(), QCOW2)
    assert made.warnings == ()
    holds(result, raw)


FARTHEST = b"\xff" * 8


def vhd_header_far(image: Path) -> None:
    for footer in (0, -512):
        edit_vhd_footer(image, (16, FARTHEST), at=footer)


@pytest.mark.parametrize(
    ("driver", "edit"),
    [
        ("vpc", vhd_header_far),
        ("vpc", lambda image: patch(image, 512 + 16, FARTHEST)),
        ("vhdx", lambda image: edit_vhdx_regions(image, (32, FARTHEST))),
        ("vhdx", lambda image: edit_vhdx_regions(image, (64, FARTHEST))),
        ("qcow2", lambda image: patch(image, 40, FARTHEST)),
        ("qcow2", lambda image: patch(image, 48, FARTHEST)),
        ("vmdk", lambda image: patch(image, 28, FARTHEST)),
        ("vmdk", lambda image: patch(image, 56, FARTHEST)),
    ],
    ids=[
        "vhd-header",
        "vhd-table",
        "vhdx-first-region",
        "vhdx-second-region",
        "qcow2-l1",
        "qcow2-refcounts",
        "vmdk-descriptor",
        "vmdk-directory",
    ],
)
def test_an_offset_that_no_file_has_is_refused(
    place: Place, tmp_path: Path, driver: str, edit: Callable[[Path], object]
) -> None:
    image = make(raw_disk(tmp_path / "disk.raw", 4 * MiB, [(0, 64 * KiB)]), tmp_path / "image", driver)
    edit(image)
    declared = DiskFormat("VHD" if driver == "vpc" else driver.upper())
    assert refuse(place, image, declared).code in (FailureCode.CORRUPT_IMAGE, FailureCode.UNSAFE_IMAGE)
