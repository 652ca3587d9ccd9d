"""What each of several workers does of a conversion within a store: stream a range of the disk, or assemble all."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from app.adapters.s3.bucket import Bucket
from app.catalog.outcome import Outcome, Way
from app.errors import ObjectMissing, UploadClosed
from workers.convert.blame import blaming_image
from workers.convert.examination import Progress, Report, examine
from workers.convert.task import ConversionTask
from workers.errors import ShareLost, SourceDamaged
from workers.limits import Limits
from workers.store.assembling import Assembly
from workers.store.pipeline import Place, packing, verified
from workers.store.planning import plan_stream
from workers.store.ranges import Shared, read_back, written_down
from workers.store.streaming import Streaming, Target


def stream_range(
    task: ConversionTask[str],
    shared: Shared,
    index: int,
    bucket: Bucket,
    limits: Limits,
    tell: Callable[[int], None],
    cancelled: threading.Event,
) -> int:
    """Send a range's data, and write down what became of it; blocks. `tell` is called with the bytes of the disk done.

    Gives how many bytes its clusters take in the store. Raises what `convert_in_store` does; ShareLost when the upload
    is not open any more.
    """
    place = Place(bucket, task.workspace, limits, Progress(lambda *news: None, cancelled))
    with place.opened(task.source, task.source_size) as sandbox:
        # The digest was checked before the conversion was split.
        unchecked = replace(task, declared_sha256=None)
        subject = examine(sandbox, unchecked, sandbox.source.read_at, place.progress, on_socket=True)
        with blaming_image():
            plan = plan_stream(sandbox, subject, limits.parts)
        with packing(sandbox, subject, plan, compress=shared.compress) as packer:
            if (packer.disk.size, packer.cluster_size) != (shared.virtual_size, shared.cluster_size):
                raise SourceDamaged("the source is not what it was")
            target = Target(bucket, task.result, shared.reference, shared.numbers(index, limits.parts))
            first, last = shared.cuts[index : index + 2]
            try:
                streaming = Streaming(packer, limits.parts, cancelled, tell)
                streamed = streaming.stream(first, last, target, limits.max_stored_size)
            except UploadClosed as error:
                raise ShareLost("the upload is not open any more") from error
    bucket.put(shared.key(task.result, index), written_down(streamed, last - first))
    return streamed.stored_size


def assemble(
    task: ConversionTask[str],
    shared: Shared,
    bucket: Bucket,
    limits: Limits,
    report: Report,
    cancelled: threading.Event,
) -> Outcome:
    """Add header and tables to what all ranges have sent, and verify the result; blocks. Harmless when done before.

    Raises what `convert_in_store` does; ShareLost when something of a range is not there.
    """
    place = Place(bucket, task.workspace, limits, Progress(report, cancelled))
    assembly = Assembly(bucket, task.result, shared.reference, place.progress)
    try:
        ranges = [
            (first, read_back(_whole(bucket, shared.key(task.result, index)), last - first, shared.cluster_size))
            for index, (first, last) in enumerate(pairwise(shared.cuts))
        ]
        stored = assembly.packed(shared.virtual_size, shared.cluster_size, ranges, limits)
    except (ObjectMissing, UploadClosed) as error:
        raise ShareLost("something of a range is not there") from error
    made = Outcome(
        way=Way.COPY,
        detected_format=shared.detected_format,
        virtual_size=shared.virtual_size,
        stored_size=stored.stored_size,
        file_size=stored.file_size,
        warnings=shared.warnings,
    )
    return verified(place, task.result, made)


def _whole(bucket: Bucket, key: str) -> bytes:
    """A small object. Raises ObjectMissing, StoreError."""
    return bucket.read(key, 0, bucket.size(key))


def let_go(result_key: str, shared: Shared, bucket: Bucket) -> None:
    """Abort the upload of a shared conversion that has failed, and forget its ranges. Raises StoreError."""
    bucket.abort(result_key, shared.reference)
    for index in range(shared.count):
        bucket.delete(shared.key(result_key, index))
