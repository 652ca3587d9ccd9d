"""Which way a source goes, and for those that keep their data where it is, everything that has to be written.

Reference first, then keep, then copy. Whatever is odd about a map, but not wrong, is a reason to copy.
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
    coarse_enough,
    fitting_cluster,
    relocate,
    without_holes,
)
from workers.qemu import img
from workers.qemu.confinement import Sandbox

log = structlog.get_logger(__name__)

_MISCOUNTED = (
    "The reference counts in this qcow2 file are wrong, as after a crash of its writer. They do not matter for the "
    "disk, which was taken as the tables of the file have it. Look at the original with `qemu-img check FILE`."
)


class NotByReference(ValueError):
    """Raised when there is a reason to copy; the text names it."""


@dataclass(frozen=True, slots=True)
class ReferencePlan:
    """New tables around the data: what to copy within the file, and the layout that comes behind it."""

    layout: metadata.Layout
    copies: list[Relocation]


@dataclass(frozen=True, slots=True)
class KeepPlan:
    """A new header alone; `stored_size` is where the image ends, in bytes."""

    header: bytes
    stored_size: int


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """All data anew, and why. `extents` tell where it lies in the source; None when QEMU is to read the disk."""

    reason: str
    extents: Extents | None


Plan = ReferencePlan | KeepPlan | CopyPlan


class Subject(NamedTuple):
    """A source that passed inspection: what it is, how QEMU opens it, its sizes in bytes, and how to read it.

    `data_size` is how much of the disk its tables map to data. `report`: what QEMU says of the reference counts of a
    qcow2, once it was asked.
    """

    inspection: Inspection
    image: img.Image
    virtual_size: int
    source_size: int
    data_size: int
    read_at: ReadAt
    report: img.CheckReport | None = None

    def converted(self, way: Way, stored_size: int, file_size: int) -> Outcome:
        """What there is to tell once this has become a result of these sizes."""
        inspection = self.inspection
        return Outcome(way, inspection.format, self.virtual_size, stored_size, file_size, inspection.warnings)


def make_plan(sandbox: Sandbox, subject: Subject, fd: int) -> Plan:
    """Choose the way of a source that is the open file `fd`.

    Raises ImageFailed when the source is cut off or contradicts itself, QemuError, Cancelled.
    """
    with cut_off_is_corrupt():
        try:
            return _by_format(sandbox, subject, fd)
        except (NotByReference, DoubtfulMap, TooManyExtents, metadata.TablesTooLarge) as reason:
            log.info("source has to be copied", reason=str(reason))
            return plan_copy(sandbox, subject, fd, str(reason))


def plan_copy(sandbox: Sandbox, subject: Subject, fd: int, reason: str) -> CopyPlan:
    """How a source is copied that is the open file `fd`. Raises ImageFailed when it is damaged, Cancelled.

    Most formats are left to QEMU, which soon finds what is empty. Not in a VHDX: it reads the whole disk, and looks for
    zeros. In a VMDK it goes from grain to grain. Either takes it minutes for 2 TiB without data, and the tables have
    been read here anyway.
    """
    with cut_off_is_corrupt(), suppress(DoubtfulMap, TooManyExtents):
        extents = _located(sandbox, subject)
        if extents is not None:
            with suppress(TooManyExtents):
                # A block of up to 256 MiB may be one hole but for some KiB.
                extents = without_holes(fd, extents, USUAL_CLUSTER, sandbox.limits.max_extents)
            return CopyPlan(reason, extents)
    return CopyPlan(reason, None)


def _located(sandbox: Sandbox, subject: Subject) -> Extents | None:
    """Where the data of a VHDX or a VMDK lies; None of other formats, and of compressed data."""
    match subject.inspection.facts:
        case VhdxFacts():
            return plain_extents(subject)
        case VmdkFacts():
            return map_source(sandbox, subject)
    return None


@contextmanager
def cut_off_is_corrupt() -> Iterator[None]:
    """Tell the owner of an image that its file ends too early, where a map shows it."""
    try:
        yield
    except Truncated as reason:
        log.info("source is cut off", reason=str(reason))
        raise corrupt("The file ends before its data do: it is cut off.") from reason


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
    raise NotByReference("the format has its data compressed or unaligned")


def plain_extents(subject: Subject) -> Extents:
    """Where the data of a raw disk, a fixed VHD or a VHDX lies, without asking QEMU. These formats know no holes.

    Raises ImageFailed, Truncated.
    """
    facts = subject.inspection.facts
    if isinstance(facts, VhdxFacts):
        return payload(facts, subject.read_at, subject.source_size)
    if isinstance(facts, VhdFacts) and subject.virtual_size > subject.source_size - FOOTER_SIZE:
        raise corrupt("The file is shorter than the disk that its VHD footer names: it is cut off.")
    extents = Extents()
    extents.add(0, subject.virtual_size, 0)
    return extents


def map_source(sandbox: Sandbox, subject: Subject) -> Extents | None:
    """Where the data lies, checked; None when it is compressed. VMDK and qcow2 tell by themselves, a VHD QEMU.

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
    """What is called while tables are read. Raises Cancelled."""

    def tick() -> None:
        if sandbox.cancelled.is_set():
            raise Cancelled("while the tables of a source were read")

    return tick


