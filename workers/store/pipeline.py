"""Turns uploaded bytes into a verified qcow2 within an object store, without a copy on this machine's disk.

Every attempt starts over and produces the same bytes from the same source, so an attempt that was killed, or whose
worker lost its lease, does no harm. Open uploads under the result's key belong to such attempts and are aborted first.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.adapters.s3.bucket import Bucket
from app.catalog.outcome import Outcome, Way
from app.lifecycle import ImagePhase
from app.sizes import MIB
from workers.convert.blame import blaming_image
from workers.convert.examination import Progress, Report, examine, verify
from workers.convert.planning import Subject, counted
from workers.convert.split_plan import SplitPlan
from workers.convert.task import ConversionTask
from workers.errors import SourceDamaged, UnsoundResult
from workers.inspection.refusals import check_stored_size, within
from workers.limits import Limits, PartRules
from workers.qcow2.extents import cluster_size_for
from workers.qcow2.packing import Packer
from workers.qemu import img
from workers.qemu.confinement import Sandbox
from workers.store.assembling import Assembly, StoredObject, assembling
from workers.store.parts import Reference
from workers.store.planning import StorePlan, StreamPlan, plan_in_store, plan_stream
from workers.store.ranges import split_up
from workers.store.reading import reading
from workers.store.sandbox import StoredSandbox
from workers.store.source import StoredSource
from workers.store.streaming import Streaming, Target

log = structlog.get_logger(__name__)

# The memory per source that is being converted, for its tables and for reading ahead.
_CACHE_BYTES = 12 * MIB


def convert_in_store(
    task: ConversionTask[str], bucket: Bucket, limits: Limits, report: Report, cancelled: threading.Event
) -> Outcome | SplitPlan:
    """Convert a source, or plan to split the conversion; blocks. `report(phase, bytes_done, bytes_total)` runs often.

    Raises ImageFailed for failures that the owner has to know; StoreError; Cancelled once `cancelled` is set; other
    ConversionErrors for unexpected failures. The source is not changed. The upload of the result stays open only if the
    conversion is split.
    """
    for reference in bucket.multiparts(task.result):
        bucket.abort(task.result, reference)
    return _Attempt(task, Place(bucket, task.workspace, limits, Progress(report, cancelled))).run()


@dataclass(frozen=True, slots=True)
class Place:
    """The environment of a conversion in a store: the bucket, a folder for sockets, limits and progress."""

    bucket: Bucket
    workspace: Path
    limits: Limits
    progress: Progress

    @contextmanager
    def opened(self, key: str, size: int) -> Iterator[StoredSandbox]:
        """A sandbox whose source is an object of `size` bytes. Raises StoreError, SourceDamaged."""
        if self.bucket.size(key) != size:
            raise SourceDamaged("the object does not have its recorded size")

        def fetch(offset: int, buffer: memoryview) -> None:
            self.bucket.read_into(key, offset, buffer)

        with (
            StoredSource(fetch, size, memory=_CACHE_BYTES) as source,
            StoredSandbox(self.workspace, source, self.limits, self.progress.cancelled) as sandbox,
        ):
            yield sandbox


@contextmanager
def packing(sandbox: StoredSandbox, subject: Subject, plan: StreamPlan, *, compress: bool) -> Iterator[Packer]:
    """A packer for the disk of a source, during the block. Raises ImageFailed if the disk can't be read."""
    with blaming_image(), reading(sandbox, sandbox.source, subject, plan.extents) as disk:
        yield Packer(disk, cluster_size_for(subject.virtual_size), compress=compress)


def verified(place: Place, result_key: str, made: Outcome) -> Outcome:
    """Verify a result and return its outcome. Raises UnsoundResult."""
    with place.opened(result_key, made.file_size) as sandbox:
        verify(sandbox, img.source("qcow2").on_socket(), sandbox.source.read_at, made, place.progress)
    return made


class _Attempt:
    def __init__(self, task: ConversionTask[str], place: Place) -> None:
        self.task = task
        self.place = place

    def run(self) -> Outcome | SplitPlan:
        made = self._convert(plan_in_store)
        try:
            return self._verified(made)
        except UnsoundResult as error:
            if isinstance(made, SplitPlan) or made.way is Way.COPY:
                raise
            log.warning("result.unsound", reason=str(error), retried_by="stream")
        return self._verified(self._convert(plan_stream))

    def _verified(self, made: Outcome | SplitPlan) -> Outcome | SplitPlan:
        return made if isinstance(made, SplitPlan) else verified(self.place, self.task.result, made)

    def _convert(self, choose: Callable[[Sandbox, Subject, PartRules], StorePlan]) -> Outcome | SplitPlan:
        task, place = self.task, self.place
        with place.opened(task.source, task.source_size) as sandbox:
            subject = examine(sandbox, task, sandbox.source.read_at, place.progress, on_socket=True)
            with blaming_image():
                subject = counted(sandbox, subject)
                plan = choose(sandbox, subject, place.limits.parts)
            with assembling(place.bucket, task.result, place.progress) as assembly:
                return self._make(sandbox, subject, plan, assembly)

    def _make(
        self, sandbox: StoredSandbox, subject: Subject, plan: StorePlan, assembly: Assembly
    ) -> Outcome | SplitPlan:
        if isinstance(plan, StreamPlan):
            return self._stream(sandbox, subject, plan, assembly)
        stored_size = plan.layout.stored_size if isinstance(plan, Reference) else plan.stored_size
        check_stored_size(stored_size, self.place.limits.max_stored_size)
        source = StoredObject(self.task.source, self.task.source_size, sandbox.source.read_into)
        if isinstance(plan, Reference):
            way, stored = Way.REFERENCE, assembly.by_reference(source, plan)
        else:
            way, stored = Way.KEEP, assembly.keeping(source, plan, self.place.limits.parts)
        return subject.converted(way, stored.stored_size, stored.file_size)

    def _stream(
        self, sandbox: StoredSandbox, subject: Subject, plan: StreamPlan, assembly: Assembly
    ) -> Outcome | SplitPlan:
        place, limits = self.place, self.place.limits
        report_done = place.progress.of(ImagePhase.CONVERTING, subject.virtual_size)
        with packing(sandbox, subject, plan, compress=limits.compress) as packer:
            most = limits.split_bytes
            if most is not None and packer.most_data(0, packer.clusters) > most:
                return split_up(packer, most, assembly.reference, subject, compress=limits.compress)
            target = Target(place.bucket, assembly.key, assembly.reference, assembly.numbers(limits.parts))
            streaming = Streaming(packer, limits.parts, place.progress.cancelled, report_done)
            streamed = streaming.stream(0, packer.clusters, target, within(limits.max_stored_size))
        stored = assembly.packed(subject.virtual_size, packer.cluster_size, [(0, streamed)], limits)
        return subject.converted(Way.COPY, stored.stored_size, stored.file_size)
