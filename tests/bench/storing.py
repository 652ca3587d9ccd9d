"""One image of a scaled-out gateway from its last byte to ACTIVE, and what its worker and the store use for that."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.converting import remove
from tests.bench.disks import DISKS, Disk, write_disk
from tests.bench.following import following
from tests.bench.resources import Used, used_by, watching_memory
from tests.bench.scaled_out import ScaledOut
from tests.bench.serving import settle_disk
from tests.bench.uploading import complete, create, send

_AT_ONCE = 4
_WARM_UP_BYTES = 1 << 20
_SIZE = "query Size($id: ID!) { node(id: $id) { ... on Image { storedSize } } }"


@dataclass(frozen=True, slots=True)
class Stored:
    """Seconds from the last byte to ACTIVE, and bytes that are stored.

    What all workers and MinIO used meanwhile, seconds of processor time of each worker, and the most memory, in
    bytes, that one worker had: by itself, and with the processes that it confines.
    """

    seconds: float
    stored_size: int
    workers: Used
    minio: Used
    busy: Sequence[float]
    own_memory: int
    memory: int


def convert_in_store(cluster: ScaledOut, disk: Disk, file: Path) -> Stored:
    """Upload a file, complete it and wait for ACTIVE. The image and its bytes are gone afterwards."""
    gateway = cluster.gateways[0]
    upload = create(gateway, file, disk.format)
    with following(gateway, upload.image_id) as follower:
        send(upload.host, file, upload.parts, _AT_ONCE)
        settle_disk(file)
        before = _used(cluster)
        with watching_memory(cluster.workers) as peaks:
            began = time.perf_counter()
            complete(gateway, upload)
            taken = follower.active_at() - began
        *workers, minio = (now.since(then) for now, then in zip(_used(cluster), before, strict=True))
    stored_size = int(gateway.ask(_SIZE, id=upload.image_id)["node"]["storedSize"])
    remove(gateway, upload.image_id)
    own, memory = max(peak.own for peak in peaks), max(peak.all for peak in peaks)
    busy = [each.processor for each in workers]
    together = Used(sum(busy), sum(each.written for each in workers))
    return Stored(taken, stored_size, together, minio, busy, own, memory)


def warm_up(cluster: ScaledOut, folder: Path) -> None:
    """Convert a tiny image by new tables and some by a copy, so that what is loaded once is not measured."""
    for name in ("sparse VMDK", "streamOptimized VMDK", "dense raw"):
        file = write_disk(DISKS[name], folder, _WARM_UP_BYTES)
        convert_in_store(cluster, DISKS[name], file)
        file.unlink()


def _used(cluster: ScaledOut) -> list[Used]:
    """Of each worker, and of MinIO."""
    return [used_by(process) for process in (*cluster.workers, cluster.minio)]
