"""Turns uploaded bytes into a verified qcow2: inspect, convert, verify. It does not use the database.

Killed at any moment, it leaves a source (or a result) from which the next attempt continues. See `in_place` for the
reason, and `receipts` for what is recorded.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from app.catalog.outcome import Outcome, Way
from app.lifecycle import ImagePhase
from workers.convert.blame import blaming_image, storage_may_fill_up
from workers.convert.examination import Progress, Report, examine, verify
from workers.convert.planning import CopyPlan, KeepPlan, ReferencePlan, Subject, counted, make_plan, plan_copy
from workers.convert.task import ConversionTask
from workers.errors import ReceiptMissing, UnsoundResult
from workers.folder import in_place, receipts
from workers.folder.flushing import background_flushing
from workers.folder.packed_file import write_packed
from workers.folder.receipts import Receipt
from workers.inspection.refusals import check_stored_size
from workers.inspection.vhdx import ReadAt
from workers.limits import Limits
from workers.qcow2.extents import Extents
from workers.qemu import img
from workers.qemu.confinement import SOURCE, FileSandbox, remove_tree

log = structlog.get_logger(__name__)


def convert(task: ConversionTask[Path], limits: Limits, report: Report, cancelled: threading.Event) -> Outcome:
    """Convert a source; blocks. `report(phase, bytes_done, bytes_total)` is called often and should be quick.

    If the result exists, return its recorded outcome, as long as the receipt exists. Raises ImageFailed for failures
    that the owner has to know; Cancelled once `cancelled` is set; SourceBusy if another attempt is running; other
    ConversionErrors and OSErrors for unexpected failures. The source is intact after every failure.
    """
    with storage_may_fill_up():
        if task.result.exists():
            return _recorded(task)
        with in_place.locked(task.source, unless=task.result) as fd:
            if fd is None:
                return _recorded(task)
            return _Attempt(task, limits, report, cancelled, fd).run()


def forget(result: Path) -> None:
    """Delete the receipt of a result, once the caller has recorded the outcome. May be repeated."""
    receipts.remove(result)


def _recorded(task: ConversionTask[Path]) -> Outcome:
    """The outcome in the receipt of an existing result. Raises ReceiptMissing."""
    remove_tree(task.workspace)
    receipt = receipts.read(task.result)
    if receipt is None:
        raise ReceiptMissing("the result was recorded earlier, and its receipt deleted")
    return receipt.outcome


class _Attempt:
    """One attempt at a task, with the source locked and open as `fd`."""

    def __init__(
        self, task: ConversionTask[Path], limits: Limits, report: Report, cancelled: threading.Event, fd: int
    ) -> None:
        self.task = task
        self.limits = limits
        self.progress = Progress(report, cancelled)
        self.cancelled = cancelled
        self.fd = fd
        self.rewriting = in_place.Rewriting(fd, task.source_size, task.result)

    def run(self) -> Outcome:
        recovered = self.rewriting.recover()
        with FileSandbox(self.task.workspace, self.task.source, self.limits, self.cancelled) as sandbox:
            if recovered is not None:
                return self._finish_in_place(sandbox, recovered)
            subject = examine(sandbox, self.task, file_reader(self.fd, self.task.source_size), self.progress)
            with blaming_image():
                subject = counted(sandbox, subject)
                plan = make_plan(sandbox, subject, self.fd)
            if not isinstance(plan, CopyPlan):
                try:
                    return self._rewrite(sandbox, subject, plan)
                except UnsoundResult as error:
                    log.warning("result.unsound", reason=str(error), retried_by="copy")
                    plan = plan_copy(sandbox, subject, self.fd, str(error))
            return self._copy(sandbox, subject) if plan.extents is None else self._pack(sandbox, subject, plan.extents)

    def _rewrite(self, sandbox: FileSandbox, subject: Subject, plan: ReferencePlan | KeepPlan) -> Outcome:
        """Convert by the ways *reference* and *keep*: the source becomes the result."""
        self._require_room(plan.layout.stored_size if isinstance(plan, ReferencePlan) else plan.stored_size)
        with self._whole_source_on_failure():
            if isinstance(plan, ReferencePlan):
                layout, header = plan.layout, plan.layout.header()
                self.rewriting.append(layout, plan.copies, self.progress.of(ImagePhase.CONVERTING, layout.tables_size))
                outcome = subject.converted(Way.REFERENCE, layout.stored_size, layout.file_size)
            else:
                header = plan.header
                outcome = subject.converted(Way.KEEP, plan.stored_size, self.task.source_size)
            self.rewriting.commit(header, outcome)
        return self._finish_in_place(sandbox, outcome)

    def _finish_in_place(self, sandbox: FileSandbox, outcome: Outcome) -> Outcome:
        with self._whole_source_on_failure():
            self._verify(sandbox, img.source("qcow2"), outcome, self.fd)
            sandbox.own(sandbox.folder / SOURCE)
            os.rename(self.task.source, self.task.result)
        for folder in {self.task.result.parent, self.task.source.parent}:
            receipts.sync_folder(folder)
        return outcome

    def _copy(self, sandbox: FileSandbox, subject: Subject) -> Outcome:
        """Convert by the way *copy*: qemu-img writes a new file; the source stays."""
        bounds = self.limits.for_copy(self.task.source_size, subject.data_size, subject.virtual_size)
        progress = self.progress.of(ImagePhase.CONVERTING, subject.virtual_size)
        written = sandbox.folder / img.RESULT_IMAGE.name
        with background_flushing(written):
            with blaming_image(at_quota=self.limits.quota_below(subject.virtual_size)):
                img.convert(sandbox, subject.image, subject.virtual_size, bounds, progress)
            with sandbox.written() as fd:
                size = os.fstat(fd).st_size
                unverified = subject.converted(Way.COPY, size, size)
                stored_size = self._verify(sandbox, img.RESULT_IMAGE, unverified, fd)
                self._require_room(stored_size)
                os.fsync(fd)
        return self._finish_copy(sandbox, written, subject.converted(Way.COPY, stored_size, size))

    def _pack(self, sandbox: FileSandbox, subject: Subject, extents: Extents) -> Outcome:
        """Convert by the way *copy* without QEMU: write the extents of the source to a new file; the source stays."""
        room = self.limits.max_stored_size
        progress = self.progress.of(ImagePhase.CONVERTING, subject.virtual_size)
        written = sandbox.folder / img.PACKED_IMAGE.name
        with sandbox.packed() as fd:
            with background_flushing(written):
                layout = write_packed(fd, self.fd, subject.virtual_size, extents, room, progress)
                outcome = subject.converted(Way.COPY, layout.stored_size, layout.file_size)
                self._verify(sandbox, img.PACKED_IMAGE, outcome, fd)
            os.fsync(fd)
        return self._finish_copy(sandbox, written, outcome)

    def _finish_copy(self, sandbox: FileSandbox, written: Path, outcome: Outcome) -> Outcome:
        """Rename a new file, which is flushed and verified, to the result."""
        sandbox.own(written)
        receipts.write(self.task.result, Receipt(outcome))
        os.rename(written, self.task.result)
        receipts.sync_folder(self.task.result.parent)
        return outcome

    def _verify(self, sandbox: FileSandbox, image: img.Image, expected: Outcome, fd: int) -> int:
        """Verify a result; return where it ends, in bytes. Raises UnsoundResult."""
        report = verify(sandbox, image, file_reader(fd, expected.file_size), expected, self.progress)
        return report.end_offset or expected.file_size

    def _require_room(self, stored_size: int) -> None:
        """Raises ImageFailed if the project has no room for `stored_size` bytes."""
        check_stored_size(stored_size, self.limits.max_stored_size)

    @contextmanager
    def _whole_source_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.rewriting.roll_back()
            raise


def file_reader(fd: int, size: int) -> ReadAt:
    """A reader for the first `size` bytes of a file."""

    def read_at(offset: int, length: int) -> bytes:
        # Offsets come from the file, and pread raises OverflowError for those of 2**63 and more.
        return os.pread(fd, min(length, size - offset), offset) if offset < size else b""

    return read_at
