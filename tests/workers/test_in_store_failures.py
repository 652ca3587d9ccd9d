"""Whatever goes wrong within a store: the right one is to blame, nothing stays, and the next attempt succeeds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.adapters.s3.bucket import Bucket
from app.catalog.outcome import Way
from app.errors import ImageFailed, ObjectMissing, StoreUnavailable, UploadClosed
from app.lifecycle import DiskFormat, FailureCode, ImagePhase
from tests.servers.minio import Minio
from tests.workers.images import KiB, MiB, dense_disk, make, qemu_img, raw_disk
from tests.workers.store_bench import RESULT, SOURCE, StoreBench, store_bench
from workers.convert.task import ConversionTask
from workers.errors import Cancelled, SourceDamaged
from workers.limits import Limits, PartRules
from workers.store.pipeline import convert_in_store

pytestmark = pytest.mark.needs_program("qemu-img", "qemu-nbd")

QCOW2, RAW, VMDK, VHD = (DiskFormat(name) for name in ("QCOW2", "RAW", "VMDK", "VHD"))
SIZE = 48 * MiB

# Each goes through other code: parts that the store copies, data by a map, data that is decompressed.
SOURCES = [
    pytest.param(VMDK, "vmdk", {}, id="by-reference"),
    pytest.param(RAW, "raw", {}, id="by-a-map"),
    pytest.param(VMDK, "vmdk", {"subformat": "streamOptimized"}, id="inflated"),
    pytest.param(QCOW2, "qcow2", {"compression_type": "zstd"}, id="by-qemu"),
]
PHASES = [ImagePhase.INSPECTING, ImagePhase.CONVERTING, ImagePhase.STORING, ImagePhase.VERIFYING]


@pytest.fixture
def bench(minio: Minio, tmp_path: Path) -> Iterator[StoreBench]:
    with store_bench(minio, tmp_path / "bench") as bench:
        yield bench


@pytest.fixture(scope="module")
def shrinking_disk(module_folder: Path) -> Path:
    """A raw disk without zeros; a compressed image of it is slightly smaller."""
    return raw_disk(module_folder / "disk.raw", SIZE, [(place, 56 * KiB) for place in range(0, SIZE, 64 * KiB)])


@pytest.fixture
def image(shrinking_disk: Path, driver: str, options: dict[str, str]) -> Path:
    """The disk in another format; compressed, if a sort of compression is chosen. Tests share the file."""
    image = shrinking_disk.with_name("-".join([driver, *options.values()]))
    if not image.exists():
        chosen = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        compressed = ["-c"] if "compression_type" in options else []
        qemu_img("convert", *compressed, "-f", "raw", "-O", driver, *chosen, str(shrinking_disk), str(image))
    return image


def convert_until(bench: StoreBench, declared: DiskFormat, phase: ImagePhase, happens: Callable[[], None]) -> None:
    """Convert, and have something happen as soon as this phase has got somewhere."""
    done: list[ImagePhase] = []

    def report(reported: ImagePhase, bytes_done: int, total: int | None) -> None:
        if reported is phase and not done and (bytes_done or reported is not ImagePhase.CONVERTING):
            done.append(reported)
            happens()

    limits = Limits(ways=frozenset({Way.REFERENCE, Way.COPY}), parts=PartRules(copied=10 * MiB))
    convert_in_store(bench.task(declared), bench.bucket, limits, report, bench.cancelled)
    pytest.fail("it was converted all the same")


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("declared", "driver", "options"), SOURCES)
def test_a_conversion_that_is_not_wanted_any_more_ends_and_leaves_nothing_open(
    bench: StoreBench, image: Path, declared: DiskFormat, phase: ImagePhase
) -> None:
    bench.put(image)
    with pytest.raises(Cancelled):
        convert_until(bench, declared, phase, bench.cancelled.set)
    # What is complete stays: another worker may have made it, from the same source.
    bench.assert_nothing_left(SOURCE, *([RESULT] if phase is ImagePhase.VERIFYING else []))


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("declared", "driver", "options"), SOURCES)
def test_a_store_that_goes_away_is_to_blame_itself_and_the_next_attempt_succeeds(
    bench: StoreBench,
    minio: Minio,
    holds: Callable[[Path, Path], None],
    shrinking_disk: Path,
    image: Path,
    declared: DiskFormat,
    phase: ImagePhase,
) -> None:
    bench.put(image)
    hasty = replace(bench, bucket=Bucket(bench.bucket.address, patience=0.5))
    try:
        with pytest.raises(StoreUnavailable):
            convert_until(hasty, declared, phase, minio.kill)
    finally:
        hasty.bucket.close()
        minio.start()
    bench.convert(declared)
    holds(bench.get(), shrinking_disk)
    bench.assert_nothing_left(SOURCE, RESULT)


@pytest.mark.parametrize(("declared", "driver", "options"), SOURCES)
def test_an_upload_that_another_attempt_has_aborted_makes_no_result(
    bench: StoreBench, image: Path, declared: DiskFormat
) -> None:
    bench.put(image)

    def abort() -> None:
        for reference in bench.bucket.multiparts(RESULT):
            bench.bucket.abort(RESULT, reference)

    with pytest.raises(UploadClosed):
        convert_until(bench, declared, ImagePhase.STORING, abort)
    bench.assert_nothing_left(SOURCE)


def test_a_source_that_is_gone_or_has_changed_is_not_converted(bench: StoreBench, tmp_path: Path) -> None:
    task = ConversionTask(SOURCE, 4 * MiB, RESULT, bench.folder / "job", RAW)
    with pytest.raises(ObjectMissing):
        convert_in_store(task, bench.bucket, Limits(), lambda *news: None, bench.cancelled)
    bench.put(dense_disk(tmp_path / "disk.raw"))
    with pytest.raises(SourceDamaged):
        convert_in_store(replace(task, source_size=MiB), bench.bucket, Limits(), lambda *news: None, bench.cancelled)
    bench.assert_nothing_left(SOURCE)


@pytest.mark.parametrize(
    ("driver", "declared", "options"),
    [("qcow2", QCOW2, {}), ("vmdk", VMDK, {}), ("vmdk", VMDK, {"subformat": "streamOptimized"}), ("vpc", VHD, {})],
)
def test_a_source_that_is_cut_off_is_refused(
    bench: StoreBench, tmp_path: Path, driver: str, declared: DiskFormat, options: dict[str, str]
) -> None:
    image = make(dense_disk(tmp_path / "disk.raw", 12 * MiB), tmp_path / "image", driver, **options)
    os.truncate(image, 6 * MiB)
    bench.put(image)
    with pytest.raises(ImageFailed) as failure:
        bench.convert(declared)
    assert failure.value.code is FailureCode.CORRUPT_IMAGE
    bench.assert_nothing_left(SOURCE)


def test_a_grain_that_can_not_be_decompressed_is_the_images_fault(bench: StoreBench, tmp_path: Path) -> None:
    image = make(dense_disk(tmp_path / "disk.raw", 12 * MiB), tmp_path / "image", "vmdk", subformat="streamOptimized")
    with image.open("r+b") as file:
        file.seek(6 * MiB)
        file.write(bytes(256 * KiB))
    bench.put(image)
    with pytest.raises(ImageFailed) as failure:
        bench.convert(VMDK)
    assert failure.value.code is FailureCode.CORRUPT_IMAGE
    bench.assert_nothing_left(SOURCE)


def test_a_qcow2_with_a_backing_file_is_refused(bench: StoreBench, tmp_path: Path) -> None:
    base = dense_disk(tmp_path / "base")
    image = tmp_path / "image"
    qemu_img("create", "-f", "qcow2", "-b", str(base), "-F", "raw", str(image))
    bench.put(image)
    with pytest.raises(ImageFailed) as failure:
        bench.convert(QCOW2)
    assert failure.value.code is FailureCode.UNSAFE_IMAGE
    bench.assert_nothing_left(SOURCE)


def test_a_wrong_checksum_is_refused(bench: StoreBench, tmp_path: Path) -> None:
    bench.put(dense_disk(tmp_path / "disk.raw"))
    with pytest.raises(ImageFailed) as failure:
        bench.convert(RAW, sha256="0" * 64)
    assert failure.value.code is FailureCode.CHECKSUM_MISMATCH
    bench.assert_nothing_left(SOURCE)


def test_a_result_that_needs_more_room_than_there_is_is_refused(bench: StoreBench, shrinking_disk: Path) -> None:
    bench.put(shrinking_disk)
    with pytest.raises(ImageFailed) as failure:
        bench.convert(RAW, Limits(max_stored_size=20 * MiB))
    assert failure.value.code is FailureCode.QUOTA_EXCEEDED
    bench.assert_nothing_left(SOURCE)


_ALONE = """
import json, resource, sys, threading
from pathlib import Path
from app.adapters.s3.bucket import Bucket
from app.lifecycle import DiskFormat
from app.s3_address import S3Address
from workers.convert.task import ConversionTask
from workers.store.pipeline import convert_in_store
from workers.limits import Limits

