"""One large image in MinIO: two workers that share it against one."""

from collections.abc import Iterator
from pathlib import Path

from tests.bench.disks import DISKS, Disk, write_disk
from tests.bench.figures import Figure, Report, seconds
from tests.bench.scale import GIB, Scale
from tests.bench.scaled_out import ScaledOut, scaled_out
from tests.bench.storing import Stored, convert_in_store, warm_up

_TIMES = 8
# One whose data is read straight from the store, and one that qemu has to decompress.
_KINDS = ("dense raw", "streamOptimized VMDK")
_NEVER = 1 << 60


def measure(scale: Scale) -> Report:
    """Each image by one worker that has it all, then by two that share it; once each."""
    data = scale.bytes_of(_TIMES)
    with (
        scaled_out(scale.folder / "one", workers=1, settings=_share_from(_NEVER)) as one,
        scaled_out(scale.folder / "two", workers=2, settings=_share_from(data // 2)) as two,
    ):
        for cluster in (one, two):
            warm_up(cluster, scale.folder)
        figures = [figure for name in _KINDS for figure in _figures(one, two, DISKS[name], data, scale.folder)]
    return Report(
        title="sharing",
        how=f"{data / GIB:g} GiB of data in one image, once each: two workers, and IMAGES_SPLIT_BYTES of half of the "
        "data, against one worker that shares nothing. From completeUpload until a WebSocket hears ACTIVE, as in "
        "stored_conversion. Workers, MinIO and all else have the cores of this one machine in common: where one "
        "worker and MinIO keep them busy already, a second worker can win nothing here. Processor time is that of "
        "each worker with all below it + that of MinIO.",
        figures=figures,
    )


def _share_from(size: int) -> dict[str, str]:
    return {"IMAGES_SPLIT_BYTES": str(size)}


def _figures(one: ScaledOut, two: ScaledOut, disk: Disk, data: int, folder: Path) -> Iterator[Figure]:
    file = write_disk(disk, folder, data)
    alone, shared = (convert_in_store(cluster, disk, file) for cluster in (one, two))
    file.unlink()
    yield Figure(disk.name, seconds(shared.seconds), seconds(alone.seconds), shared.seconds / alone.seconds)
    work = [each.workers.processor + each.minio.processor for each in (shared, alone)]
    yield Figure(f"{disk.name}, processor time", _processor(shared), _processor(alone), work[0] / work[1])


def _processor(each: Stored) -> str:
    return " + ".join(map(seconds, (*each.busy, each.minio.processor)))
