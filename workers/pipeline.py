"""From the uploaded bytes to a verified qcow2: inspect, convert, verify, one after the other. Knows no database.

Killed at any moment, it leaves a source (or a result) from which the next attempt goes on. See `in_place` for
why, and `receipts` for what is written down.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.errors import ImageFailed
from app.lifecycle import DiskFormat, ImagePhase
from workers import in_place, qemu, receipts
from workers.blame import blaming_image, storage_may_fill_up
from workers.confinement import SOURCE, Sandbox, remove_tree
from workers.errors import Cancelled, QemuRefused, ReceiptMissing, UnsoundResult
from workers.flushing import flushed_meanwhile
from workers.formats.refusals import checksum_mismatch, corrupt
from workers.formats.reported import check_reported
from workers.inspection import Inspection, inspect_file, inspect_head
from workers.limits import Limits
from workers.planning import CopyPlan, KeepPlan, ReferencePlan, Subject, how_to_open, make_plan
from workers.receipts import Converted, Receipt, Way

__all__ = ["ConversionTask", "Converted", "Limits", "Way", "convert", "forget", "inspect_head"]

log = structlog.get_logger(__name__)

Report = Callable[[ImagePhase, int, int | None], None]

_READ_SIZE = 1 << 20


@dataclass(frozen=True, slots=True)
class ConversionTask:
    """What to convert, and where to.

    `source` is the uploaded file; it is rewritten in place where that is possible, and then is gone: it has
    become `result`. `source_size` is its recorded size in bytes (after a kill the file may be longer). `result`
    and `workspace`, a folder that only this job uses, are on the same filesystem. `declared_sha256` is lower-case
    hex.
    """

    source: Path
    source_size: int
    result: Path
    workspace: Path
    declared_format: DiskFormat
    declared_sha256: str | None = None


def convert(task: ConversionTask, limits: Limits, report: Report, cancelled: threading.Event) -> Converted:
    """Do all of it; blocks. `report(phase, bytes_done, bytes_total)` is called often and should be quick.

    A result that is there already is told again, until it is forgotten. Raises ImageFailed for what its owner has
    to know; Cancelled once `cancelled` is set; SourceBusy when another attempt is under way; other
    ConversionErrors and OSErrors for what nobody expected. The source is whole after every failure.
    """
    with storage_may_fill_up():
        if task.result.exists():
            return _told_again(task)
        with in_place.locked(task.source, unless=task.result) as fd:
            if fd is None:
                return _told_again(task)
            return _Attempt(task, limits, report, cancelled, fd).run()


def forget(result: Path) -> None:
    """Remove what was written down beside a result, once the caller has noted it. Harmless when done before."""
    receipts.remove(result)


def _told_again(task: ConversionTask) -> Converted:
    remove_tree(task.workspace)
    receipt = receipts.read(task.result)
    if receipt is None:
        raise ReceiptMissing("the result was noted and forgotten before")
    return receipt.converted


class _Attempt:
    """One attempt at a task, with the source locked and open as `fd`."""

    def __init__(
        self, task: ConversionTask, limits: Limits, report: Report, cancelled: threading.Event, fd: int
    ) -> None:
        self.task = task
        self.limits = limits
        self.report = report
        self.cancelled = cancelled
        self.fd = fd
        self.rewriting = in_place.Rewriting(fd, task.source_size, task.result)

    def run(self) -> Converted:
        recovered = self.rewriting.recover()
        with Sandbox(self.task.workspace, self.task.source, self.limits, self.cancelled) as sandbox:
            if recovered is not None:
                return self._finish_in_place(sandbox, recovered)
            subject = self._inspect(sandbox)
            with blaming_image():
                plan = make_plan(sandbox, subject)
            if not isinstance(plan, CopyPlan):
                try:
                    return self._rewrite(sandbox, subject, plan)
                except UnsoundResult as error:
                    log.warning("new tables do not hold, copying instead", reason=str(error))
            return self._copy(sandbox, subject)

    def _inspect(self, sandbox: Sandbox) -> Subject:
        """Everything that can be known of the source before its map. Raises ImageFailed."""
        size = self.task.source_size
        self._tell(ImagePhase.INSPECTING, 0, size)
        self._check_digest()
        inspection = inspect_file(self.fd, self.task.declared_format, size, self.limits.max_virtual_size)
        image = how_to_open(inspection)
        virtual_size = self._reported_size(sandbox, inspection, image)
        return Subject(inspection, image, virtual_size, size, self.fd)

    def _check_digest(self) -> None:
        if self.task.declared_sha256 is None:
            return
        digest = hashlib.sha256()
        size = self.task.source_size
        for place in range(0, size, _READ_SIZE):
            digest.update(os.pread(self.fd, min(_READ_SIZE, size - place), place))
            self._tell(ImagePhase.INSPECTING, place, size)
        if digest.hexdigest() != self.task.declared_sha256:
            raise checksum_mismatch(self.task.declared_sha256, digest.hexdigest())

    def _reported_size(self, sandbox: Sandbox, inspection: Inspection, image: qemu.Image) -> int:
        """The size of the disk as QEMU sees it; a raw source has no header, and its length is the disk's."""
        if inspection.format is DiskFormat.RAW:
            return self.task.source_size
        with blaming_image():
            info = qemu.info(sandbox, image, self.limits.for_info())
        size = check_reported(info, image.name, self.limits.max_virtual_size)
        if inspection.claimed_size not in (None, size):
            raise corrupt(f"This image names two sizes of its disk: {inspection.claimed_size} and {size} bytes.")
        return size

    def _rewrite(self, sandbox: Sandbox, subject: Subject, plan: ReferencePlan | KeepPlan) -> Converted:
        """The ways *reference* and *keep*: the source becomes the result."""
        with self._whole_source_on_failure():
            if isinstance(plan, ReferencePlan):
                layout, header = plan.layout, plan.layout.header()
                self.rewriting.append(layout, plan.copies, self._converting(layout.tables_size))
                converted = subject.converted(Way.REFERENCE, layout.stored_size, layout.file_size)
            else:
                header = plan.header
                converted = subject.converted(Way.KEEP, plan.stored_size, self.task.source_size)
            self.rewriting.commit(header, converted)
        return self._finish_in_place(sandbox, converted)

    def _finish_in_place(self, sandbox: Sandbox, converted: Converted) -> Converted:
        with self._whole_source_on_failure():
            self._verify(sandbox, qemu.source("qcow2"), converted, self.fd)
            sandbox.own(sandbox.folder / SOURCE)
            os.rename(self.task.source, self.task.result)
        for folder in {self.task.result.parent, self.task.source.parent}:
            receipts.sync_folder(folder)
        return converted

    def _copy(self, sandbox: Sandbox, subject: Subject) -> Converted:
        """The way *copy*: qemu-img writes a new file; the source stays."""
        bounds = self.limits.for_copy(self.task.source_size, subject.virtual_size)
        progress = self._converting(subject.virtual_size)
        written = sandbox.folder / qemu.RESULT_IMAGE.name
        with flushed_meanwhile(written):
            with blaming_image():
                qemu.convert(sandbox, subject.image, subject.virtual_size, bounds, progress)
            with sandbox.written() as fd:
                size = os.fstat(fd).st_size
                unverified = subject.converted(Way.COPY, size, size)
                stored_size = self._verify(sandbox, qemu.RESULT_IMAGE, unverified, fd)
                os.fsync(fd)
        converted = subject.converted(Way.COPY, stored_size, size)
        sandbox.own(written)
        receipts.write(self.task.result, Receipt(converted))
        os.rename(written, self.task.result)
        receipts.sync_folder(self.task.result.parent)
        return converted

    def _verify(self, sandbox: Sandbox, image: qemu.Image, expected: Converted, fd: int) -> int:
        """Inspect a result as if it had been uploaded, and check its tables; gives where it ends, in bytes.

        Raises UnsoundResult.
        """
        self._tell(ImagePhase.VERIFYING, 0, expected.file_size)
        bounds = self.limits.for_tables(max(expected.file_size, expected.virtual_size))
        try:
            inspection = inspect_file(fd, DiskFormat.QCOW2, expected.file_size, self.limits.max_virtual_size)
            report = qemu.check(sandbox, image, bounds)
        except (ImageFailed, QemuRefused) as error:
            raise UnsoundResult(str(error)) from error
        if not report.clean or inspection.claimed_size != expected.virtual_size or inspection.warnings:
            raise UnsoundResult(f"{report}, {inspection.claimed_size} bytes large")
        self._tell(ImagePhase.VERIFYING, expected.file_size, expected.file_size)
        return report.end_offset or expected.file_size

    @contextmanager
    def _whole_source_on_failure(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.rewriting.roll_back()
            raise

    def _converting(self, total: int) -> Callable[[int], None]:
        """Something to call with the bytes done out of `total` while converting."""
        self._tell(ImagePhase.CONVERTING, 0, total)
        return lambda done: self._tell(ImagePhase.CONVERTING, done, total)

    def _tell(self, phase: ImagePhase, done: int, total: int) -> None:
        """Report progress, or stop when nobody wants it any more. Raises Cancelled."""
        if self.cancelled.is_set():
            raise Cancelled(f"while {phase}")
        self.report(phase, done, total)