url, source, size, result, folder, declared, compress = json.loads(sys.argv[1])
task = ConversionTask(source, size, result, Path(folder), DiskFormat(declared))
limits = Limits(compress=compress)
# Writing more than a page to any file fails.
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
done = convert_in_store(task, Bucket(S3Address.parse(url)), limits, lambda *news: None, threading.Event())
# What getrusage calls the most includes what the parent had when it forked.
lines = Path("/proc/self/status").read_text().splitlines()
print(json.dumps([done.way, *(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))]))
"""


@pytest.fixture(scope="module")
def large_disk(module_folder: Path) -> Path:
    """A raw disk with more data than the limit leaves beside the interpreter, in several places."""
    runs = [(start * 2048 * MiB, 20 * MiB) for start in range(12)]
    return raw_disk(module_folder / "large.raw", 24 * 1024 * MiB, runs)


@pytest.mark.parametrize(
    ("declared", "driver", "options", "way", "compress"),
    [
        pytest.param(VHD, "vpc", {"force_size": "on"}, Way.COPY, False, id="vhd"),
        pytest.param(VHD, "vpc", {"force_size": "on"}, Way.COPY, True, id="vhd-to-zstd"),
        pytest.param(VMDK, "vmdk", {"subformat": "streamOptimized"}, Way.COPY, False, id="vmdk-streamOptimized"),
        pytest.param(QCOW2, "qcow2", {}, Way.REFERENCE, False, id="qcow2"),
    ],
)
def test_a_large_disk_takes_bounded_memory_and_no_disk_of_ours(
    bench: StoreBench,
    minio: Minio,
    tmp_path: Path,
    large_disk: Path,
    holds: Callable[[Path, Path], None],
    declared: DiskFormat,
    driver: str,
    options: dict[str, str],
    way: Way,
    compress: bool,
) -> None:
    bench.put(make(large_disk, tmp_path / "image", driver, **options))
    url = minio.store_url(bench.bucket.address.bucket)
    asked = [url, SOURCE, bench.bucket.size(SOURCE), RESULT, str(bench.folder / "job"), declared, compress]
    done = subprocess.run(
        [sys.executable, "-c", _ALONE, json.dumps(asked)], check=True, capture_output=True, timeout=240, text=True
    )
    taken, memory = json.loads(done.stdout.splitlines()[-1])
    assert taken == way
    assert memory < 256 * MiB
    holds(bench.get(), large_disk)
    bench.assert_nothing_left(SOURCE, RESULT)
