"""A conversion that is killed between any two of its writes, or within one, is finished by the next attempt."""

import contextlib
import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.catalog.outcome import Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, FailureCode, ImagePhase
from tests.workers.conftest import Workbench
from tests.workers.images import MiB, dense_disk, make, qemu_img, raw_disk
from workers.errors import Cancelled, ReceiptMissing, SourceBusy, SourceDamaged
from workers.folder.in_place import locked
from workers.folder.pipeline import convert, forget
from workers.folder.undoing import undo
from workers.limits import Limits
from workers.qemu import img

pytestmark = pytest.mark.needs_program("qemu-img")

Holds = Callable[[Path, Path], None]

WRITES = ("pwrite", "ftruncate", "fsync", "rename", "link", "unlink", "rmdir", "mkdir", "chmod", "chown", "open")
KILLED, DONE = 57, 0


@pytest.fixture
def holds(holds: Holds) -> Holds:
    """Asks QEMU once about each result: most kills lead to the same bytes. A test has one disk."""
    sound: set[bytes] = set()

    def check(result: Path, raw: Path) -> None:
        content = result.read_bytes()
        if content not in sound:
            holds(result, raw)
            sound.add(content)

    return check


def converted_but_killed(workbench: Workbench, declared: DiskFormat, size: int, limits: Limits, point: int) -> bool:
    """Convert in a child that dies at its `point`-th write, a long one half done; False when it got to the end."""
    return killed_at(workbench, point, lambda: workbench.convert(declared, limits, size=size))


def killed_at(workbench: Workbench, point: int, work: Callable[[], object]) -> bool:
    child = os.fork()
    if child == 0:
        with contextlib.redirect_stdout(None):
            _die_at(point)
            work()
            os._exit(DONE)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (KILLED, DONE)
    _wait_until_unlocked(workbench.source)
    return os.waitstatus_to_exitcode(status) == KILLED


def _wait_until_unlocked(source: Path) -> None:
    """A qemu process that the child was starting when it died may hold the lock for a moment longer."""
    if source.exists():
        with source.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def _die_at(point: int) -> None:
    left = [point]
    exit_now = os._exit

    def fatal(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                if name == "pwrite" and len(arguments[1]) > 512:
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2], arguments[2])
                exit_now(KILLED)
            return real(*arguments, **options)

        return call

    for name in WRITES:
        setattr(os, name, fatal(name, getattr(os, name)))


def prepared(kind: str, folder: Path) -> tuple[Path, Path, DiskFormat, Limits]:
    """A raw disk, an image of it, its format, and limits that make it go the way of `kind`."""
    raw = dense_disk(folder / "disk.raw", 1 * MiB + 512)
    match kind:
        case "VHDX by a copy":
            # Beside its headers it is mostly something else than data.
            return raw, make(raw, folder / "image", "vhdx", block_size="1M"), DiskFormat.VHDX, Limits()
        case "raw by reference":
            return raw, raw, DiskFormat.RAW, Limits()
        case "VMDK by reference":
            raw = dense_disk(folder / "disk.raw")
            return raw, make(raw, folder / "image", "vmdk"), DiskFormat.VMDK, Limits()
        case "keep":
            qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", str(raw), str(folder / "image"))
            return raw, folder / "image", DiskFormat.QCOW2, Limits()
    return raw, raw, DiskFormat.RAW, Limits(ways=frozenset({Way.COPY}))


@pytest.mark.parametrize("kind", ["raw by reference", "keep", "copy", "VHDX by a copy"])
def test_a_kill_at_any_write_costs_nothing(workbench: Workbench, holds: Holds, tmp_path: Path, kind: str) -> None:
    raw, image, declared, limits = prepared(kind, tmp_path)
    point = 1
    while True:
        for path in workbench.folder.iterdir():
            path.unlink()
        workbench.put(image)
        size = workbench.source.stat().st_size
        killed = converted_but_killed(workbench, declared, size, limits, point)
        done = workbench.convert(declared, limits, size=size)
        forget(workbench.result)
        assert (done.virtual_size, done.file_size) == (raw.stat().st_size, workbench.result.stat().st_size)
        assert workbench.names() - {"source"} == {"result"}
        assert ("source" in workbench.names()) == (done.way is Way.COPY)
        holds(workbench.result, raw)
        if not killed:
            break
        point += 1
    assert point > 15


