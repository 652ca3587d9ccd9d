"""Small files that describe huge disks are refused before QEMU reads them; legitimate sharing is accepted."""

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode
from tests.servers.minio import Minio
from tests.workers.bombs import TiB, qcow2_bomb, vhd_bomb, vhdx_bomb, vmdk_bomb
from tests.workers.conftest import Workbench
from tests.workers.images import KiB, MiB, dense_disk, make, patch, patch_number, qemu_img, qemu_io, raw_disk
from tests.workers.store_bench import SOURCE, StoreBench, store_bench
from workers.qemu import img

pytestmark = pytest.mark.needs_program("qemu-img")

Build = Callable[[Path], Path]
Holds = Callable[[Path, Path], None]

QCOW2, VMDK, VHD, VHDX = (DiskFormat(name) for name in ("QCOW2", "VMDK", "VHD", "VHDX"))


def table_of(image: Path) -> int:
    """Where the first L2 table of a qcow2 begins."""
    content = image.read_bytes()
    l1 = int.from_bytes(content[40:48], "big")
    return int.from_bytes(content[l1 : l1 + 8], "big") & ~(1 << 63)


def packed(path: Path, raw: Path) -> Path:
    """A qcow2 of compressed clusters."""
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(path))
    return path


def two_guests_of_one_cluster(path: Path) -> Path:
    """A qcow2 of 4 MiB in which two clusters of the disk are one of the file."""
    image = make(dense_disk(path.with_suffix(".raw")), path, "qcow2")
    table = table_of(image)
    return patch(image, table + 8, image.read_bytes()[table : table + 8])


def two_guests_of_one_grain(path: Path) -> Path:
    """The same as a VMDK."""
    image = make(dense_disk(path.with_suffix(".raw")), path, "vmdk")
    content = image.read_bytes()
    directory = 512 * int.from_bytes(content[56:64], "little")
    table = 512 * int.from_bytes(content[directory : directory + 4], "little")
    return patch(image, table + 4, content[table : table + 4])


def one_table_for_all(path: Path) -> Path:
    """A qcow2 of 16 TiB that has one table, whose entries are honest."""
    image = qcow2_bomb(path)
    return patch(image, table_of(image) + 8, bytes(8 * 8191))


def one_grain_table_for_all(path: Path) -> Path:
    """The same as a VMDK."""
    return patch(vmdk_bomb(path), 64 * 512 + 4, bytes(4 * 511))


def more_than_it_holds(path: Path) -> Path:
    """A qcow2 of 1.5 MiB whose compressed clusters, each at a byte of its own, would make 4 GiB."""
    image = qcow2_bomb(path, 4096 * MiB, tables=8)
    entry = int.from_bytes(image.read_bytes()[table_of(image) :][:8], "big")
    for table in range(8):
        entries = (entry + 32 * number for number in range(8192 * table, 8192 * (table + 1)))
        patch(image, table_of(image) + 64 * KiB * table, struct.pack(">8192Q", *entries))
    os.truncate(image, image.stat().st_size + 2 * MiB)
    return image


BOMBS = [
    pytest.param(QCOW2, qcow2_bomb, "share one compressed cluster", id="qcow2-compressed"),
    pytest.param(QCOW2, lambda path: qcow2_bomb(path, compressed=False), "share one cluster", id="qcow2"),
    pytest.param(QCOW2, lambda path: qcow2_bomb(path, TiB, tables=2048), "share one compressed", id="qcow2-own-tables"),
    pytest.param(QCOW2, one_table_for_all, "share one table", id="qcow2-one-table"),
    pytest.param(VMDK, one_grain_table_for_all, "share one table", id="vmdk-one-table"),
    pytest.param(QCOW2, two_guests_of_one_cluster, "share one cluster", id="qcow2-of-two-guests"),
    pytest.param(QCOW2, more_than_it_holds, "4 GiB of data, which a file of", id="qcow2-of-many-streams"),
    pytest.param(VMDK, vmdk_bomb, "share one grain", id="vmdk"),
    pytest.param(VMDK, lambda path: vmdk_bomb(path, streamed=True), "share one grain", id="vmdk-stream"),
    pytest.param(VMDK, lambda path: vmdk_bomb(path, TiB, own_tables=True), "share one grain", id="vmdk-own-tables"),
    pytest.param(
        VMDK,
        lambda path: vmdk_bomb(path, TiB, streamed=True, own_tables=True),
        "share one grain",
        id="vmdk-stream-own-tables",
    ),
    pytest.param(VMDK, two_guests_of_one_grain, "share one grain", id="vmdk-of-two-guests"),
    pytest.param(VHD, vhd_bomb, "share one block", id="vhd"),
    pytest.param(VHDX, vhdx_bomb, "share one block", id="vhdx"),
]


