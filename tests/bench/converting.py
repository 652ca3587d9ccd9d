"""One image from its last byte to ACTIVE, and the bare `qemu-img convert` of the same file that it is measured by."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench.disks import DISKS, Disk, flush, run_qemu_img, write_disk
from tests.bench.following import following
from tests.bench.serving import Gateway, MeasurementFailed, settle_disk
from tests.bench.uploading import complete, create, delete, send

_AT_ONCE = 4
_POLL_SECONDS = 0.05
_QUIET_SECONDS = 1800
_WARM_UP_BYTES = 1 << 20
_SHA256 = "query Sha256($id: ID!) { node(id: $id) { ... on Image { sha256 } } }"


@dataclass(frozen=True, slots=True)
class Conversion:
    """How many seconds it took the gateway, qemu-img alone, and qemu-img until its result was on the disk, too."""

    ours: float
    bare: float
    flushed: float


def convert_both(gateway: Gateway, disk: Disk, file: Path) -> Conversion:
    """The gateway first, then qemu-img, when the disk has settled; both find the file's bytes in memory."""
    return Conversion(_until_active(gateway, disk, file), *_bare(disk, file))


def warm_up(gateway: Gateway, folder: Path) -> None:
    """Convert a tiny image by new tables and one by a copy, so that what is loaded once is not measured."""
    for name in ("sparse VMDK", "streamOptimized VMDK"):
        file = write_disk(DISKS[name], folder, _WARM_UP_BYTES)
        _until_active(gateway, DISKS[name], file)
        file.unlink()


def _until_active(gateway: Gateway, disk: Disk, file: Path) -> float:
    """Seconds from the answer to the last PUT until a watcher hears ACTIVE. The image is gone afterwards."""
    upload = create(gateway, file, disk.format)
    settle_disk(file)
    with following(gateway, upload.image_id) as follower:
        sent = send(upload.host, file, upload.parts, _AT_ONCE)
        complete(gateway, upload)
        taken = follower.active_at() - sent.ended
    remove(gateway, upload.image_id)
    return taken


def remove(gateway: Gateway, image_id: str) -> None:
    """Delete an ACTIVE image once its SHA-256 is there, and wait for its bytes to be freed.

    So nothing runs in parallel with the next measurement.
    """
    _wait(lambda: gateway.ask(_SHA256, id=image_id)["node"]["sha256"] is not None, "its SHA-256")
    delete(gateway, image_id)
    _wait(lambda: gateway.objects() == 0, "its bytes to be freed")


def _wait(happened: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + _QUIET_SECONDS
    while not happened():
        if time.monotonic() > give_up:
            raise MeasurementFailed(f"an image waited in vain for {what}")
        time.sleep(_POLL_SECONDS)


def _bare(disk: Disk, file: Path) -> tuple[float, float]:
    """Seconds until qemu-img ended, and until what it wrote was on the disk, which it does not wait for."""
    result = file.with_suffix(".bare.qcow2")
    settle_disk(file)
    began = time.perf_counter()
    run_qemu_img("convert", "-W", "-m", "16", "-f", disk.driver, "-O", "qcow2", file, result)
    ended = time.perf_counter()
    flush(result)
    flushed = time.perf_counter()
    result.unlink()
    return ended - began, flushed - began
