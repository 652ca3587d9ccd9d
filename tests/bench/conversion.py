"""How soon after its last byte an image is ACTIVE, for each kind of image, against a bare `qemu-img convert`."""

from collections.abc import Sequence
from pathlib import Path

from tests.bench.converting import Conversion, convert_both, warm_up
from tests.bench.disks import DISKS, Disk, write_disk
from tests.bench.figures import Figure, Report, middle, seconds
from tests.bench.scale import Scale
from tests.bench.serving import Gateway, running_gateway

# Their data stays in place, and only tables are written.
_IN_PLACE = ("sparse VMDK", "sparse qcow2", "dense raw", "dense fixed VHD")
_IN_PLACE_GOAL = 0.3
_COPIED_GOAL = 1.3
_COPIED_EXTRA_SECONDS = 0.3
NEARLY_EMPTY_SECONDS = 1.0


def measure(scale: Scale) -> Report:
    """Upload and convert each kind of image, in turns with qemu-img."""
    with running_gateway(scale.folder) as gateway:
        warm_up(gateway, scale.folder)
        figures = [_figure(disk, _rounds(gateway, disk, scale)) for disk in DISKS.values()]
    return Report(
        title="conversion",
        how=f"{scale.gib:g} GiB of data in each image, {scale.rounds} rounds in turns, medians. From the answer to "
        "the last PUT until a WebSocket hears ACTIVE: completeUpload, the queue, inspection, confinement, conversion, "
        "verification and the flush to the disk are in it. Against `qemu-img convert -W -m 16` to qcow2 of the same "
        "file, which waits for no disk; the second time is when its result was flushed, too. "
        "Nearly empty disks are as large as their names say with --size 1, and measured once.",
        figures=figures,
    )


def _rounds(gateway: Gateway, disk: Disk, scale: Scale) -> list[Conversion]:
    file: Path = write_disk(disk, scale.folder, scale.bytes_of())
    try:
        return [convert_both(gateway, disk, file) for _ in range(disk.rounds(scale.rounds))]
    finally:
        file.unlink()


def _figure(disk: Disk, rounds: Sequence[Conversion]) -> Figure:
    ours, bare = middle([both.ours for both in rounds]), middle([both.bare for both in rounds])
    against = f"{seconds(bare)} ({seconds(middle([both.flushed for both in rounds]))})"
    if disk.kept is not None:
        goal, ok = f"≤ {NEARLY_EMPTY_SECONDS:g} s", ours <= NEARLY_EMPTY_SECONDS
    elif disk.name in _IN_PLACE:
        goal, ok = f"≤ {_IN_PLACE_GOAL}", ours <= _IN_PLACE_GOAL * bare
    else:
        goal = f"≤ {_COPIED_GOAL}, and {_COPIED_EXTRA_SECONDS} s"
        ok = ours <= _COPIED_GOAL * bare + _COPIED_EXTRA_SECONDS
    return Figure(disk.name, seconds(ours), against, ours / bare, goal, ok)