@pytest.fixture
def bench(minio: Minio, tmp_path: Path) -> Iterator[StoreBench]:
    with store_bench(minio, tmp_path / "bench") as bench:
        yield bench


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of qemu-img, only `info` may be run: all else would go through the disk."""

    def refuse(*arguments: object) -> None:
        raise AssertionError("qemu-img has followed the tables")

    for name in ("check", "map_extents", "convert"):
        monkeypatch.setattr(img, name, refuse)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("declared", "build", "words"), BOMBS)
def test_a_bomb_is_refused_before_qemu_follows_its_tables(
    workbench: Workbench, tmp_path: Path, declared: DiskFormat, build: Build, words: str
) -> None:
    build(tmp_path / "image").rename(workbench.source)

    with pytest.raises(ImageFailed) as caught:
        workbench.convert(declared)

    assert (caught.value.code, caught.value.retriable) == (FailureCode.UNSAFE_IMAGE, False)
    assert words in caught.value.message
    assert workbench.names() == {"source"}


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(("declared", "build", "words"), BOMBS)
def test_a_bomb_in_a_store_is_refused_before_qemu_follows_its_tables(
    bench: StoreBench, tmp_path: Path, declared: DiskFormat, build: Build, words: str
) -> None:
    bench.put(build(tmp_path / "image"))

    with pytest.raises(ImageFailed) as caught:
        bench.convert(declared)

    assert (caught.value.code, caught.value.retriable) == (FailureCode.UNSAFE_IMAGE, False)
    assert words in caught.value.message
    bench.assert_nothing_left(SOURCE)


@pytest.mark.parametrize(
    ("declared", "build"),
    [
        (QCOW2, two_guests_of_one_cluster),
        (QCOW2, lambda path: qcow2_bomb(path, 64 * MiB)),
        (VMDK, two_guests_of_one_grain),
        (VHD, lambda path: vhd_bomb(path, 64 * MiB)),
        (VHDX, lambda path: vhdx_bomb(path, 64 * MiB)),
    ],
)
def test_an_image_that_shares_its_data_is_accepted_once_its_hint_was_followed(
    workbench: Workbench, tmp_path: Path, declared: DiskFormat, build: Build
) -> None:
    image = build(tmp_path / "image")
    image.rename(workbench.source)
    with pytest.raises(ImageFailed) as caught:
        workbench.convert(declared)
    assert "qemu-img convert -O qcow2 FILE image.qcow2" in caught.value.hint

    qemu_img("convert", "-O", "qcow2", str(workbench.source), str(tmp_path / "image.qcow2"))
    (tmp_path / "image.qcow2").rename(workbench.source)

    assert workbench.convert(QCOW2).way is Way.REFERENCE


def test_tables_that_snapshots_share_with_the_active_state_are_accepted(
    workbench: Workbench, holds: Holds, tmp_path: Path
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 6 * MiB)
    image = make(raw, tmp_path / "image", "qcow2")
    qemu_img("snapshot", "-c", "first", str(image))
    qemu_img("snapshot", "-c", "second", str(image))
    qemu_io(image, "write -P 7 64k 64k")
    with raw.open("r+b") as file:
        file.seek(64 * KiB)
        file.write(bytes([7]) * 64 * KiB)
    image.rename(workbench.source)

    workbench.convert(QCOW2)

    holds(workbench.result, raw)


def test_compressed_clusters_that_share_a_cluster_and_sectors_are_accepted(
    workbench: Workbench, holds: Holds, tmp_path: Path
) -> None:
    raw = tmp_path / "disk.raw"
    # Each of these takes some 80 bytes: several begin and end in one sector.
    raw.write_bytes(b"".join(bytes([number]) * (64 * KiB) for number in range(1, 64)))
    packed(tmp_path / "image", raw).rename(workbench.source)

    assert workbench.convert(QCOW2).way is Way.KEEP

    holds(workbench.result, raw)


def test_zero_clusters_and_bits_that_are_reserved_map_nothing(
    workbench: Workbench, holds: Holds, tmp_path: Path
) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 4 * MiB, [(0, 3 * MiB)])
    image = make(raw, tmp_path / "image", "qcow2")
    qemu_io(image, "write -z 0 1M")
    patch(raw, 0, bytes(1 * MiB))
    # Bits 1 to 8 and 56 to 61 of an entry are reserved, and QEMU ignores them.
    table = table_of(image)
    entry = int.from_bytes(image.read_bytes()[table + 17 * 8 :][:8], "big")
    patch_number(image, table + 17 * 8, ">Q", entry | 1 << 57 | 1 << 3)
    image.rename(workbench.source)

    workbench.convert(QCOW2)

    holds(workbench.result, raw)


@pytest.mark.parametrize(
    ("declared", "driver", "options", "size"),
    [
        (QCOW2, "qcow2", {}, 16 * TiB),
        (QCOW2, "qcow2", {"cluster_size": "512"}, 8 << 30),
        (VMDK, "vmdk", {}, 64 << 30),
        (VMDK, "vmdk", {"subformat": "streamOptimized"}, 32 << 30),
        (VHD, "vpc", {"force_size": "on"}, 2040 << 30),
        (VHDX, "vhdx", {"block_size": "32M"}, 16 * TiB),
        (VHDX, "vhdx", {"block_size": "1M"}, 16 * TiB),
    ],
)
def test_a_huge_disk_that_is_empty_is_no_bomb(
    workbench: Workbench, tmp_path: Path, declared: DiskFormat, driver: str, options: dict[str, str], size: int
) -> None:
    chosen = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    qemu_img("create", "-f", driver, *chosen, str(workbench.source), str(size))

    assert workbench.convert(declared).virtual_size == size
