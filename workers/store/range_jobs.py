"""The jobs of a split conversion in a store: stream one range of the disk, or assemble the result."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from app.adapters.s3.bucket import Bucket
from app.catalog.outcome import Outcome, Way
from app.errors import ObjectMissing, UploadClosed
from workers.convert.blame import blaming_image
from workers.convert.examination import Progress, Report, examine
from workers.convert.split_plan import SplitPlan
from workers.convert.task import ConversionTask
from workers.errors import SourceDamaged, SplitLost
from workers.inspection.refusals import within
from workers.limits import Limits
from workers.store.assembling import Assembly
from workers.store.pipeline import Place, packing, verified
from workers.store.planning import plan_stream
from workers.store.ranges import decode_record, encode_record
from workers.store.streaming import Streaming, Target


def stream_range(
    task: ConversionTask[str],
    split: SplitPlan,
    index: int,
    bucket: Bucket,
    limits: Limits,
    report_done: Callable[[int], None],
    cancelled: threading.Event,
) -> int:
    """Send a range's data and record the outcome; blocks. `report_done` is called with the bytes of the disk done.

    Returns how many bytes its clusters take in the store. Raises what `convert_in_store` does; SplitLost if the upload
    is no longer open.
    """
    place = Place(bucket, task.workspace, limits, Progress(lambda *news: None, cancelled))
    with place.opened(task.source, task.source_size) as sandbox:
        # The digest was checked before the conversion was split.
        unchecked = replace(task, declared_sha256=None)
        subject = examine(sandbox, unchecked, sandbox.source.read_at, place.progress, on_socket=True)
        with blaming_image():
            plan = plan_stream(sandbox, subject, limits.parts)
        with packing(sandbox, subject, plan, compress=split.compress) as packer:
            if (packer.disk.size, packer.cluster_size) != (split.virtual_size, split.cluster_size):
                raise SourceDamaged("the source has changed")
            target = Target(bucket, task.result, split.reference, split.numbers(index, limits.parts))
            first, last = split.cuts[index : index + 2]
            try:
                streaming = Streaming(packer, limits.parts, cancelled, report_done)
                streamed = streaming.stream(first, last, target, within(limits.max_stored_size))
            except UploadClosed as error:
                raise SplitLost("the upload is no longer open") from error
    bucket.put(split.key(task.result, index), encode_record(streamed, last - first))
    return streamed.stored_size


def assemble(
    task: ConversionTask[str],
    split: SplitPlan,
    bucket: Bucket,
    limits: Limits,
    report: Report,
    cancelled: threading.Event,
) -> Outcome:
    """Add header and tables to the data of all ranges, and verify the result; blocks. May be repeated.

    Raises what `convert_in_store` does; SplitLost if a part or the record of a range is missing.
    """
    place = Place(bucket, task.workspace, limits, Progress(report, cancelled))
    assembly = Assembly(bucket, task.result, split.reference, place.progress)
    try:
        ranges = [
            (first, decode_record(_whole(bucket, split.key(task.result, index)), last - first, split.cluster_size))
            for index, (first, last) in enumerate(pairwise(split.cuts))
        ]
        stored = assembly.packed(split.virtual_size, split.cluster_size, ranges, limits)
    except (ObjectMissing, UploadClosed) as error:
        raise SplitLost("a part or the record of a range is missing") from error
    made = Outcome(
        way=Way.COPY,
        detected_format=split.detected_format,
        virtual_size=split.virtual_size,
        stored_size=stored.stored_size,
        file_size=stored.file_size,
        warnings=split.warnings,
    )
    return verified(place, task.result, made)


def _whole(bucket: Bucket, key: str) -> bytes:
    """A small object. Raises ObjectMissing, StoreError."""
    return bucket.read(key, 0, bucket.size(key))


def discard_split(result_key: str, split: SplitPlan, bucket: Bucket) -> None:
    """Abort the upload of a failed split conversion, and delete the records of its ranges. Raises StoreError."""
    bucket.abort(result_key, split.reference)
    for index in range(split.count):
        bucket.delete(split.key(result_key, index))
