"""How the time from the last byte to ACTIVE grows with the data in one VMDK, as far as the disk has room."""

import shutil

from tests.bench.converting import convert_both, warm_up
from tests.bench.disks import DISKS, write_large_vmdk
from tests.bench.figures import Figure, Report, seconds
from tests.bench.scale import GIB, Scale
from tests.bench.serving import Gateway, running_gateway

_TIMES = (1, 10, 40)
_GOAL = 0.3
# The file, and next to it the uploaded copy or the result of qemu-img.
_COPIES = 2
_LEFT_FREE = 4 * GIB


def measure(scale: Scale) -> Report:
    """Upload and convert VMDKs of growing size, each once and gone before the next."""
    with running_gateway(scale.folder) as gateway:
        warm_up(gateway, scale.folder)
        figures = [_figure(gateway, scale, times) for times in _TIMES]
    return Report(
        title="growth",
        how="As in conversion, for one sparse VMDK that is four times as large as its data, which is in runs of "
        "16 MiB; once each.",
        figures=figures,
    )


def _figure(gateway: Gateway, scale: Scale, times: int) -> Figure:
    data = scale.bytes_of(times)
    what = f"{times} times {scale.gib:g} GiB of data"
    needed, free = _COPIES * data + _LEFT_FREE, shutil.disk_usage(scale.folder).free
    if free < needed:
        return Figure(what, "skipped", f"needs {needed / GIB:.0f} GiB of room, {free / GIB:.0f} GiB are free")
    file = scale.folder / "large.vmdk"
    try:
        write_large_vmdk(file, data)
        both = convert_both(gateway, DISKS["sparse VMDK"], file)
    finally:
        file.unlink(missing_ok=True)
    ratio, against = both.ours / both.bare, f"{seconds(both.bare)} ({seconds(both.flushed)})"
    return Figure(what, seconds(both.ours), against, ratio, f"≤ {_GOAL}", ratio <= _GOAL)
