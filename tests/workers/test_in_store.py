"""Within a store, every format goes its way too, and comes out as the same disk: the contract, and what S3 adds."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.catalog.outcome import Way
from app.lifecycle import DiskFormat, ImagePhase
from tests.servers.minio import Minio
from tests.workers.conversion_contract import FORMATS, QCOW2, RAW, VHD, VHDX, VMDK, ConversionContract, Holds
from tests.workers.images import (
    KiB,
    MiB,
    dense_disk,
    edit_vhd_footer,
    make,
    patch,
    qemu_img,
    raw_disk,
    scattered_disk,
)
from tests.workers.store_bench import RESULT, SOURCE, StoreBench, store_bench
from workers.limits import Limits, PartRules
from workers.qcow2.extents import Extents
from workers.store import planning
from workers.store.parts import Reference, refer

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd")


@pytest.fixture
def bench(minio: Minio, tmp_path: Path) -> Iterator[StoreBench]:
    with store_bench(minio, tmp_path / "bench") as bench:
        yield bench


class TestAStoreKeepsTheContract(ConversionContract):
    @pytest.fixture
    def place(self, bench: StoreBench) -> Iterator[StoreBench]:
        yield bench
        bench.assert_nothing_left(SOURCE, RESULT)


@pytest.mark.parametrize(("declared", "driver", "options", "way"), FORMATS)
def test_a_disk_with_holes_that_is_compressed_stays_the_same_disk(
    bench: StoreBench,
    holds: Holds,
    tmp_path: Path,
    declared: DiskFormat,
    driver: str,
    options: dict[str, str],
    way: Way,
) -> None:
    raw = scattered_disk(tmp_path / "disk.raw")
    bench.put(make(raw, tmp_path / "image", driver, **options))
    done = bench.convert(declared, Limits(compress=True))
    assert (done.way, done.virtual_size, done.detected_format) == (way, raw.stat().st_size, declared)
    assert done.file_size == bench.bucket.size(RESULT)
    holds(bench.get(), raw)
    bench.assert_nothing_left(SOURCE, RESULT)


@pytest.mark.parametrize(
    ("declared", "driver", "options", "way"),
    [
        pytest.param(QCOW2, "qcow2", {}, Way.REFERENCE, id="qcow2"),
        pytest.param(QCOW2, "qcow2", {"compat": "0.10"}, Way.REFERENCE, id="qcow2-version-2"),
        pytest.param(QCOW2, "qcow2", {"cluster_size": "4k"}, Way.REFERENCE, id="qcow2-4k"),
        pytest.param(QCOW2, "qcow2", {"cluster_size": "512"}, Way.COPY, id="qcow2-512"),
        pytest.param(RAW, "raw", {}, Way.COPY, id="raw"),
        pytest.param(VMDK, "vmdk", {}, Way.REFERENCE, id="vmdk"),
        pytest.param(VMDK, "vmdk", {"subformat": "streamOptimized"}, Way.COPY, id="vmdk-streamOptimized"),
        pytest.param(VHD, "vpc", {"force_size": "on"}, Way.COPY, id="vhd"),
        pytest.param(VHD, "vpc", {"force_size": "on", "subformat": "fixed"}, Way.COPY, id="vhd-fixed"),
        pytest.param(VHDX, "vhdx", {"block_size": "1M"}, Way.REFERENCE, id="vhdx"),
    ],
)
def test_a_disk_of_many_parts_that_ends_within_a_cluster_stays_the_same_disk(
    bench: StoreBench,
    holds: Holds,
    tmp_path: Path,
    declared: DiskFormat,
    driver: str,
    options: dict[str, str],
    way: Way,
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 48 * MiB + 33 * 512)
    bench.put(make(raw, tmp_path / "image", driver, **options))
    done = bench.convert(declared, Limits(parts=PartRules(copied=10 * MiB)))
    assert done.way is way
    assert done.file_size == bench.bucket.size(RESULT)
    holds(bench.get(), raw)


@pytest.mark.parametrize("compression", ["zlib", "zstd"])
@pytest.mark.parametrize("size", [24 * MiB, 3 * MiB], ids=["many-parts", "one-part"])
def test_a_clean_compressed_qcow2_keeps_its_clusters(
    bench: StoreBench, holds: Holds, tmp_path: Path, compression: str, size: int
) -> None:
    raw = raw_disk(tmp_path / "disk.raw", size, [(place, 20 * KiB) for place in range(0, size, 64 * KiB)])
    image = tmp_path / "image"
    qemu_img("convert", "-c", "-O", "qcow2", "-o", f"compression_type={compression}", "-f", "raw", str(raw), str(image))
    bench.put(image)
    assert bench.convert(QCOW2).way is Way.KEEP
    result = bench.get()
    assert result.read_bytes()[512:] == image.read_bytes()[512 : result.stat().st_size]
    holds(result, raw)


def test_the_leftovers_of_a_killed_attempt_are_aborted(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    bench.put(raw)
    left = bench.bucket.open_multipart(RESULT)
    bench.bucket.put_part(RESULT, left, 2, lambda: [b"left"], 4)
    bench.convert(RAW)
    holds(bench.get(), raw)
    bench.assert_nothing_left(SOURCE, RESULT)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
def test_two_attempts_make_the_same_bytes(bench: StoreBench, tmp_path: Path, compress: bool) -> None:
    bench.put(make(scattered_disk(tmp_path / "disk.raw"), tmp_path / "image", "vpc", force_size="on"))
    results = []
    for name in ("first", "second"):
        bench.convert(VHD, Limits(compress=compress))
        results.append(bench.get(RESULT, name).read_bytes())
    assert results[0] == results[1]


def test_compression_makes_what_shrinks_smaller(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes((os.urandom(KiB) + b"0123456789abcdef" * 64) * (16 * KiB))
    bench.put(raw)
    plain, small = bench.convert(RAW), bench.convert(RAW, Limits(compress=True))
    assert small.file_size < 0.6 * plain.file_size
    assert small.stored_size < 0.6 * plain.stored_size
    assert qemu_img("info", str(bench.get())).count("compression type: zstd") == 1
    holds(bench.get(), raw)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
def test_parts_longer_than_memory_are_packed_while_they_are_sent(
    bench: StoreBench, holds: Holds, tmp_path: Path, compress: bool
) -> None:
    runs = [(start * MiB, 3 * MiB) for start in range(0, 96, 4)]
    raw = raw_disk(tmp_path / "disk.raw", 100 * MiB, runs)
    bench.put(raw)
    few = PartRules(sent=20 * MiB, kept=6 * MiB, count=8)
    kept, again = Limits(compress=compress), Limits(compress=compress, parts=few)
    bench.convert(RAW, kept)
    results = {bench.get().read_bytes()}
    bench.convert(RAW, again)
    results.add(bench.get().read_bytes())
    assert len(results) == 1
    holds(bench.get(), raw)


def test_a_source_by_reference_whose_new_tables_do_not_hold_is_streamed(
    bench: StoreBench, holds: Holds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 12 * MiB)
    bench.put(make(raw, tmp_path / "image", "vmdk"))

    def wrong(extents: Extents, virtual_size: int, *rest: Any) -> Reference:
        plan = refer(extents, virtual_size, *rest)
        return replace(plan, layout=replace(plan.layout, virtual_size=virtual_size + 512))

    monkeypatch.setattr(planning, "refer", wrong)
    assert bench.convert(VMDK).way is Way.COPY
    holds(bench.get(), raw)
    bench.assert_nothing_left(SOURCE, RESULT)


def test_a_vhdx_whose_blocks_are_mostly_zeros_is_streamed(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 64 * MiB, [(start * MiB, 64 * KiB) for start in range(0, 64, 2)])
    bench.put(make(raw, tmp_path / "image", "vhdx", block_size="2M"))
    done = bench.convert(VHDX)
    assert done.way is Way.COPY
    assert done.file_size < 8 * MiB
    holds(bench.get(), raw)


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "zstd"])
def test_a_large_disk_with_little_data_is_streamed(
    bench: StoreBench, holds: Holds, tmp_path: Path, compress: bool
) -> None:
    places = [0, 4 * MiB, 5 * MiB, 700_000 * MiB, (1 << 41) - 12 * MiB, (1 << 41) - 512]
    raw = raw_disk(tmp_path / "disk.raw", 1 << 41, [(place, 512) for place in places])
    bench.put(make(raw, tmp_path / "image", "vhdx", block_size="1M"))
    done = bench.convert(VHDX, Limits(compress=compress))
    assert done.way is Way.COPY
    assert done.file_size < 3 * MiB
    converting = [done for phase, done, _ in bench.reported if phase is ImagePhase.CONVERTING]
    assert converting == sorted(converting)
    assert len(converting) < 100
    assert converting[-1] == 1 << 41
    holds(bench.get(), raw)


@pytest.mark.parametrize(
    ("driver", "declared", "options"),
    [
        ("raw", RAW, {}),
        ("qcow2", QCOW2, {}),
        ("vmdk", VMDK, {}),
        ("vmdk", VMDK, {"subformat": "streamOptimized"}),
        ("vpc", VHD, {"force_size": "on"}),
        ("vhdx", VHDX, {}),
    ],
)
@pytest.mark.parametrize("runs", [[], [(5 * MiB, 512)]], ids=["empty", "one-sector"])
def test_a_small_disk_is_one_part_and_a_small_file(
    bench: StoreBench,
    holds: Holds,
    tmp_path: Path,
    driver: str,
    declared: DiskFormat,
    options: dict[str, str],
    runs: list[tuple[int, int]],
) -> None:
    raw = raw_disk(tmp_path / "disk.raw", 8 * MiB, runs)
    bench.put(make(raw, tmp_path / "image", driver, **options))
    done = bench.convert(declared)
    # Header, L1, refcount table, refcounts; with data its cluster and an L2 table.
    assert done.file_size == done.stored_size == (6 if runs else 4) * 64 * KiB
    holds(bench.get(), raw)


def test_what_lies_behind_the_end_of_a_disk_does_not_show_when_it_grows(bench: StoreBench, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 12 * MiB + 512)
    image = make(raw, tmp_path / "image", "qcow2", cluster_size="4k")
    size = os.stat(image).st_size // 4096 * 4096
    # The rest of the disk's last cluster, which is the file's last one, too.
    patch(image, size - 4096 + 512 if size == os.stat(image).st_size else size + 512, b"behind the end")
    bench.put(image)
    assert bench.convert(QCOW2).way is Way.REFERENCE
    result = bench.get()
    qemu_img("resize", "-f", "qcow2", str(result), "13M")
    os.truncate(raw, 13 * MiB)
    qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(result))


def test_a_vhd_that_virtualbox_wrote_keeps_its_last_cylinder(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 4 * MiB + 512)
    image = make(raw, tmp_path / "image", "vpc", force_size="on")
    edits = [(28, b"vbox"), (56, bytes([0, 2, 16, 255]))]
    edit_vhd_footer(image, *edits, at=0)
    bench.put(edit_vhd_footer(image, *edits))
    assert bench.convert(VHD).virtual_size == 4 * MiB + 512
    holds(bench.get(), raw)


def test_a_result_can_be_uploaded_again(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 24 * MiB)
    for compress, way in ((False, Way.REFERENCE), (True, Way.REFERENCE)):
        bench.put(raw)
        bench.convert(RAW, Limits(compress=compress))
        bench.put(bench.get())
        assert bench.convert(QCOW2).way is way
        holds(bench.get(), raw)


def test_a_compressed_result_can_be_uploaded_again(bench: StoreBench, holds: Holds, tmp_path: Path) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes((os.urandom(KiB) + b"0123456789abcdef" * 64) * (2 * KiB))
    bench.put(raw)
    bench.convert(RAW, Limits(compress=True))
    bench.put(bench.get())
    assert bench.convert(QCOW2).way is Way.KEEP
    holds(bench.get(), raw)


def test_the_right_checksum_passes_and_progress_never_goes_back(bench: StoreBench, tmp_path: Path) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 24 * MiB)
    bench.put(raw)
    bench.convert(RAW, sha256=hashlib.sha256(raw.read_bytes()).hexdigest())
    phases = list(dict.fromkeys(phase for phase, _, _ in bench.reported))
    assert phases == [ImagePhase.INSPECTING, ImagePhase.CONVERTING, ImagePhase.STORING, ImagePhase.VERIFYING]
    for phase in phases:
        done = [done for reported, done, _ in bench.reported if reported is phase]
        assert done == sorted(done)
    assert all(total is not None and done <= total for _, done, total in bench.reported)