def _readable(subject: Subject) -> int:
    """Where data may end in the file, in bytes: a qcow2 may end within its last cluster, the rest is zeros."""
    facts = subject.inspection.facts
    unit = facts.header.cluster_size if isinstance(facts, Qcow2Facts) else 1
    return -(-subject.source_size // unit) * unit


def mostly_data(extents: Extents, subject: Subject) -> None:
    """Raises NotByReference for a source that holds so much else that a copy of its data is much smaller."""
    if 4 * extents.data_size < 3 * subject.source_size:
        raise NotByReference("less than three quarters of the file is data")


def fitting(extents: Extents, virtual_size: int) -> int:
    """The cluster size in which the data can stay as it lies. Raises NotByReference."""
    cluster_size = fitting_cluster(extents, virtual_size)
    if cluster_size is None:
        raise NotByReference("data are not aligned")
    return cluster_size


def _reference(sandbox: Sandbox, subject: Subject, extents: Extents, fd: int | None = None) -> ReferencePlan:
    """Build on a map that has been checked. `fd`: the holes of this file are left out; the map does not know them."""
    if Way.REFERENCE not in sandbox.limits.ways:
        raise NotByReference("the operator does not want it")
    virtual_size = subject.virtual_size
    if fd is not None:
        extents = without_holes(fd, extents, coarse_enough(virtual_size), sandbox.limits.max_extents)
    mostly_data(extents, subject)
    cluster_size = fitting(extents, virtual_size)
    free_at = -(-_readable(subject) // cluster_size) * cluster_size
    extents, copies, tables_at = relocate(extents, cluster_size, free_at)
    return ReferencePlan(metadata.lay_out(virtual_size, cluster_size, extents, tables_at), copies)


def _qcow2(sandbox: Sandbox, subject: Subject, facts: Qcow2Facts, fd: int) -> Plan:
    extents = map_source(sandbox, subject)
    if extents is not None and Way.REFERENCE in sandbox.limits.ways:
        # Clusters may be preallocated, and never have been written.
        return _reference(sandbox, subject, extents, fd)
    return keep(sandbox, subject, facts)


def keep(sandbox: Sandbox, subject: Subject, facts: Qcow2Facts) -> KeepPlan:
    """A new header for a qcow2 whose clusters are counted right. Raises NotByReference."""
    if Way.KEEP not in sandbox.limits.ways:
        raise NotByReference("the operator does not want it")
    if facts.dirty or facts.bitmaps or facts.header.nb_snapshots:
        raise NotByReference("it has more in it than its current state")
    report = subject.report
    if report is None or not report.clean:
        raise NotByReference("its clusters are not counted right")
    if report.end_offset is None or 4 * report.end_offset < 3 * subject.source_size:
        raise NotByReference("it has clusters that are not used")
    return KeepPlan(metadata.write_header(facts.header), report.end_offset)


def counted(sandbox: Sandbox, subject: Subject) -> Subject:
    """The source with a report on its reference counts, if it is a qcow2 without snapshots.

    Counts tell a writer which clusters are free, and a reader nothing: where they are wrong, the disk is whole, and its
    owner is warned. With snapshots, each has to be gone through, however many a small file has. Raises QemuError,
    Cancelled.
    """
    inspection = subject.inspection
    if not isinstance(inspection.facts, Qcow2Facts) or inspection.facts.header.nb_snapshots:
        return subject
    try:
        report = img.check(sandbox, subject.image, sandbox.limits.for_tables(subject.source_size, subject.virtual_size))
    except QemuRefused as refusal:
        log.info("qemu-img can't check a source", stderr=refusal.stderr)
        report = img.CheckReport(corruptions=1, leaks=0, end_offset=None)
    if report.corruptions:
        inspection = replace(inspection, warnings=(*inspection.warnings, _MISCOUNTED))
    return subject._replace(inspection=inspection, report=report)


def how_to_open(inspection: Inspection) -> img.Image:
    """The source by QEMU's name of its format, with the option that makes QEMU see all of it."""
    driver = "vpc" if inspection.format is DiskFormat.VHD else inspection.format.lower()
    sized = isinstance(inspection.facts, VhdFacts) and inspection.facts.holds_current_size()
    return img.source(driver, "force_size_calc=current_size" if sized else None)
