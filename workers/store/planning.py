"""Chooses the way to convert a source in an object store, where objects can't be changed but ranges can be copied.

A source is converted by reference or keeps its tables if possible; otherwise it is streamed. If its map is unusual but
not wrong, QEMU reads the disk that is streamed.
"""

from dataclasses import dataclass

import structlog

from app.catalog.outcome import Way
from app.sizes import KIB
from workers.convert.planning import (
    KeepPlan,
    NotByReference,
    Subject,
    cut_off_is_corrupt,
    fitting,
    keep,
    map_source,
    mostly_data,
    plain_extents,
)
from workers.inspection.qcow2 import Qcow2Facts
from workers.inspection.vhd import VhdFacts
from workers.inspection.vhdx import VhdxFacts
from workers.inspection.vmdk import VmdkFacts
from workers.limits import PartRules
from workers.qcow2 import metadata
from workers.qcow2.extents import DoubtfulMap, Extents, TooManyExtents
from workers.qemu.confinement import Sandbox
from workers.store.parts import Reference, TooScattered, refer

log = structlog.get_logger(__name__)

_SAMPLES, _SAMPLE_SIZE = 64, 4 * KIB


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """Stream all data, and why. `extents` locate the data in the source; None if only QEMU can read it."""

    reason: str
    extents: Extents | None


StorePlan = Reference | KeepPlan | StreamPlan


def plan_in_store(sandbox: Sandbox, subject: Subject, rules: PartRules) -> StorePlan:
    """Choose the way. Raises ImageFailed if the source is cut off or contradicts itself, QemuError, Cancelled."""
    with cut_off_is_corrupt():
        try:
            return _by_format(sandbox, subject, rules)
        except (DoubtfulMap, TooManyExtents) as reason:
            log.info("source.read_by_qemu", reason=str(reason))
            return StreamPlan(str(reason), None)


def plan_stream(sandbox: Sandbox, subject: Subject, rules: PartRules) -> StreamPlan:
    """Plan to stream the source, even if another way is possible. Raises what `plan_in_store` does."""
    with cut_off_is_corrupt():
        try:
            return StreamPlan("streamed", _located(sandbox, subject))
        except (DoubtfulMap, TooManyExtents) as reason:
            return StreamPlan(str(reason), None)


def _by_format(sandbox: Sandbox, subject: Subject, rules: PartRules) -> StorePlan:
    facts = subject.inspection.facts
    extents = _located(sandbox, subject)
    try:
        if extents is not None:
            _referable(sandbox, subject, extents)
            cluster_size = fitting(extents, subject.virtual_size)
            return refer(extents, subject.virtual_size, cluster_size, subject.source_size, rules)
        if isinstance(facts, Qcow2Facts):
            return keep(sandbox, subject, facts)
        raise NotByReference("the format stores its data compressed")
    except (NotByReference, TooScattered, metadata.TablesTooLarge) as reason:
        log.info("source.streamed", reason=str(reason))
        return StreamPlan(str(reason), extents)


def _located(sandbox: Sandbox, subject: Subject) -> Extents | None:
    """Where the data is stored in the source; None if it is compressed."""
    match subject.inspection.facts:
        case None | VhdFacts(fixed=True) | VhdxFacts():
            return plain_extents(subject)
        case VmdkFacts(streamed=True):
            return None
    return map_source(sandbox, subject)


def _referable(sandbox: Sandbox, subject: Subject, extents: Extents) -> None:
    """Raises NotByReference if streaming pays off: it omits zeros, and some formats store many of them."""
    if Way.REFERENCE not in sandbox.limits.ways:
        raise NotByReference("the operator does not allow it")
    facts = subject.inspection.facts
    if facts is None or isinstance(facts, VhdFacts):
        raise NotByReference("the format has no holes")
    mostly_data(extents, subject)
    if isinstance(facts, VhdxFacts) and _many_zeros_among(subject, extents):
        raise NotByReference("more than a quarter of its blocks are zeros")


def _many_zeros_among(subject: Subject, extents: Extents) -> bool:
    """Whether more than a quarter of 64 samples, evenly spread over the data, contain only zeros."""
    step = max(1, extents.data_size // _SAMPLES)
    places = [number * step for number in range(_SAMPLES)]
    zeros = 0
    done = 0
    for _, length, offset in extents:
        while places and places[0] < done + length:
            sample = subject.read_at(offset + places.pop(0) - done, _SAMPLE_SIZE)
            zeros += not any(sample)
            if zeros > _SAMPLES // 4:
                return True
        done += length
    return False
