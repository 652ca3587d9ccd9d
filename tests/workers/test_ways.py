"""In a folder, every format goes its way, and comes out as the same disk: the contract, and what is special there."""

import hashlib
import os
import struct
from pathlib import Path

import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode, ImagePhase
from tests.workers.conftest import Workbench
from tests.workers.conversion_contract import QCOW2, RAW, VHD, VHDX, VMDK, ConversionContract, Holds
from tests.workers.images import (
    KiB,
    MiB,
    dense_disk,
    edit_vhd_footer,
    make,
    patch,
    patch_number,
    qemu_img,
    raw_disk,
    scattered_disk,
)
from workers.folder.pipeline import forget
from workers.inspection.inspect import inspect_head
from workers.limits import Limits
from workers.qemu import img

pytestmark = pytest.mark.needs_program("qemu-img")


class TestAFolderKeepsTheContract(ConversionContract):
    @pytest.fixture
    def place(self, workbench: Workbench) -> Workbench:
        return workbench


def test_a_preallocated_qcow2_with_holes_is_copied(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    raw = scattered_disk(tmp_path / "disk.raw")
    workbench.put(make(raw, tmp_path / "image", "qcow2", preallocation="metadata"))
    done = workbench.convert(QCOW2)
    assert (done.way, done.detected_format, done.virtual_size) == (Way.COPY, QCOW2, 24 * MiB)
    assert 5 * MiB < done.stored_size <= done.file_size == workbench.result.stat().st_size
    holds(workbench.result, raw)


@pytest.mark.parametrize(
    ("declared", "driver", "options", "way"),
    [
        (RAW, "raw", {}, Way.REFERENCE),
        (VHD, "vpc", {"force_size": "on", "subformat": "fixed"}, Way.REFERENCE),
        (VHD, "vpc", {"force_size": "on"}, Way.COPY),
        (VHDX, "vhdx", {"subformat": "fixed", "block_size": "1M"}, Way.COPY),
        (QCOW2, "qcow2", {}, Way.REFERENCE),
        (VMDK, "vmdk", {}, Way.REFERENCE),
    ],
)
def test_a_disk_full_of_data_stays_the_same_disk(
    workbench: Workbench,
    holds: Holds,
    tmp_path: Path,
    declared: DiskFormat,
    driver: str,
    options: dict[str, str],
    way: Way,
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 4 * MiB + 33 * 512)
    workbench.put(make(raw, tmp_path / "image", driver, **options))
    assert workbench.convert(declared).way is way
    holds(workbench.result, raw)


@pytest.mark.parametrize(
    ("declared", "driver", "options"),
    [
        (VHDX, "vhdx", {"block_size": "1M"}),
        (VHDX, "vhdx", {"block_size": "8M"}),
        (QCOW2, "qcow2", {"cluster_size": "2M"}),
        (VMDK, "vmdk", {}),
    ],
)
def test_a_large_disk_with_data_at_both_ends_is_taken_by_reference(
    workbench: Workbench, holds: Holds, tmp_path: Path, declared: DiskFormat, driver: str, options: dict[str, str]
) -> None:
    # More than 4,096 blocks of 1 MiB: a VHDX has the entry of a sector bitmap between them.
    raw = raw_disk(tmp_path / "disk.raw", 5120 * MiB, [(0, 24 * MiB), (5096 * MiB, 24 * MiB)])
    workbench.put(make(raw, tmp_path / "image", driver, **options))
    assert workbench.convert(declared).way is Way.REFERENCE
    holds(workbench.result, raw)


@pytest.mark.parametrize(
    ("declared", "driver", "options"),
    [
        (VHDX, "vhdx", {"block_size": "1M"}),
        (VHDX, "vhdx", {"block_size": "32M"}),
        (VHDX, "vhdx", {"block_size": "256M"}),
        (VMDK, "vmdk", {}),
    ],
)
def test_a_large_disk_is_copied_without_its_empty_places_being_read(
    workbench: Workbench,
    holds: Holds,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    declared: DiskFormat,
    driver: str,
    options: dict[str, str],
) -> None:
    # QEMU would read all of it, or check every grain.
    monkeypatch.delattr(img, "convert")
    size = (2 << 40) - 1 * MiB
    runs = [(0, 64 * KiB), (700_000 * MiB + 4 * KiB, 512), (size - 8 * MiB, 128 * KiB), (size - 512, 512)]
    raw = raw_disk(tmp_path / "disk.raw", size, runs)
    workbench.put(make(raw, tmp_path / "image", driver, **options))
    done = workbench.convert(declared)
    assert done.way is Way.COPY
    # Header, L1, refcount table, refcounts; 3 L2 tables; 5 clusters of data.
    assert done.stored_size == done.file_size == workbench.result.stat().st_size == (4 + 3 + 5) * 64 * KiB
    holds(workbench.result, raw)


def test_zeros_within_the_blocks_of_a_vhdx_are_left_out(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 64 * MiB, [(start * MiB, 64 * KiB) for start in range(64)])
    make(raw, workbench.source, "vhdx", block_size="1M")
    # No hole is left in the file, as on a filesystem that has none.
    workbench.source.write_bytes(workbench.source.read_bytes())
    done = workbench.convert(VHDX, Limits(ways=frozenset({Way.COPY})))
    assert done.stored_size == done.file_size < 5 * MiB
    holds(workbench.result, raw)


def test_progress_of_a_vhdx_counts_its_disk(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(make(scattered_disk(tmp_path / "disk.raw"), tmp_path / "image", "vhdx"))
    workbench.convert(VHDX)
    converting = [(done, total) for phase, done, total in workbench.reported if phase is ImagePhase.CONVERTING]
    assert len(converting) > 2
    assert converting == sorted(converting)
    assert converting[-1] == (24 * MiB, 24 * MiB)


@pytest.mark.parametrize("ways", [{Way.REFERENCE, Way.COPY}, {Way.KEEP, Way.COPY}, {Way.COPY}])
def test_all_three_ways_lead_to_the_same_disk(
    workbench: Workbench, holds: Holds, tmp_path: Path, ways: set[Way]
) -> None:
    raw = scattered_disk(tmp_path / "disk.raw")
    workbench.put(make(raw, tmp_path / "image", "qcow2"))
    done = workbench.convert(QCOW2, Limits(ways=frozenset(ways)))
    assert done.way is min(ways, key=[Way.REFERENCE, Way.KEEP, Way.COPY].index)
    holds(workbench.result, raw)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
def test_a_clean_compressed_qcow2_gets_a_new_header_and_no_extensions(
    workbench: Workbench, holds: Holds, tmp_path: Path, compression: str
) -> None:
    raw = scattered_disk(tmp_path / "disk.raw")
    image = tmp_path / "image"
    qemu_img("convert", "-c", "-O", "qcow2", "-o", f"compression_type={compression}", "-f", "raw", str(raw), str(image))
    workbench.put(image)
    before = image.read_bytes()
    done = workbench.convert(QCOW2)
    after = workbench.result.read_bytes()
    assert done.way is Way.KEEP
    assert after[512:] == before[512:]
    assert after[int.from_bytes(after[100:104], "big") :][:8] == bytes(8)
    holds(workbench.result, raw)


def test_a_dirty_qcow2_whose_tables_agree_is_taken(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    workbench.put(patch_number(make(raw, tmp_path / "image", "qcow2"), 72, ">Q", 1))
    assert workbench.convert(QCOW2).way is Way.REFERENCE
    holds(workbench.result, raw)


def test_a_result_can_be_uploaded_again(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    workbench.put(raw)
    workbench.convert(RAW)
    forget(workbench.result)
    workbench.result.rename(workbench.source)
    assert workbench.convert(QCOW2).way is Way.REFERENCE
    holds(workbench.result, raw)


def test_what_lies_behind_the_end_of_a_disk_does_not_show_when_it_grows(workbench: Workbench, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 4 * MiB + 512)
    workbench.put(make(raw, tmp_path / "image", "vpc", subformat="fixed", force_size="on"))
    assert workbench.convert(VHD).way is Way.REFERENCE
    qemu_img("resize", "-f", "qcow2", str(workbench.result), "5M")
    os.truncate(raw, 5 * MiB)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(workbench.result))


@pytest.mark.parametrize(("driver", "declared"), [("raw", RAW), ("qcow2", QCOW2), ("vmdk", VMDK), ("vhdx", VHDX)])
def test_an_empty_disk_is_taken(
    workbench: Workbench, holds: Holds, tmp_path: Path, driver: str, declared: DiskFormat
) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 8 * MiB, [])
    workbench.put(make(raw, tmp_path / "image", driver))
    assert workbench.convert(declared).stored_size < MiB
    holds(workbench.result, raw)


# Cylinders, heads and sectors per track: of half a MiB, of nothing, and of 127 GiB.
GEOMETRIES = {"short": bytes([0, 1, 16, 63]), "none": bytes(4), "long": bytes([255, 255, 16, 255])}


def vhd_by(creator: bytes, geometry: bytes, raw: Path, subformat: str) -> Path:
    image = make(raw, raw.with_name("image"), "vpc", subformat=subformat, force_size="on")
    for at in (-512, 0) if subformat == "dynamic" else (-512,):
        edit_vhd_footer(image, (28, creator), (56, geometry), at=at)
    return image


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("creator", [b"vbox", b"wa\0\0", b"vs  ", b"win ", b"qem2", b"\0\0\0\0"])
def test_a_vhd_is_as_large_as_its_creator_meant(
    workbench: Workbench, holds: Holds, tmp_path: Path, creator: bytes, geometry: str, subformat: str
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 4 * MiB + 512)
    workbench.put(vhd_by(creator, GEOMETRIES[geometry], raw, subformat))
    assert workbench.convert(VHD).virtual_size == 4 * MiB + 512
    holds(workbench.result, raw)


@pytest.mark.parametrize("subformat", ["dynamic", "fixed"])
@pytest.mark.parametrize("geometry", ["short", "none"])
@pytest.mark.parametrize("creator", [b"vpc ", b"qemu"])
def test_a_vhd_with_data_behind_its_geometry_is_as_large_as_its_data(
    workbench: Workbench, holds: Holds, tmp_path: Path, creator: bytes, geometry: str, subformat: str
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 6 * MiB)
    workbench.put(vhd_by(creator, GEOMETRIES[geometry], raw, subformat))
    assert workbench.convert(VHD).virtual_size == 6 * MiB
    holds(workbench.result, raw)


@pytest.mark.parametrize("creator", [b"vpc ", b"qemu"])
def test_a_dynamic_vhd_without_data_behind_its_geometry_is_as_large_as_that(
    workbench: Workbench, holds: Holds, tmp_path: Path, creator: bytes
) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 6 * MiB, [(0, 64 * KiB)])
    workbench.put(vhd_by(creator, bytes([0, 2, 16, 63]), raw, "dynamic"))
    size = 2 * 16 * 63 * 512
    assert workbench.convert(VHD).virtual_size == size
    os.truncate(raw, size)
    holds(workbench.result, raw)


@pytest.mark.parametrize(
    ("at", "magic"),
    [
        (0x8001, b"CD001"),
        (0, b"LUKS\xba\xbe"),
        (0, b"\x1f\x8b"),
        (257, b"ustar"),
        (0, b"QFI\xfb"),
        (0, b"KDMV"),
        (0, b"vhdxfile"),
    ],
)
def test_what_the_disk_in_a_fixed_vhd_begins_with_does_not_matter(
    workbench: Workbench, holds: Holds, tmp_path: Path, at: int, magic: bytes
) -> None:
    raw = patch(dense_disk(tmp_path / "disk.raw"), at, magic)
    image = make(raw, tmp_path / "image", "vpc", subformat="fixed", force_size="on")
    inspect_head(image.read_bytes()[: 256 * KiB], VHD, image.stat().st_size)
    workbench.put(image)
    assert workbench.convert(VHD).virtual_size == 4 * MiB
    holds(workbench.result, raw)


def test_a_vhd_with_a_block_behind_its_current_size_is_refused(workbench: Workbench, tmp_path: Path) -> None:
    image = make(dense_disk(tmp_path / "disk.raw", 6 * MiB), tmp_path / "image", "vpc", force_size="on")
    for at in (-512, 0):
        edit_vhd_footer(image, (48, struct.pack(">Q", 4 * MiB)), at=at)
    workbench.put(image)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(VHD)
    assert caught.value.code is FailureCode.CORRUPT_IMAGE


def test_an_extension_of_the_source_after_its_recorded_size_is_ignored(
    workbench: Workbench, holds: Holds, tmp_path: Path
) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    workbench.put(raw)
    with workbench.source.open("ab") as file:
        file.write(b"left by an attempt that was cut off")
    assert workbench.convert(RAW, size=4 * MiB).virtual_size == 4 * MiB
    holds(workbench.result, raw)


def test_the_right_checksum_passes(workbench: Workbench, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    workbench.put(raw)
    done = workbench.convert(RAW, sha256=hashlib.sha256(raw.read_bytes()).hexdigest())
    assert done.way is Way.REFERENCE


def test_progress_goes_through_the_phases_and_never_back(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(make(dense_disk(tmp_path / "disk.raw"), tmp_path / "image", "vpc"))
    workbench.convert(VHD)
    phases = list(dict.fromkeys(phase for phase, _, _ in workbench.reported))
    assert phases == [ImagePhase.INSPECTING, ImagePhase.CONVERTING, ImagePhase.VERIFYING]
    converting = [done for phase, done, _ in workbench.reported if phase is ImagePhase.CONVERTING]
    assert converting == sorted(converting)
    assert all(total is not None and done <= total for _, done, total in workbench.reported)


def test_the_source_stays_after_a_copy_and_becomes_the_result_by_reference(
    workbench: Workbench, tmp_path: Path
) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    inode = workbench.source.stat().st_ino
    workbench.convert(RAW, Limits(ways=frozenset({Way.COPY})))
    assert workbench.names() == {"source", "result", "result.json"}
    workbench.result.unlink()
    forget(workbench.result)
    workbench.convert(RAW)
    assert workbench.names() == {"result", "result.json"}
    assert workbench.result.stat().st_ino == inode
    forget(workbench.result)
    assert workbench.names() == {"result"}


def test_a_result_keeps_the_owner_and_the_mode_of_its_source(workbench: Workbench, tmp_path: Path) -> None:
    for ways in (frozenset(Way), frozenset({Way.COPY})):
        workbench.put(dense_disk(tmp_path / "disk.raw"))
        workbench.source.chmod(0o604)
        before = workbench.source.stat()
        workbench.convert(RAW, Limits(ways=ways))
        after = workbench.result.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
        assert after.st_nlink == 1
        workbench.result.unlink()
        forget(workbench.result)
