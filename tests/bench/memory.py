"""How much memory the process needs while bytes pass through it, and while they are converted."""

import re
from pathlib import Path

import psutil

from tests.bench.converting import remove
from tests.bench.disks import DISKS, write_disk
from tests.bench.figures import Figure, Report, mebibytes
from tests.bench.following import following
from tests.bench.scale import Scale
from tests.bench.serving import running_gateway
from tests.bench.uploading import complete, create, send

_TIMES = 4
_AT_ONCE = 8
_GOAL_BYTES = 60 << 20
_RESET_PEAK = "5"


def measure(scale: Scale) -> Report:
    """Send a random file in parts, eight at once, and then let it be converted."""
    disk = DISKS["dense raw"]
    file = write_disk(disk, scale.folder, scale.bytes_of(_TIMES))
    with running_gateway(scale.folder) as gateway:
        idle = gateway.process.memory_info().rss
        _reset_peak(gateway.process)
        upload = create(gateway, file, disk.format)
        with following(gateway, upload.image_id) as follower:
            send(upload.host, file, upload.parts, _AT_ONCE)
            receiving = _peak(gateway.process)
            _reset_peak(gateway.process)
            complete(gateway, upload)
            follower.active_at()
        remove(gateway, upload.image_id)
        converting = _peak(gateway.process)
    above = receiving - idle
    return Report(
        title="memory",
        how=f"The resident set of `images up` (VmHWM, the kernel's own maximum) while {file.stat().st_size >> 20} MiB "
        f"of a dense raw image arrive in parts, {_AT_ONCE} at once, above what it was before anything was asked of "
        "the process; then while they are converted, hashed and deleted, without the qemu processes, which are "
        "confined and limited by themselves.",
        figures=[
            Figure("idle", mebibytes(idle)),
            Figure("above idle while receiving", mebibytes(above), "", None, "≤ 60 MiB", above <= _GOAL_BYTES),
            Figure("above idle while converting", mebibytes(converting - idle)),
        ],
    )


def _reset_peak(process: psutil.Process) -> None:
    """Reset the maximum to the current value (proc(5), clear_refs)."""
    Path(f"/proc/{process.pid}/clear_refs").write_text(_RESET_PEAK)


def _peak(process: psutil.Process) -> int:
    """The most bytes that were resident since the maximum was reset (proc(5), status)."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10
