"""The contract of conversions, in a folder and within a store.

A test module subclasses ConversionContract and provides the fixture `place`.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from app.catalog.outcome import Outcome, Way
from app.lifecycle import DiskFormat
from tests.workers.images import KiB, MiB, dense_disk, make, patch_number, qemu_img, qemu_io, scattered_disk
from workers.limits import Limits

QCOW2, RAW, VMDK, VHD, VHDX = (DiskFormat(name) for name in ("QCOW2", "RAW", "VMDK", "VHD", "VHDX"))

Holds = Callable[[Path, Path], None]

# The format, QEMU's driver and options, and the way that a disk with holes takes.
FORMATS = [
    pytest.param(QCOW2, "qcow2", {}, Way.REFERENCE, id="qcow2"),
    pytest.param(QCOW2, "qcow2", {"compat": "0.10"}, Way.REFERENCE, id="qcow2-version-2"),
    pytest.param(QCOW2, "qcow2", {"cluster_size": "4k"}, Way.REFERENCE, id="qcow2-4k"),
    pytest.param(QCOW2, "qcow2", {"cluster_size": "2M"}, Way.COPY, id="qcow2-2M"),
    pytest.param(QCOW2, "qcow2", {"cluster_size": "512"}, Way.COPY, id="qcow2-512"),
    pytest.param(QCOW2, "qcow2", {"refcount_bits": "1"}, Way.REFERENCE, id="qcow2-refcounts-of-1-bit"),
    pytest.param(RAW, "raw", {}, Way.COPY, id="raw"),
    pytest.param(VMDK, "vmdk", {}, Way.REFERENCE, id="vmdk"),
    pytest.param(VMDK, "vmdk", {"subformat": "streamOptimized"}, Way.COPY, id="vmdk-streamOptimized"),
    pytest.param(VHD, "vpc", {"force_size": "on"}, Way.COPY, id="vhd"),
    pytest.param(VHD, "vpc", {"force_size": "on", "subformat": "fixed"}, Way.COPY, id="vhd-fixed"),
    pytest.param(VHDX, "vhdx", {"block_size": "8M"}, Way.COPY, id="vhdx"),
]


class ConversionPlace(Protocol):
    """Where an image is converted."""

    def put(self, image: Path) -> None:
        """Make a copy of an image the source."""

    def convert(self, declared: DiskFormat, limits: Limits | None = None) -> Outcome:
        """Convert the source. Raises ImageFailed."""

    def get(self) -> Path:
        """The result, as a file."""


class ConversionContract:
    """The tests."""

    @pytest.mark.parametrize(("declared", "driver", "options", "way"), FORMATS)
    def test_a_disk_with_holes_stays_the_same_disk(
        self,
        place: ConversionPlace,
        holds: Holds,
        tmp_path: Path,
        declared: DiskFormat,
        driver: str,
        options: dict[str, str],
        way: Way,
    ) -> None:
        raw = scattered_disk(tmp_path / "disk.raw")
        place.put(make(raw, tmp_path / "image", driver, **options))
        done = place.convert(declared)
        assert (done.way, done.detected_format, done.virtual_size) == (way, declared, 24 * MiB)
        result = place.get()
        assert 5 * MiB < done.stored_size <= done.file_size == result.stat().st_size
        holds(result, raw)

    @pytest.mark.parametrize("size", [512, 64 * KiB, 64 * KiB + 512, 3 * MiB - 512])
    def test_odd_sizes_keep_their_size(self, place: ConversionPlace, holds: Holds, tmp_path: Path, size: int) -> None:
        raw = dense_disk(tmp_path / "disk.raw", size)
        place.put(raw)
        assert place.convert(RAW).virtual_size == size
        holds(place.get(), raw)

    def test_a_compressed_qcow2_with_leaks_is_copied(
        self, place: ConversionPlace, holds: Holds, tmp_path: Path
    ) -> None:
        raw = scattered_disk(tmp_path / "disk.raw")
        image = tmp_path / "image"
        qemu_img("convert", "-c", "-O", "qcow2", "-f", "raw", str(raw), str(image))
        block = int.from_bytes(image.read_bytes()[0x10000:0x10008], "big")
        unused = -(-image.stat().st_size // 65536)
        os.truncate(image, (unused + 1) * 65536)
        patch_number(image, block + 2 * unused, ">H", 1)
        place.put(image)
        assert place.convert(QCOW2).way is Way.COPY
        holds(place.get(), raw)

    def test_internal_snapshots_are_dropped_with_a_warning(
        self, place: ConversionPlace, holds: Holds, tmp_path: Path
    ) -> None:
        # More than the least part that a store copies.
        raw = dense_disk(tmp_path / "disk.raw", 12 * MiB)
        image = make(raw, tmp_path / "image", "qcow2")
        qemu_img("snapshot", "-c", "before", str(image))
        place.put(image)
        done = place.convert(QCOW2)
        assert (done.way, len(done.warnings)) == (Way.REFERENCE, 1)
        assert "snapshot" in done.warnings[0]
        result = place.get()
        assert "Snapshot" not in qemu_img("info", str(result))
        holds(result, raw)

    def test_a_qcow2_whose_snapshots_hold_most_of_its_bytes_is_copied(
        self, place: ConversionPlace, tmp_path: Path
    ) -> None:
        image = make(dense_disk(tmp_path / "disk.raw"), tmp_path / "image", "qcow2")
        qemu_img("snapshot", "-c", "before", str(image))
        qemu_io(image, "write -P 7 0 4M")
        place.put(image)
        done = place.convert(QCOW2)
        assert done.way is Way.COPY
        assert done.file_size < 5 * MiB
