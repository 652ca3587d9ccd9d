"""Captures a point into a folder store: the file system copies the base's data, without reading it where it can share.

The result is written to a file in the attempt's own folder, verified, flushed, and renamed last.
"""

import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import structlog

from app.adapters.folder.store import FolderStore, store_error
from app.catalog.outcome import Outcome, Way
from app.catalog.servers.settling import Base
from app.errors import StoreUnavailable
from app.lifecycle import DiskFormat
from app.sizes import MIB
from workers.capture.bases import read_base
from workers.capture.planning import CapturePlan, CopyRules, plan_capture
from workers.capture.points import disk_of, map_point
from workers.capture.task import Captured, CaptureTask, Tally
from workers.convert.examination import verify
from workers.convert.workspaces import remove_others
from workers.folder.flushing import background_flushing
from workers.folder.packed_file import write_data, write_tables
from workers.folder.pipeline import file_reader
from workers.folder.receipts import sync_folder, write_all
from workers.limits import Limits
from workers.qcow2 import metadata
from workers.qcow2.clusters import Runs
from workers.qcow2.composed import Composed
from workers.qcow2.extents import Extents
from workers.qcow2.packing import Packer, packed_ahead
from workers.qemu import img
from workers.qemu.confinement import FileSandbox, remove_tree
from workers.store.parts import Piece

log = structlog.get_logger(__name__)

_PACKING = 2
# What is packed at once: enough for several reads at a time.
_BATCH = 1 * MIB
_COPIED_AT_ONCE = 64 * MIB
# What `copy_file_range` says where it can't copy: between file systems, and on some of them.
_NO_COPY = {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}


def capture_in_folder(task: CaptureTask, store: FolderStore, limits: Limits, *, whole: bool) -> Captured:
    """Store a point; blocks. With `whole`, everything is read from the point, nothing copied from its base.

    Raises PointLost, Cancelled, StoreError, UnsoundResult, QemuError, and what the task's functions raise. After an
    error, nothing is left.
    """
    try:
        with _opened(store, None if whole else task.base) as base, _workspace(store, task) as folder:
            return _Writing(task, store, limits, folder, base).run()
    except OSError as error:
        raise store_error(error) from error


@contextmanager
def _workspace(store: FolderStore, task: CaptureTask) -> Iterator[Path]:
    folder = store.work / task.workspace
    remove_others(folder)
    remove_tree(folder)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove_tree(folder)


@contextmanager
def _opened(store: FolderStore, base: Base | None) -> Iterator[int | None]:
    """The file of the base; None if there is nothing to copy from."""
    if base is None:
        yield None
        return
    try:
        fd = os.open(store.path(base.key), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        log.warning("base.missing", key=base.key)
        yield None
        return
    try:
        whole = os.fstat(fd).st_size == base.size
        if not whole:
            log.warning("base.changed", key=base.key)
        yield fd if whole else None
    finally:
        os.close(fd)


class _Writing:
    """One attempt, with its own folder, and the file of the base open."""

    def __init__(self, task: CaptureTask, store: FolderStore, limits: Limits, folder: Path, base: int | None) -> None:
        self.task = task
        self.limits = limits
        self.result = store.path(task.key)
        self.folder = folder
        self.draft = folder / "draft.qcow2"
        self.base = base

    def run(self) -> Captured:
        plan = self._plan()
        fd = os.open(self.draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with background_flushing(self.draft):
                layout = self._write(fd, plan)
                made = Captured(plan.size, layout.stored_size, os.fstat(fd).st_size)
                self._verify(fd, made)
            os.fsync(fd)
        finally:
            os.close(fd)
        self.result.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.draft, self.result)
        try:
            sync_folder(self.result.parent)
        except OSError:
            self.result.unlink(missing_ok=True)
            raise
        return made

    def _plan(self) -> CapturePlan:
        tick, most, base = self.task.steps.check, self.limits.max_extents, None
        if self.base is not None:
            size = os.fstat(self.base).st_size
            base = read_base(file_reader(self.base, size), size, most, tick)
        return plan_capture(map_point(self.task.reader, most, tick), base, CopyRules())

    def _write(self, fd: int, plan: CapturePlan) -> metadata.Layout:
        """Write header, copied ranges, data, and tables, one behind the other."""
        unit, tally = plan.cluster_size, Tally(self.task.progress, plan.copied + plan.read.data_size)
        copied = plan.placed(unit)
        with self._copying(fd, plan, tally) as copies:
            extents, end = self._write_data(fd, plan, tally, Composed(copied).size)
            copies.result()
        layout = metadata.lay_out(plan.size, unit, Composed([*copied, Runs(extents, unit)]), end)
        self.task.require_room(layout.stored_size)
        write_tables(fd, layout)
        return layout

    def _write_data(self, fd: int, plan: CapturePlan, tally: Tally, taken: int) -> tuple[Extents, int]:
        """Write what is read of the point behind the copied ranges, whose clusters take `taken` bytes."""
        unit, begin = plan.cluster_size, plan.cluster_size + plan.copied

        def require_room(end: int) -> None:
            self.task.require_room(taken + end - begin)

        require_room(begin)
        packer = Packer(disk_of(self.task, plan.read, tally), unit, batch=max(1, _BATCH // unit))
        with ThreadPoolExecutor(_PACKING, "packing") as packing:
            try:
                batches = packed_ahead(packing, packer.pack, packer.batches(0, packer.clusters), _PACKING)
                return write_data(fd, packer, batches, begin, require_room)
            except BaseException:
                packing.shutdown(wait=False, cancel_futures=True)
                raise

    @contextmanager
    def _copying(self, fd: int, plan: CapturePlan, tally: Tally) -> Iterator["Future[None]"]:
        """Copy the ranges of the base behind the header's cluster, in another thread, which ends with the block."""
        over = threading.Event()

        def copy() -> None:
            for piece, place in plan.copies(plan.cluster_size):
                self._copy(fd, piece, place, tally, over)

        with ThreadPoolExecutor(1, "copying") as pool:
            try:
                yield pool.submit(copy)
            finally:
                over.set()

    def _copy(self, fd: int, piece: Piece, place: int, tally: Tally, over: threading.Event) -> None:
        done = 0
        while self.base is not None and done < piece.length and not over.is_set():
            self.task.steps.check()
            most = min(_COPIED_AT_ONCE, piece.length - done)
            count = _copy_range(self.base, fd, most, piece.offset + done, place + done)
            done += count
            tally.add(count)

    def _verify(self, fd: int, made: Captured) -> None:
        expected = Outcome(Way.COPY, DiskFormat.QCOW2, made.virtual_size, made.stored_size, made.file_size)
        with FileSandbox(self.folder / "check", self.draft, self.limits, self.task.cancelled) as sandbox:
            verify(sandbox, img.source("qcow2"), file_reader(fd, made.file_size), expected, self.task.steps)


def _copy_range(source: int, target: int, count: int, offset: int, place: int) -> int:
    """Copy up to `count` bytes between two files; return how many. Raises OSError, StoreUnavailable at the end."""
    try:
        done = os.copy_file_range(source, target, count, offset, place)
    except OSError as error:
        if error.errno not in _NO_COPY:
            raise
        data = os.pread(source, min(count, MIB), offset)
        write_all(target, data, place)
        done = len(data)
    if not done:
        raise StoreUnavailable("the base became shorter while it was copied")
    return done
