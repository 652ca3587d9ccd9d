"""How soon after its last byte an image in MinIO is ACTIVE, against download, `qemu-img convert` and upload."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from app.adapters.s3.bucket import Bucket
from tests.bench.by_hand import ByHand, Times
from tests.bench.conversion import NEARLY_EMPTY_SECONDS
from tests.bench.disks import DISKS, MIB, Disk, write_disk
from tests.bench.figures import Figure, Report, mebibytes, middle, seconds
from tests.bench.resources import used_by
from tests.bench.scale import Scale
from tests.bench.scaled_out import ScaledOut, scaled_out
from tests.bench.serving import settle_disk
from tests.bench.storing import Stored, convert_in_store, warm_up

_TWICE_AS_FAST = ("sparse VMDK", "sparse qcow2")
# Room for what a worker writes to its log.
_LOG_BYTES = 256 << 10
_MEMORY_BYTES = 256 * MIB


@dataclass(frozen=True, slots=True)
class _Round:
    """One image both ways, and the processor time of the client and of MinIO for the way by hand."""

    ours: Stored
    bare: Times
    client: float
    minio: float


def measure(scale: Scale) -> Report:
    """Each kind of image in turns: by the gateway's worker, and by hand from the same MinIO and back."""
    figures: list[Figure] = []
    ours: dict[str, list[Stored]] = {}
    with scaled_out(scale.folder / "cluster") as cluster:
        warm_up(cluster, scale.folder)
        address = replace(cluster.address, bucket="by-hand")
        with closing(Bucket(address)) as bucket:
            bucket.make()
            by_hand = ByHand(address, bucket, scale.folder)
            for disk in DISKS.values():
                rounds = _rounds(cluster, by_hand, disk, scale)
                figures += _figures(disk, rounds)
                ours[disk.name] = [each.ours for each in rounds]
    return Report(
        title="stored_conversion",
        how=f"{scale.gib:g} GiB of data in each image, {scale.rounds} rounds in turns, medians; MinIO, PostgreSQL, "
        "Redis, one API process, one worker and the client share the machine. From completeUpload, when the last PUT "
        "is answered, until a WebSocket hears ACTIVE. Against the same client that downloads the same object (4 ranges "
        "at once), runs `qemu-img convert -W -m 16` to qcow2 and uploads the result (4 parts of 16 MiB at once, "
        "sendfile, nothing hashed), on a disk that is not waited for. Processor time is that of the worker with all "
        "below it, or of the client and qemu-img, + that of MinIO. Nearly empty disks are as large "
        "as their names say with --size 1, and measured once. The last three lines are the most of all rounds, with "
        "the image that it was for.",
        figures=[*figures, *_bounds(ours)],
    )


def _rounds(cluster: ScaledOut, by_hand: ByHand, disk: Disk, scale: Scale) -> list[_Round]:
    file = write_disk(disk, scale.folder, scale.bytes_of())
    by_hand.put_source(file)
    try:
        return [_round(cluster, by_hand, disk, file) for _ in range(disk.rounds(scale.rounds))]
    finally:
        by_hand.remove_source()
        file.unlink()


def _round(cluster: ScaledOut, by_hand: ByHand, disk: Disk, file: Path) -> _Round:
    ours = convert_in_store(cluster, disk, file)
    settle_disk(file)
    client, minio = sum(os.times()[:4]), used_by(cluster.minio)
    bare = by_hand.convert(disk)
    return _Round(ours, bare, sum(os.times()[:4]) - client, used_by(cluster.minio).since(minio).processor)


def _figures(disk: Disk, rounds: Sequence[_Round]) -> Iterator[Figure]:
    ours, bare = middle([each.ours.seconds for each in rounds]), middle([each.bare.whole for each in rounds])
    steps = [
        middle([each.bare.download for each in rounds]),
        middle([each.bare.convert for each in rounds]),
        middle([each.bare.upload for each in rounds]),
    ]
    against = f"{seconds(bare)} ({' + '.join(map(seconds, steps))})"
    most = 0.5 if disk.name in _TWICE_AS_FAST else 1.0
    goal, ok = f"≤ {most:g}", ours <= most * bare
    if disk.kept is not None:
        goal, ok = f"≤ {NEARLY_EMPTY_SECONDS:g} s", ours <= NEARLY_EMPTY_SECONDS
    yield Figure(disk.name, seconds(ours), against, ours / bare, goal, ok)
    work = [
        middle([each.ours.workers.processor for each in rounds]),
        middle([each.ours.minio.processor for each in rounds]),
    ]
    least = [middle([each.client for each in rounds]), middle([each.minio for each in rounds])]
    yield Figure(f"{disk.name}, processor time", _sum(work), _sum(least), sum(work) / sum(least))


def _sum(values: Sequence[float]) -> str:
    return " + ".join(map(seconds, values))


def _bounds(all_: Mapping[str, Sequence[Stored]]) -> Iterator[Figure]:
    """The maximum that the worker wrote and held, and the kind of image that it was for."""
    goal = f"≤ {_LOG_BYTES >> 10} KiB (its log)"
    written, name = max((each.workers.written, name) for name, rounds in all_.items() for each in rounds)
    yield Figure("written to disks by the worker", f"{written >> 10} KiB", name, None, goal, written <= _LOG_BYTES)
    goal = f"≤ {_MEMORY_BYTES >> 20} MiB"
    own, name = max((each.own_memory, name) for name, rounds in all_.items() for each in rounds)
    yield Figure("memory of the worker", mebibytes(own), name, None, goal, own <= _MEMORY_BYTES)
    memory, name = max((each.memory, name) for name, rounds in all_.items() for each in rounds)
    what = "memory with the qemu processes below it"
    yield Figure(what, mebibytes(memory), name, None, goal, memory <= _MEMORY_BYTES)
