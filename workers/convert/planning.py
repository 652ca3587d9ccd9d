"""Chooses the way to convert a source, and plans what to write if its data can stay in place.

Reference is tried first, then keep, then copy. A map that is unusual but not wrong is a reason to copy.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from app.catalog.outcome import Outcome, Way
from app.lifecycle import DiskFormat
from workers.errors import Cancelled, QemuRefused
from workers.inspection.inspect import Inspection
from workers.inspection.qcow2 import Qcow2Facts
from workers.inspection.qcow2_tables import Qcow2Tables
from workers.inspection.refusals import corrupt
from workers.inspection.vhd import FOOTER_SIZE, VhdFacts
from workers.inspection.vhdx import ReadAt, VhdxFacts, payload
from workers.inspection.vmdk import VmdkFacts
from workers.inspection.vmdk_tables import open_tables
from workers.qcow2 import metadata
from workers.qcow2.extents import (
    USUAL_CLUSTER,
    DoubtfulMap,
    Extents,
    Relocation,
    TooManyExtents,
    Truncated,
    check,
    cluster_size_for,
    fitting_cluster,
    relocate,
    without_holes,
)
from workers.qemu import img
from workers.qemu.confinement import Sandbox

log = structlog.get_logger(__name__)

_MISCOUNTED = (
    "The reference counts in this qcow2 file are wrong, as after a crash of the program that wrote it. They do not "
    "affect the disk, which was read from the tables of the file. Check the original with `qemu-img check FILE`."
)


class NotByReference(ValueError):
    """Raised when the data has to be copied; the text says why."""


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """New tables around the existing data: the data to copy within the file, and the layout to append."""

    layout: metadata.Layout
    copies: list[Relocation]


@dataclass(frozen=True, slots=True)
class KeepPlan:
    """Only a new header; `stored_size` is the end of the image, in bytes."""

    header: bytes
    stored_size: int


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """Copy all data, and why. `extents` locate the data in the source; None if QEMU has to read the disk."""

    reason: str
    extents: Extents | None


Plan = ReferencePlan | KeepPlan | CopyPlan


class Subject(NamedTuple):
    """A source that passed inspection: its facts, how QEMU opens it, its sizes in bytes, and how to read it.

    `data_size` is the amount of data that its tables map. `report` is QEMU's report on the reference counts of a qcow2,
    once they are checked.
    """

    inspection: Inspection
    image: img.Image
    virtual_size: int
    source_size: int
    data_size: int
    read_at: ReadAt
    report: img.CheckReport | None = None

    def converted(self, way: Way, stored_size: int, file_size: int) -> Outcome:
        """The outcome of converting this source to a result of these sizes, in bytes."""
        inspection = self.inspection
        return Outcome(way, inspection.format, self.virtual_size, stored_size, file_size, inspection.warnings)


def make_plan(sandbox: Sandbox, subject: Subject, fd: int) -> Plan:
    """Choose the way for a source that is the open file `fd`.

    Raises ImageFailed if the source is cut off or contradicts itself, QemuError, Cancelled.
    """
    with cut_off_is_corrupt():
        try:
            return _by_format(sandbox, subject, fd)
        except (NotByReference, DoubtfulMap, TooManyExtents, metadata.TablesTooLarge) as reason:
            log.info("source.copied", reason=str(reason))
            return plan_copy(sandbox, subject, fd, str(reason))


def plan_copy(sandbox: Sandbox, subject: Subject, fd: int, reason: str) -> CopyPlan:
    """Plan the copy of a source that is the open file `fd`. Raises ImageFailed if it is damaged, Cancelled.

    QEMU reads most formats, since it skips empty parts quickly. Not so with a VHDX, where it reads the whole disk and
    searches for zeros, nor with a VMDK, which it walks grain by grain. Both take it minutes for 2 TiB without data, and
    their tables have been read here anyway.
    """
    with cut_off_is_corrupt(), suppress(DoubtfulMap, TooManyExtents):
        extents = _located(sandbox, subject)
        if extents is not None:
            with suppress(TooManyExtents):
                # A block of up to 256 MiB may be a hole except for a few KiB.
                extents = without_holes(fd, extents, USUAL_CLUSTER, sandbox.limits.max_extents)
            return CopyPlan(reason, extents)
    return CopyPlan(reason, None)


def _located(sandbox: Sandbox, subject: Subject) -> Extents | None:
    """Where the data of a VHDX or a VMDK is stored; None for other formats and for compressed data."""
    match subject.inspection.facts:
        case VhdxFacts():
            return plain_extents(subject)
        case VmdkFacts():
            return map_source(sandbox, subject)
    return None


@contextmanager
def cut_off_is_corrupt() -> Iterator[None]:
    """Raise ImageFailed if a map shows that the file ends too early."""
    try:
        yield
    except Truncated as reason:
        log.info("source.truncated", reason=str(reason))
        raise corrupt("The file is cut off: it ends before its data does.") from reason


def _by_format(sandbox: Sandbox, subject: Subject, fd: int) -> Plan:
    match subject.inspection.facts:
        case None | VhdFacts(fixed=True) | VhdxFacts():
            return _reference(sandbox, subject, plain_extents(subject), fd)
        case VmdkFacts(streamed=False):
            extents = map_source(sandbox, subject)
            if extents is None:
                raise NotByReference("data are compressed")
            return _reference(sandbox, subject, extents)
        case Qcow2Facts() as facts:
            return _qcow2(sandbox, subject, facts, fd)
    raise NotByReference("the format stores its data compressed or unaligned")


def plain_extents(subject: Subject) -> Extents:
    """Where the data of a raw disk, a fixed VHD or a VHDX is stored, found without QEMU. These formats have no holes.

    Raises ImageFailed, Truncated.
    """
    facts = subject.inspection.facts
    if isinstance(facts, VhdxFacts):
        return payload(facts, subject.read_at, subject.source_size)
    if isinstance(facts, VhdFacts) and subject.virtual_size > subject.source_size - FOOTER_SIZE:
        raise corrupt("The file is cut off: it is shorter than the disk that its VHD footer describes.")
    extents = Extents()
    extents.add(0, subject.virtual_size, 0)
    return extents


def map_source(sandbox: Sandbox, subject: Subject) -> Extents | None:
    """The checked map of the data; None if it is compressed. Read from the tables of VMDK and qcow2, by QEMU for a VHD.

    Raises DoubtfulMap, Truncated, TooManyExtents, ImageFailed, QemuError, Cancelled.
    """
    extents = _mapped(sandbox, subject)
    if extents is not None:
        check(extents, subject.virtual_size, _readable(subject))
    return extents


def _mapped(sandbox: Sandbox, subject: Subject) -> Extents | None:
    limits = sandbox.limits
    match subject.inspection.facts:
        case VmdkFacts():
            return _grains(sandbox, subject)
        case Qcow2Facts(header=header):
            tables = Qcow2Tables(header, subject.read_at, subject.source_size, _tick(sandbox))
            return tables.extents(limits.max_extents)
    bounds = limits.for_tables(subject.source_size, subject.virtual_size)
    found = img.map_extents(sandbox, subject.image, bounds, limits.max_extents)
    return None if found.unplaced else found.extents


def _grains(sandbox: Sandbox, subject: Subject) -> Extents | None:
    tables = open_tables(subject.read_at, subject.source_size, subject.virtual_size)
    if tables.compressed:
        return None
    return tables.extents(subject.virtual_size, sandbox.limits.max_extents, _tick(sandbox))


def _tick(sandbox: Sandbox) -> Callable[[], None]:
    """A function to call while tables are read, which raises Cancelled."""

    def tick() -> None:
        if sandbox.cancelled.is_set():
            raise Cancelled("while the tables of a source were read")

    return tick


def _readable(subject: Subject) -> int:
    """Where data may end in the file, in bytes: a qcow2 may end within its last cluster, whose rest is zeros."""
    facts = subject.inspection.facts
    unit = facts.header.cluster_size if isinstance(facts, Qcow2Facts) else 1
    return -(-subject.source_size // unit) * unit


def mostly_data(extents: Extents, subject: Subject) -> None:
    """Raises NotByReference if less than three quarters of the source is data, so that a copy is much smaller."""
    if 4 * extents.data_size < 3 * subject.source_size:
        raise NotByReference("less than three quarters of the file is data")


def fitting(extents: Extents, virtual_size: int) -> int:
    """The cluster size, in bytes, with which the data can stay in place. Raises NotByReference."""
    cluster_size = fitting_cluster(extents, virtual_size)
    if cluster_size is None:
        raise NotByReference("data are not aligned")
    return cluster_size


def _reference(sandbox: Sandbox, subject: Subject, extents: Extents, fd: int | None = None) -> ReferencePlan:
    """Plan new tables on a checked map. `fd`: leave out the holes of this file, which the map does not contain."""
    if Way.REFERENCE not in sandbox.limits.ways:
        raise NotByReference("the operator does not allow it")
    virtual_size = subject.virtual_size
    if fd is not None:
        extents = without_holes(fd, extents, cluster_size_for(virtual_size), sandbox.limits.max_extents)
    mostly_data(extents, subject)
    cluster_size = fitting(extents, virtual_size)
    free_at = -(-_readable(subject) // cluster_size) * cluster_size
    extents, copies, tables_at = relocate(extents, cluster_size, free_at)
    return ReferencePlan(metadata.lay_out(virtual_size, cluster_size, extents, tables_at), copies)


def _qcow2(sandbox: Sandbox, subject: Subject, facts: Qcow2Facts, fd: int) -> Plan:
    extents = map_source(sandbox, subject)
    if extents is not None and Way.REFERENCE in sandbox.limits.ways:
        # Clusters may be preallocated but never written.
        return _reference(sandbox, subject, extents, fd)
    return keep(sandbox, subject, facts)


def keep(sandbox: Sandbox, subject: Subject, facts: Qcow2Facts) -> KeepPlan:
    """Plan a new header for a qcow2 whose reference counts are correct. Raises NotByReference."""
    if Way.KEEP not in sandbox.limits.ways:
        raise NotByReference("the operator does not allow it")
    if facts.dirty or facts.bitmaps or facts.header.nb_snapshots:
        raise NotByReference("it contains more than its current state")
    report = subject.report
    if report is None or not report.clean:
        raise NotByReference("its reference counts are wrong")
    if report.end_offset is None or 4 * report.end_offset < 3 * subject.source_size:
        raise NotByReference("more than a quarter of the file is unused")
    return KeepPlan(metadata.write_header(facts.header), report.end_offset)


def counted(sandbox: Sandbox, subject: Subject) -> Subject:
    """The source with a report on its reference counts, if it is a qcow2 without snapshots.

    The counts show a writer which clusters are free; a reader does not need them. If they are wrong, the disk is still
    intact, and its owner gets a warning. Snapshots are not checked, since even a small file may have many of them.
    Raises QemuError, Cancelled.
    """
    inspection = subject.inspection
    if not isinstance(inspection.facts, Qcow2Facts) or inspection.facts.header.nb_snapshots:
        return subject
    try:
        report = img.check(sandbox, subject.image, sandbox.limits.for_tables(subject.source_size, subject.virtual_size))
    except QemuRefused as refusal:
        log.info("qemu.check_refused", stderr=refusal.stderr)
        report = img.CheckReport(corruptions=1, leaks=0, end_offset=None)
    if report.corruptions:
        inspection = replace(inspection, warnings=(*inspection.warnings, _MISCOUNTED))
    return subject._replace(inspection=inspection, report=report)


def how_to_open(inspection: Inspection) -> img.Image:
    """The source under QEMU's name for its format, with the option that makes QEMU read all of it."""
    driver = "vpc" if inspection.format is DiskFormat.VHD else inspection.format.lower()
    sized = isinstance(inspection.facts, VhdFacts) and inspection.facts.holds_current_size()
    return img.source(driver, "force_size_calc=current_size" if sized else None)
