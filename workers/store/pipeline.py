"""From the uploaded bytes to a verified qcow2 within an object store: no copy of either touches this machine's disk.

Every attempt begins anew, and makes the same bytes of the same source: an attempt that was killed, or whose worker
lost its lease, does no harm. What is open under the result's key belongs to such attempts, and is aborted first.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.adapters.s3.bucket import Bucket
from app.lifecycle import DiskFormat, ImagePhase
from workers.convert.blame import blaming_image
from workers.convert.examination import Progress, Report, Uploaded, examine, verify
from workers.convert.planning import Subject, counted
from workers.errors import SourceDamaged, UnsoundResult
from workers.inspection.refusals import check_stored_size
from workers.limits import Limits, PartRules
from workers.outcome import Converted, Way
from workers.qcow2.extents import coarse_enough
from workers.qcow2.packing import Packer
from workers.qemu import img
from workers.qemu.confinement import Sandbox
from workers.store.assembling import Assembly, StoredObject, assembling
from workers.store.parts import Reference
from workers.store.planning import StorePlan, StreamPlan, plan_in_store, plan_stream
from workers.store.ranges import Shared, share_out
from workers.store.reading import reading
from workers.store.sandbox import StoredSandbox
from workers.store.source import StoredSource
from workers.store.streaming import Streaming, Target

log = structlog.get_logger(__name__)

# What is kept of a source, of each that is being converted: its tables, and what is read ahead of it.
_CACHE_BYTES = 12 << 20


@dataclass(frozen=True, slots=True)
class StoreTask:
    """What to convert, and where to: keys of the store, the source's size in bytes, and what its owner says of it.

    `workspace` is a folder that only this job uses; nothing but sockets is put there.
    """

    source_key: str
    source_size: int
    result_key: str
    workspace: Path
    declared_format: DiskFormat
    declared_sha256: str | None = None


def convert_in_store(
    task: StoreTask, bucket: Bucket, limits: Limits, report: Report, cancelled: threading.Event
) -> Converted | Shared:
    """Do all of it, or find that it is worth sharing; blocks. `report(phase, bytes_done, bytes_total)` is called often.

    Raises ImageFailed for what its owner has to know; StoreError; Cancelled once `cancelled` is set; other
    ConversionErrors for what nobody expected. The source is left alone. Only of what is shared, the upload stays open.
    """
    for reference in bucket.multiparts(task.result_key):
        bucket.abort(task.result_key, reference)
    return _Attempt(task, Place(bucket, task.workspace, limits, Progress(report, cancelled))).run()


@dataclass(frozen=True, slots=True)
class Place:
    """Where conversions in a store work: the bucket, a folder for sockets, and what they may use."""

    bucket: Bucket
    workspace: Path
    limits: Limits
    progress: Progress

    @contextmanager
    def opened(self, key: str, size: int) -> Iterator[StoredSandbox]:
        """A sandbox whose source is an object of `size` bytes. Raises StoreError, SourceDamaged."""
        if self.bucket.size(key) != size:
            raise SourceDamaged("the object has another size than was recorded")

        def fetch(offset: int, buffer: memoryview) -> None:
            self.bucket.read_into(key, offset, buffer)

        with (
            StoredSource(fetch, size, memory=_CACHE_BYTES) as source,
            StoredSandbox(self.workspace, source, self.limits, self.progress.cancelled) as sandbox,
        ):
            yield sandbox


@contextmanager
def packing(sandbox: StoredSandbox, subject: Subject, plan: StreamPlan, *, compress: bool) -> Iterator[Packer]:
    """What packs the disk of a source, as long as it is wanted. Raises ImageFailed where it can't be read."""
    with blaming_image(), reading(sandbox, sandbox.source, subject, plan.extents) as disk:
        yield Packer(disk, coarse_enough(subject.virtual_size), compress=compress)


def verified(place: Place, result_key: str, made: Converted) -> Converted:
    """What was made, once it has shown to be sound. Raises UnsoundResult."""
    with place.opened(result_key, made.file_size) as sandbox:
        verify(sandbox, img.source("qcow2").on_socket(), sandbox.source.read_at, made, place.progress)
    return made


class _Attempt:
    def __init__(self, task: StoreTask, place: Place) -> None:
        self.task = task
        self.place = place

    def run(self) -> Converted | Shared:
        made = self._convert(plan_in_store)
        try:
            return self._verified(made)
        except UnsoundResult as error:
            if isinstance(made, Shared) or made.way is Way.COPY:
                raise
            log.warning("new tables do not hold, streaming instead", reason=str(error))
        return self._verified(self._convert(plan_stream))

    def _verified(self, made: Converted | Shared) -> Converted | Shared:
        return made if isinstance(made, Shared) else verified(self.place, self.task.result_key, made)

    def _convert(self, choose: Callable[[Sandbox, Subject, PartRules], StorePlan]) -> Converted | Shared:
        task, place = self.task, self.place
        with place.opened(task.source_key, task.source_size) as sandbox:
            read_at = sandbox.source.read_at
            uploaded = Uploaded(read_at, task.source_size, task.declared_format, task.declared_sha256)
            subject = examine(sandbox, uploaded, place.progress, on_socket=True)
            with blaming_image():
                subject = counted(sandbox, subject)
                plan = choose(sandbox, subject, place.limits.parts)
            with assembling(place.bucket, task.result_key, place.progress) as assembly:
                return self._make(sandbox, subject, plan, assembly)

    def _make(
        self, sandbox: StoredSandbox, subject: Subject, plan: StorePlan, assembly: Assembly
    ) -> Converted | Shared:
        if isinstance(plan, StreamPlan):
            return self._stream(sandbox, subject, plan, assembly)
        stored_size = plan.layout.stored_size if isinstance(plan, Reference) else plan.stored_size
        check_stored_size(stored_size, self.place.limits.max_stored_size)
        source = StoredObject(self.task.source_key, self.task.source_size, sandbox.source.read_into)
        if isinstance(plan, Reference):
            way, stored = Way.REFERENCE, assembly.by_reference(source, plan)
        else:
            way, stored = Way.KEEP, assembly.keeping(source, plan, self.place.limits.parts)
        return subject.converted(way, stored.stored_size, stored.file_size)

    def _stream(
        self, sandbox: StoredSandbox, subject: Subject, plan: StreamPlan, assembly: Assembly
    ) -> Converted | Shared:
        place, limits = self.place, self.place.limits
        tell = place.progress.of(ImagePhase.CONVERTING, subject.virtual_size)
        with packing(sandbox, subject, plan, compress=limits.compress) as packer:
            share = limits.share_bytes
            if share is not None and packer.most_data(0, packer.clusters) > share:
                return share_out(packer, share, assembly.reference, subject, compress=limits.compress)
            target = Target(place.bucket, assembly.key, assembly.reference, assembly.numbers(limits.parts))
            streaming = Streaming(packer, limits.parts, place.progress.cancelled, tell)
            streamed = streaming.stream(0, packer.clusters, target, limits.max_stored_size)
        stored = assembly.packed(subject.virtual_size, packer.cluster_size, [(0, streamed)], limits)
        return subject.converted(Way.COPY, stored.stored_size, stored.file_size)
