"""Examines the source before a conversion and verifies the result after it. The same for all stores."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.catalog.outcome import Outcome, Way
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, ImagePhase
from app.sizes import KIB
from workers.convert.blame import blaming_image
from workers.convert.inflating import inflate_all
from workers.convert.planning import Subject, how_to_open
from workers.convert.task import ConversionTask
from workers.errors import Cancelled, QemuRefused, UnsoundResult
from workers.inspection.inspect import Inspection, inspect
from workers.inspection.qcow2 import Qcow2Facts
from workers.inspection.refusals import checksum_mismatch, corrupt
from workers.inspection.reported import check_reported
from workers.inspection.tables import mapped
from workers.inspection.vhdx import ReadAt
from workers.qemu import img
from workers.qemu.confinement import Sandbox

Report = Callable[[ImagePhase, int, int | None], None]

# Small enough that a source in the store is read ahead meanwhile.
_READ_SIZE = 512 * KIB


@dataclass(frozen=True, slots=True)
class Progress:
    """Reports a conversion's progress, and checks whether it was cancelled."""

    report: Report
    cancelled: threading.Event

    def _report(self, phase: ImagePhase, done: int, total: int) -> None:
        """Report progress, in bytes. Raises Cancelled."""
        self.check()
        self.report(phase, done, total)

    def check(self) -> None:
        """Raises Cancelled once the conversion was cancelled."""
        if self.cancelled.is_set():
            raise Cancelled("by the caller")

    def of(self, phase: ImagePhase, total: int) -> Callable[[int], None]:
        """A function that reports the bytes done out of `total`. Both this and that function raise Cancelled."""
        self._report(phase, 0, total)
        return lambda done: self._report(phase, done, total)


def examine(
    sandbox: Sandbox, task: ConversionTask[Any], read_at: ReadAt, progress: Progress, *, on_socket: bool = False
) -> Subject:
    """Inspect a source: all facts except its map. `on_socket`: the sandbox offers the source on a socket.

    `read_at` reads the source and returns fewer bytes at its end. Raises ImageFailed, QemuError, Cancelled, and what
    `read_at` raises.
    """
    size, most = task.source_size, sandbox.limits.max_virtual_size
    report_done = progress.of(ImagePhase.INSPECTING, size)
    if task.declared_sha256 is not None:
        _check_digest(read_at, size, task.declared_sha256, report_done)
    inspection = inspect(read_at, task.declared_format, size, most)
    image = how_to_open(inspection)
    image = image.on_socket() if on_socket else image
    virtual_size = _reported_size(sandbox, inspection, image, size)
    data_size = mapped(inspection.facts, read_at, size, virtual_size, progress.check)
    return Subject(inspection, image, virtual_size, size, data_size, read_at)


def verify(
    sandbox: Sandbox, image: img.Image, read_at: ReadAt, expected: Outcome, progress: Progress
) -> img.CheckReport:
    """Inspect a result like an upload, check its tables, and decompress its compressed clusters if they were kept.

    Data that QEMU has read and rewritten needs no such check. Raises UnsoundResult, and what `read_at` raises.
    """
    limits = sandbox.limits
    report_done = progress.of(ImagePhase.VERIFYING, expected.file_size)
    bounds = limits.for_tables(expected.file_size, expected.virtual_size)
    try:
        inspection = inspect(read_at, DiskFormat.QCOW2, expected.file_size, limits.max_virtual_size)
        report = img.check(sandbox, image, bounds)
        if expected.way is Way.KEEP and isinstance(inspection.facts, Qcow2Facts):
            inflate_all(inspection.facts.header, read_at, expected.file_size, report_done)
    except (ImageFailed, QemuRefused) as error:
        raise UnsoundResult(str(error)) from error
    if not report.clean or inspection.claimed_size != expected.virtual_size or inspection.warnings:
        raise UnsoundResult(f"{report}, virtual size {inspection.claimed_size} bytes")
    report_done(expected.file_size)
    return report


def _check_digest(read_at: ReadAt, size: int, declared: str, report_done: Callable[[int], None]) -> None:
    digest = hashlib.sha256()
    for place in range(0, size, _READ_SIZE):
        digest.update(read_at(place, min(_READ_SIZE, size - place)))
        report_done(place)
    if digest.hexdigest() != declared:
        raise checksum_mismatch(declared, digest.hexdigest())


def _reported_size(sandbox: Sandbox, inspection: Inspection, image: img.Image, source_size: int) -> int:
    """The size of the disk in bytes, as QEMU reads it; for a raw source, which has no header, its length."""
    limits = sandbox.limits
    if inspection.format is DiskFormat.RAW:
        return source_size
    with blaming_image():
        info = img.info(sandbox, image, limits.for_info())
    size = check_reported(info, image.name, limits.max_virtual_size)
    if inspection.claimed_size not in (None, size):
        raise corrupt(
            f"This image states two sizes for its disk: {inspection.claimed_size:,} bytes and {size:,} bytes."
        )
    return size
