"""Captures a point into an S3 store, which copies the base's data itself. The rest is streamed into the same upload.

Every attempt starts over. Open uploads under the result's key belong to attempts that were killed, and are aborted
first.
"""

import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import structlog

from app.adapters.s3.bucket import Bucket
from app.catalog.outcome import Outcome, Way
from app.catalog.servers.settling import Base
from app.errors import ObjectMissing, StoreError
from app.lifecycle import DiskFormat
from app.sizes import MIB
from workers.capture.bases import BaseImage, read_base
from workers.capture.planning import CapturePlan, CopyRules, plan_capture
from workers.capture.points import disk_of, map_point
from workers.capture.task import Captured, CaptureTask, Tally
from workers.convert.examination import Progress
from workers.limits import Limits
from workers.qcow2 import metadata
from workers.qcow2.composed import Composed
from workers.qcow2.packing import Packer
from workers.store.assembling import Assembly, Stored, assembling, front_body, placed
from workers.store.parts import cut_all
from workers.store.pipeline import Place, verified
from workers.store.source import StoredSource
from workers.store.streaming import Streamed, Streaming, Target

log = structlog.get_logger(__name__)

_TABLES_MEMORY = 8 * MIB


def capture_in_store(task: CaptureTask, bucket: Bucket, limits: Limits, *, whole: bool) -> Captured:
    """Store a point; blocks. With `whole`, everything is read from the point, nothing copied from its base.

    Raises PointLost, Cancelled, StoreError, UnsoundResult, QemuError, and what the task's functions raise. After an
    error, nothing is left under the key.
    """
    for reference in bucket.multiparts(task.key):
        bucket.abort(task.key, reference)
    tick = task.steps.check
    base = None if whole or task.base is None else _read_base(bucket, task.base, limits, task)
    point = map_point(task.reader, limits.max_extents, tick)
    parts = limits.parts
    plan = plan_capture(point, base, CopyRules(parts.least, parts.gap, parts.count // 8))
    with assembling(bucket, task.key, task.steps) as assembly:
        stored = _Storing(task, plan, limits, assembly).run()
    _verify(task, bucket, limits, plan.size, stored)
    return Captured(plan.size, stored.stored_size, stored.file_size)


def _read_base(bucket: Bucket, base: Base, limits: Limits, task: CaptureTask) -> BaseImage | None:
    """The tables of the base; None if there is nothing to copy from."""

    def fetch(offset: int, buffer: memoryview) -> None:
        bucket.read_into(base.key, offset, buffer)

    try:
        if bucket.size(base.key) != base.size:
            log.warning("base.changed", key=base.key)
            return None
        with StoredSource(fetch, base.size, memory=_TABLES_MEMORY) as source:
            return read_base(source.read_at, base.size, limits.max_extents, task.steps.check)
    except ObjectMissing:
        log.warning("base.missing", key=base.key)
        return None


class _Storing:
    """One attempt, with the upload open."""

    def __init__(self, task: CaptureTask, plan: CapturePlan, limits: Limits, assembly: Assembly) -> None:
        self.task = task
        self.plan = plan
        self.limits = limits
        self.assembly = assembly

    def run(self) -> Stored:
        task, plan, parts = self.task, self.plan, self.limits.parts
        pieces = cut_all(plan.ranges, parts.count // 2, parts)
        taken = Composed(plan.placed(0)).size
        task.require_room(taken)
        tally = Tally(task.progress, plan.copied + plan.read.data_size)
        compress = self.limits.compress and not plan.deflated
        packer = Packer(disk_of(task, plan.read, tally), plan.cluster_size, compress=compress)
        numbers = self.assembly.numbers(parts)[len(pieces) :]
        target = Target(self.assembly.bucket, task.key, self.assembly.reference, numbers)
        base_key = "" if task.base is None else task.base.key
        with self.assembly.copying(base_key, pieces, tally.add) as copied:
            streaming = Streaming(packer, parts, task.cancelled)
            streamed = streaming.stream(0, packer.clusters, target, lambda size: task.require_room(taken + size))
            sent = [*copied, *streamed.parts]
        return self._finish(streamed, sent)

    def _finish(self, streamed: Streamed, sent: Sequence[tuple[int, str]]) -> Stored:
        """Add header and tables, and complete the upload.

        The copied ranges come first, then what was streamed; if that was too little for a part, it is sent before them,
        with the tables.
        """
        plan, rest = self.plan, streamed.rest
        size, length = plan.cluster_size, plan.copied + streamed.length
        least = self.limits.parts.least if sent else 0
        tables = metadata.tables_touched(self._clusters(streamed, 0, 0), size)
        front = metadata.front_size(plan.size, size, tables, 0, length, least)
        streamed_at = front if rest else front + plan.copied
        layout = metadata.lay_out(plan.size, size, self._clusters(streamed, front + len(rest), streamed_at), size)
        self.task.require_room(layout.stored_size)
        stored = Stored(layout.stored_size, front + length)
        self.assembly.complete(front_body(layout, front + len(rest), rest), front + len(rest), sent, stored)
        return stored

    def _clusters(self, streamed: Streamed, copied_at: int, streamed_at: int) -> Composed:
        return Composed([*self.plan.placed(copied_at), placed([(0, streamed)], self.plan.cluster_size, streamed_at)])


def _verify(task: CaptureTask, bucket: Bucket, limits: Limits, virtual_size: int, stored: Stored) -> None:
    """Verify the result, which is deleted if it is not sound.

    This can't be cancelled: it would be unknown whether the result exists.
    """
    made = Outcome(Way.COPY, DiskFormat.QCOW2, virtual_size, stored.stored_size, stored.file_size)
    try:
        with TemporaryDirectory(prefix="images-") as folder:
            # The unprivileged user has to reach the folder in it.
            os.chmod(folder, 0o711)  # noqa: S103  # nosec B103 (see above)
            progress = Progress(lambda *_: None, threading.Event())
            verified(Place(bucket, Path(folder) / task.workspace, limits, progress), task.key, made)
    except BaseException:
        # If this fails too, the next attempt replaces the object.
        with suppress(StoreError):
            bucket.delete(task.key)
        raise