KINDS = ["raw by reference", "VMDK by reference", "keep", "copy", "VHDX by a copy"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_killed_while_it_was_undone_becomes_the_result_once_there_is_room(
    workbench: Workbench, holds: Holds, tmp_path: Path, kind: str
) -> None:
    raw, image, declared, limits = prepared(kind, tmp_path)
    workbench.put(image)
    size = workbench.source.stat().st_size
    killed, point = True, 0
    while killed:
        point += 1
        done = workbench.convert(declared, limits, size=size)
        killed = killed_at(workbench, point, lambda: undo(workbench.source, size, workbench.result))
        assert workbench.convert(declared, limits, size=size) == done
        assert ("source" in workbench.names()) == (done.way is Way.COPY)
        holds(workbench.result, raw)
        undo(workbench.source, size, workbench.result)
    assert point > 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_killed_while_it_was_undone_is_undone_by_the_next_attempt(
    workbench: Workbench, tmp_path: Path, kind: str
) -> None:
    _, image, declared, limits = prepared(kind, tmp_path)
    workbench.put(image)
    size, before = workbench.source.stat().st_size, workbench.source.read_bytes()
    killed, point = True, 0
    while killed:
        point += 1
        workbench.convert(declared, limits, size=size)
        killed = killed_at(workbench, point, lambda: undo(workbench.source, size, workbench.result))
        # An existing result is returned again and found to be too large; otherwise the conversion does not start.
        with contextlib.suppress(ImageFailed):
            workbench.convert(declared, replace(limits, max_stored_size=0), size=size)
        undo(workbench.source, size, workbench.result)
        assert workbench.names() == {"source"}
        assert workbench.source.read_bytes() == before
    assert point > 4


def test_a_recovery_may_be_killed_too(workbench: Workbench, holds: Holds, tmp_path: Path) -> None:
    raw, image, declared, limits = prepared("raw by reference", tmp_path)
    workbench.put(image)
    size = workbench.source.stat().st_size
    kills = 0
    for point in (22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 3, 2, 1):
        kills += converted_but_killed(workbench, declared, size, limits, point)
    workbench.convert(declared, limits, size=size)
    assert kills > 5
    holds(workbench.result, raw)


def test_a_finished_conversion_is_returned_again_until_its_receipt_is_deleted(
    workbench: Workbench, tmp_path: Path
) -> None:
    raw = dense_disk(tmp_path / "disk.raw")
    workbench.put(raw)
    first = workbench.convert(DiskFormat.RAW)
    assert workbench.convert(DiskFormat.RAW, size=raw.stat().st_size) == first
    forget(workbench.result)
    forget(workbench.result)
    with pytest.raises(ReceiptMissing):
        workbench.convert(DiskFormat.RAW, size=raw.stat().st_size)


def test_two_attempts_at_once_are_kept_apart(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    with locked(workbench.source, unless=workbench.result), pytest.raises(SourceBusy):
        workbench.convert(DiskFormat.RAW)
    assert workbench.names() == {"source"}
    workbench.convert(DiskFormat.RAW)


def test_a_source_that_is_missing_or_shorter_than_recorded_is_named(workbench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(SourceDamaged):
        workbench.convert(DiskFormat.RAW, size=512)
    workbench.put(dense_disk(tmp_path / "disk.raw"))
    with pytest.raises(SourceDamaged):
        workbench.convert(DiskFormat.RAW, size=5 * MiB)


def cancel_when(workbench: Workbench, phase: ImagePhase) -> Callable[[ImagePhase, int, int | None], None]:
    def report(now: ImagePhase, done: int, total: int | None) -> None:
        if now is phase:
            workbench.cancelled.set()

    return report


@pytest.mark.parametrize("phase", [ImagePhase.INSPECTING, ImagePhase.CONVERTING, ImagePhase.VERIFYING])
@pytest.mark.parametrize("kind", ["VMDK by reference", "keep", "copy", "VHDX by a copy"])
def test_a_cancelled_conversion_leaves_its_source_as_it_was(
    workbench: Workbench, tmp_path: Path, kind: str, phase: ImagePhase
) -> None:
    _, image, declared, limits = prepared(kind, tmp_path)
    if kind == "keep" and phase is ImagePhase.CONVERTING:
        phase = ImagePhase.VERIFYING
    workbench.put(image)
    before = workbench.source.read_bytes()
    with pytest.raises(Cancelled):
        convert(workbench.task(declared), limits, cancel_when(workbench, phase), workbench.cancelled)
    assert workbench.names() == {"source"}
    assert workbench.source.read_bytes() == before
    workbench.cancelled.clear()
    workbench.convert(declared, limits)


def test_tables_that_do_not_hold_are_taken_back_and_the_data_copied(
    workbench: Workbench, holds: Holds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, image, declared, limits = prepared("VMDK by reference", tmp_path)
    real, reports = img.check, [img.CheckReport(corruptions=1, leaks=0, end_offset=None)]
    monkeypatch.setattr(img, "check", lambda *a: reports.pop() if reports else real(*a))
    workbench.put(image)
    before = workbench.source.read_bytes()
    assert workbench.convert(declared, limits).way is Way.COPY
    assert workbench.source.read_bytes() == before
    holds(workbench.result, raw)


def test_a_vhdx_by_new_tables_that_do_not_hold_is_copied_without_qemu(
    workbench: Workbench, holds: Holds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = dense_disk(tmp_path / "disk.raw", 64 * MiB)
    real, reports = img.check, [img.CheckReport(corruptions=1, leaks=0, end_offset=None)]
    monkeypatch.setattr(img, "check", lambda *a: reports.pop() if reports else real(*a))
    monkeypatch.delattr(img, "convert")
    workbench.put(make(raw, tmp_path / "image", "vhdx", block_size="1M"))
    assert workbench.convert(DiskFormat.VHDX).way is Way.COPY
    assert not reports
    holds(workbench.result, raw)


def test_a_killed_worker_takes_its_qemu_along(workbench: Workbench, tmp_path: Path) -> None:
    workbench.put(raw_disk(tmp_path / "disk.raw", 4096 * MiB, [(n * 8 * MiB, 1 * MiB) for n in range(64)]))
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        task, limits = workbench.task(DiskFormat.RAW), Limits(ways=frozenset({Way.COPY}))

        def report(phase: ImagePhase, done: int, total: int | None) -> None:
            if phase is ImagePhase.CONVERTING and done:
                os.write(write_end, b"!")
                signal.pause()

        convert(task, limits, report, threading.Event())
        os._exit(1)
    os.close(write_end)
    assert os.read(read_end, 1) == b"!"
    os.close(read_end)
    helpers = psutil.Process(child).children(recursive=True)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    _, alive = psutil.wait_procs(helpers, timeout=20)
    assert helpers
    assert not alive
    workbench.convert(DiskFormat.RAW)
    assert workbench.names() == {"source", "result", "result.json"}


def test_a_full_disk_is_the_storage_s_fault_and_can_be_retried(
    workbench: Workbench, holds: Holds, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem takes root")
    raw = dense_disk(tmp_path / "disk.raw")
    with small_filesystem(workbench.folder, "7M"):
        workbench.put(raw)
        with pytest.raises(ImageFailed) as caught:
            workbench.convert(DiskFormat.RAW, Limits(ways=frozenset({Way.COPY})))
        assert (caught.value.code, caught.value.retriable) == (FailureCode.STORAGE_UNAVAILABLE, True)
        assert workbench.names() == {"source"}
        assert workbench.source.read_bytes() == raw.read_bytes()
        workbench.convert(DiskFormat.RAW)
        holds(workbench.result, raw)


def test_a_disk_without_room_for_tables_leaves_the_source_as_it_was(workbench: Workbench, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small filesystem takes root")
    raw = dense_disk(tmp_path / "disk.raw")
    with small_filesystem(workbench.folder, "4200k"):
        workbench.put(raw)
        with pytest.raises(ImageFailed) as caught:
            workbench.convert(DiskFormat.RAW)
        assert caught.value.code is FailureCode.STORAGE_UNAVAILABLE
        assert workbench.names() == {"source"}
        assert workbench.source.read_bytes() == raw.read_bytes()


@contextlib.contextmanager
def small_filesystem(folder: Path, size: str) -> Any:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True, timeout=30)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=30)
