"""A point in time of a volume becomes a separate image with its bytes; those of its base are copied in the store."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.adapters.s3.bucket import Bucket
from app.errors import StoreError, StoreFull
from tests.servers.minio import Minio
from tests.servers.versitygw import Versitygw
from tests.workers.capture_bench import (
    BASE,
    LIMITS,
    RESULT,
    BucketBench,
    CaptureBench,
    FolderBench,
    assert_same_disk,
    bucket_bench,
    folder_bench,
)
from tests.workers.images import KiB, MiB, patch_number, qemu_img
from tests.workers.scripted_points import UNIT, ScriptedPoint, point_over, random_bytes, shrinking_bytes
from workers.capture import capturing, in_folder
from workers.errors import Cancelled
from workers.hypervisor.port import PointLost
from workers.qcow2.metadata import read_header

pytestmark = pytest.mark.needs_program("qemu-img")

# Whole clusters of 2 MiB, so that the last one is whole.
BASE_SIZE = 24 * MiB
# Data, a hole, data.
CONTENT = random_bytes(9 * MiB) + bytes(2 * MiB) + shrinking_bytes(BASE_SIZE - 11 * MiB)
SECRET = random_bytes(UNIT, seed=7)

BASES = [
    pytest.param(False, {}, id="64k"),
    pytest.param(False, {"cluster_size": "4k"}, id="4k"),
    pytest.param(False, {"cluster_size": "2M"}, id="2M"),
    pytest.param(True, {}, id="deflated"),
    pytest.param(True, {"compression_type": "zstd"}, id="zstd"),
]


def base_image(folder: Path, content: bytes, compress: bool, options: dict[str, str]) -> Path:
    """A qcow2 with this content."""
    raw = folder / "base.raw"
    raw.write_bytes(content)
    path = folder / "base.qcow2"
    chosen = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    qemu_img("convert", *(["-c"] if compress else []), "-O", "qcow2", *chosen, "-f", "raw", str(raw), str(path))
    return path


@pytest.fixture(params=["folder", "minio"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CaptureBench]:
    folder = tmp_path / "bench"
    if request.param == "folder":
        with folder_bench(folder) as in_a_folder:
            yield in_a_folder
        return
    minio: Minio = request.getfixturevalue("minio")
    with bucket_bench(minio.store_url, folder) as in_a_bucket:
        yield in_a_bucket


@pytest.fixture
def place(tmp_path: Path) -> Iterator[FolderBench]:
    with folder_bench(tmp_path / "bench") as bench:
        yield bench


def changed_point() -> ScriptedPoint:
    """A volume that is larger than its base and ends within a cluster; a guest has written here and there."""
    size = BASE_SIZE + 5 * MiB + 3 * 512
    return point_over(
        CONTENT,
        size,
        [
            (6 * MiB + 4096, random_bytes(3 * UNIT, seed=2)),
            (7 * MiB, 4 * UNIT),
            (10 * MiB, random_bytes(UNIT, seed=3)),
            (10 * MiB + 2 * UNIT, shrinking_bytes(5 * UNIT, seed=3)),
            (BASE_SIZE - UNIT // 2, random_bytes(UNIT, seed=4)),
            (size - 700, b"the end"),
        ],
    )


@pytest.mark.parametrize(("compress", "options"), BASES)
def test_a_point_becomes_the_same_disk(
    bench: CaptureBench, tmp_path: Path, compress: bool, options: dict[str, str]
) -> None:
    bench.put(base_image(tmp_path, CONTENT, compress, options))
    point = changed_point()

    # What an S3 store is sent is compressed, if that goes with what it copies.
    made = bench.capture(point, limits=replace(LIMITS, compress=True))

    result = assert_same_disk(bench, point.raw(tmp_path / "point.raw"), made)
    assert bench.left() == {BASE, RESULT}
    assert bench.reported[0][0] == 0
    assert bench.reported == sorted(bench.reported)
    assert bench.reported[-1] == (bench.reported[-1][1],) * 2
    # The clusters of the base that were compressed are so still, as far as they were copied.
    report = json.loads(qemu_img("check", "--output=json", "-f", "qcow2", str(result)))
    assert report.get("compressed-clusters", 0) >= (150 if compress else 0)
    assert made.stored_size <= made.file_size


@pytest.mark.parametrize(("compress", "options"), BASES)
def test_the_bytes_of_the_base_are_not_read_again_and_those_deleted_are_nowhere(
    bench: CaptureBench, tmp_path: Path, compress: bool, options: dict[str, str]
) -> None:
    """They are not between the clusters that are copied either, which are copied as one range where they can be."""
    content = CONTENT[: 7 * MiB] + SECRET + CONTENT[7 * MiB + UNIT :]
    bench.put(base_image(tmp_path, content, compress, options))
    written = random_bytes(UNIT, seed=3)
    point = point_over(content, BASE_SIZE, [(7 * MiB, UNIT), (7 * MiB + UNIT, written)])

    made = bench.capture(point)

    stored = assert_same_disk(bench, point.raw(tmp_path / "point.raw"), made).read_bytes()
    # Besides what was written: clusters at the edges of what is copied.
    edges = 8 * read_header(stored[:512]).cluster_size if compress else 0
    assert point.bytes_read <= UNIT + edges
    assert all(SECRET[place : place + 512] not in stored for place in range(0, UNIT, 512))
    assert CONTENT[:4096] in stored
    assert written in stored


def test_another_store_than_minio_copies_ranges_too(versitygw: Versitygw, tmp_path: Path) -> None:
    with bucket_bench(versitygw.store_url, tmp_path / "bench") as bench:
        bench.put(base_image(tmp_path, CONTENT, False, {}))
        point = changed_point()
        made = bench.capture(point)
        assert_same_disk(bench, point.raw(tmp_path / "point.raw"), made)
        assert point.bytes_read < 2 * MiB


def test_a_volume_without_a_base_is_read(bench: CaptureBench, tmp_path: Path) -> None:
    point = point_over(b"", 12 * MiB, [(MiB, random_bytes(7 * MiB)), (10 * MiB, bytes(UNIT))])

    made = bench.capture(point)

    assert_same_disk(bench, point.raw(tmp_path / "point.raw"), made)
    assert bench.left() == {RESULT}
    # Header and tables, and no cluster of zeros.
    assert made.stored_size == 7 * MiB + 5 * 64 * KiB


def test_an_empty_volume_is_an_empty_image(bench: CaptureBench, tmp_path: Path) -> None:
    point = point_over(b"", 3 * MiB, [])
    made = bench.capture(point)
    assert_same_disk(bench, point.raw(tmp_path / "point.raw"), made)
    assert point.reads == []


def test_a_base_that_is_not_in_the_store_is_read_from_the_point(bench: CaptureBench, tmp_path: Path) -> None:
    image = base_image(tmp_path, CONTENT, False, {})
    bench.put(image)
    assert bench.base is not None
    point = changed_point()
    raw = point.raw(tmp_path / "point.raw")
    for base in (replace(bench.base, key="blobs/none.qcow2"), replace(bench.base, size=bench.base.size + 1)):
        bench.base = base
        assert_same_disk(bench, raw, bench.capture(point))


def test_a_base_that_is_damaged_is_read_from_the_point(place: FolderBench, tmp_path: Path) -> None:
    image = base_image(tmp_path, CONTENT, False, {})
    header = read_header(image.read_bytes()[:512])
    first_table = int.from_bytes(image.read_bytes()[header.l1_table_offset :][:8], "big") & (1 << 56) - 1
    # Two clusters of the disk at one place, which only the check of the result notices.
    second = int.from_bytes(image.read_bytes()[first_table + 8 :][:8], "big")
    point = changed_point()
    raw = point.raw(tmp_path / "point.raw")
    for at, number in ((first_table, second), (header.l1_table_offset, 1 << 40), (0, 0)):
        place.put(image)
        patch_number(place.store.path(BASE), at, ">Q", number)
        assert_same_disk(place, raw, place.capture(point))
        assert place.left() == {BASE, RESULT}


def test_a_base_with_more_runs_than_the_limit_is_copied_in_part(place: FolderBench, tmp_path: Path) -> None:
    content = b"".join(random_bytes(UNIT, seed) + bytes(UNIT) for seed in range(40))
    place.put(base_image(tmp_path, content, False, {}))
    point = point_over(content, len(content) + MiB, [(UNIT * 8, b"new"), (UNIT * 20, b"new"), (UNIT * 30, UNIT)])
    raw = point.raw(tmp_path / "point.raw")
    for most in (1, 2, 7):
        point.reads.clear()
        assert_same_disk(place, raw, place.capture(point, limits=replace(LIMITS, max_extents=most)))
        assert point.reads


def test_where_the_file_system_can_not_copy_ranges_they_are_read_and_written(
    place: FolderBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> int:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(os, "copy_file_range", refuse)
    place.put(base_image(tmp_path, CONTENT, False, {}))
    point = changed_point()
    assert_same_disk(place, point.raw(tmp_path / "point.raw"), place.capture(point))


def test_the_extents_of_a_point_are_asked_for_once(place: FolderBench) -> None:
    point = changed_point()
    point.span = 2 * MiB
    place.capture(point)
    assert [offset for offset, _ in point.asked] == list(range(0, point.size, 2 * MiB))


# ---------------------------------------------------------------- failures


def lose(number: int) -> None:
    if number == 3:
        raise PointLost("the fleece is full")


def refuse_beyond(most: int) -> Callable[[int], None]:
    def require_room(size: int) -> None:
        if size > most:
            raise NoRoom

    return require_room


class NoRoom(Exception):
    """Raised where there is no room."""


def assert_then_it_works(bench: CaptureBench, point: ScriptedPoint, raw: Path) -> None:
    """Nothing was left, and the next attempt succeeds."""
    assert bench.left() == {BASE}
    bench.cancelled.clear()
    assert_same_disk(bench, point.raw(raw), bench.capture(replace(point, happens=lambda number: None), token=2))
    assert bench.left() == {BASE, RESULT}


@pytest.fixture
def filled(bench: CaptureBench, tmp_path: Path) -> CaptureBench:
    bench.put(base_image(tmp_path, CONTENT, False, {}))
    return bench


def busy_point() -> ScriptedPoint:
    """A point with more data than one part, over a base of which some is copied."""
    return point_over(CONTENT, BASE_SIZE + 16 * MiB, [(8 * MiB, random_bytes(BASE_SIZE, seed=5))])


def test_a_point_that_is_lost_leaves_nothing(filled: CaptureBench, tmp_path: Path) -> None:
    point = replace(busy_point(), happens=lose)
    with pytest.raises(PointLost):
        filled.capture(point)
    assert_then_it_works(filled, point, tmp_path / "point.raw")


@pytest.mark.parametrize("step", [0, 1, 5])
def test_a_capture_that_is_cancelled_leaves_nothing(filled: CaptureBench, tmp_path: Path, step: int) -> None:
    point = busy_point()
    if not step:
        filled.cancelled.set()
    with pytest.raises(Cancelled):
        filled.capture(replace(point, happens=lambda number: filled.cancelled.set() if number == step - 1 else None))
    assert_then_it_works(filled, point, tmp_path / "point.raw")


# What is copied; some of what is read; the tables.
@pytest.mark.parametrize("room", [MiB, 16 * MiB, None], ids=["at-once", "meanwhile", "in-the-end"])
def test_a_capture_without_room_leaves_nothing(filled: CaptureBench, tmp_path: Path, room: int | None) -> None:
    point = busy_point()
    if room is None:
        room = filled.capture(point).stored_size - 1
        point.reads.clear()
        filled = replace_result(filled)
    with pytest.raises(NoRoom):
        filled.capture(point, require_room=refuse_beyond(room))
    assert_then_it_works(filled, point, tmp_path / "point.raw")


def replace_result(bench: CaptureBench) -> CaptureBench:
    if isinstance(bench, BucketBench):
        bench.bucket.delete(RESULT)
    else:
        bench.get().unlink()
    return bench


def test_a_store_that_goes_away_leaves_nothing_open(
    minio: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "Bucket", partial(Bucket, patience=0.5))
    with bucket_bench(minio.store_url, tmp_path / "bench") as bench:
        bench.put(base_image(tmp_path, CONTENT, False, {}))
        point = busy_point()
        try:
            with pytest.raises(StoreError):
                bench.capture(replace(point, happens=lambda number: minio.kill() if number == 2 else None))
        finally:
            minio.start()
        assert_same_disk(bench, point.raw(tmp_path / "point.raw"), bench.capture(point))
        assert bench.left() == {BASE, RESULT}


def test_a_full_disk_leaves_nothing(place: FolderBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put(base_image(tmp_path, CONTENT, False, {}))
    point = busy_point()

    def refuse(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for module, name in ((in_folder, "write_data"), (in_folder, "write_tables"), (in_folder, "sync_folder")):
        with monkeypatch.context() as context:
            context.setattr(module, name, refuse)
            with pytest.raises(StoreFull):
                place.capture(point)
        assert place.left() == {BASE}
    assert_then_it_works(place, point, tmp_path / "point.raw")


def test_what_a_killed_attempt_has_left_is_removed(filled: CaptureBench, tmp_path: Path) -> None:
    if isinstance(filled, BucketBench):
        reference = filled.bucket.open_multipart(RESULT)
        filled.bucket.put_part(RESULT, reference, 2, lambda: [b"left"], 4)
    else:
        assert isinstance(filled, FolderBench)
        (filled.store.work / "job-0").mkdir()
        (filled.store.work / "job-0" / "draft.qcow2").write_bytes(b"left")
    point = changed_point()
    assert_same_disk(filled, point.raw(tmp_path / "point.raw"), filled.capture(point))
    assert filled.left() == {BASE, RESULT}


def test_an_earlier_result_is_replaced(filled: CaptureBench, tmp_path: Path) -> None:
    filled.capture(point_over(b"", MiB, [(0, b"earlier")]))
    point = changed_point()
    assert_same_disk(filled, point.raw(tmp_path / "point.raw"), filled.capture(point, token=2))


# ---------------------------------------------------------------- any point


@st.composite
def histories(draw: st.DrawFn) -> tuple[bytes, int, list[tuple[int, bytes | int]], bool, dict[str, str]]:
    """The content of a base, how it is stored, the size of a volume over it, and what its guest did."""
    kinds = draw(st.lists(st.sampled_from("0cr"), min_size=1, max_size=24))
    made = {
        "0": lambda seed: bytes(UNIT),
        "c": lambda seed: shrinking_bytes(UNIT, seed),
        "r": lambda seed: random_bytes(UNIT, seed),
    }
    content = b"".join(made[kind](seed) for seed, kind in enumerate(kinds))
    content = content[: len(content) - 512 * draw(st.sampled_from([0, 0, 1, 9, 100]))]
    size = len(content) + 512 * draw(st.sampled_from([0, 0, 1, 128, 1000]))
    changes: list[tuple[int, bytes | int]] = []
    for seed in range(draw(st.integers(0, 6))):
        offset = 512 * draw(st.integers(0, size // 512 - 1))
        length = min(size - offset, 512 * draw(st.integers(1, 300)))
        changes.append((offset, length if draw(st.booleans()) else random_bytes(length, seed + 100)))
    options = {"cluster_size": draw(st.sampled_from(["512", "4k", "64k", "64k", "256k", "2M"]))}
    compress = draw(st.booleans())
    if compress:
        options["compression_type"] = draw(st.sampled_from(["zlib", "zstd"]))
    return content, size, changes, compress, options


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(made=histories(), span=st.sampled_from([UNIT, 5 * UNIT, 1 << 40]))
def test_any_point_becomes_the_same_disk(
    made: tuple[bytes, int, list[tuple[int, bytes | int]], bool, dict[str, str]], span: int
) -> None:
    content, size, changes, compress, options = made
    with tempfile.TemporaryDirectory() as name, folder_bench(Path(name) / "bench") as bench:
        bench.put(base_image(Path(name), content, compress, options))
        point = replace(point_over(content, size, changes), span=span)
        stored = bench.capture(point)
        assert_same_disk(bench, point.raw(Path(name) / "point.raw"), stored)
