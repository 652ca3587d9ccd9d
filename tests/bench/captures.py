"""How long a point of a server's volume takes to become an image, and what its guest can write meanwhile."""

import asyncio
import time
from collections.abc import Sequence

from app.adapters.folder.store import FolderStore
from tests.bench.capturing import Captured, capture_point, folder_storage, idle_server
from tests.bench.figures import Figure, Report, middle, seconds, speed
from tests.bench.guests import DATA, WritingGuest, rate, writing_guest
from tests.bench.scale import Scale
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.settings import HostSettings

_CAPTURE_GOAL = 1.3
_RATE_GOAL = 0.7


def measure(scale: Scale) -> Report:
    """Capture the volume of an idle server in turns with qemu-img, and that of one that writes."""
    return asyncio.run(_measure(scale))


async def _measure(scale: Scale) -> Report:
    settings = HostSettings(scale.folder / "host")
    hypervisor = QemuHypervisor(settings)
    accelerator = await hypervisor.check()
    data, figures = scale.bytes_of(), []
    with folder_storage(scale.folder) as store:
        for over_base in (True, False):
            async with idle_server(hypervisor, settings, store, data, over_base=over_base) as server:
                figures.append(_capture_figure([await server.capture() for _ in range(scale.rounds)], over_base))
        async with writing_guest(hypervisor, scale.folder, data) as guest:
            figures.append(_rate_figure([await _write(guest, store) for _ in range(scale.rounds)]))
    return Report(
        title="captures",
        how=f"Guests run on {accelerator}; {scale.rounds} rounds in turns, medians; into a folder store. {scale.gib:g} "
        "GiB of data, a quarter of it not in the base, if there is one. From the point until the image is verified and "
        "on the disk; against `qemu-img convert -W -m 16` of the same disk at rest, which waits for no disk; the "
        "second time is when its result was flushed, too. The guest that writes has a disk without a base, which it "
        "overwrites in blocks of 64 KiB, one after the other, without a pause; against what it writes in as long a "
        "time afterwards.",
        figures=figures,
    )


async def _write(guest: WritingGuest, store: FolderStore) -> tuple[float, float]:
    """Bytes per second that the guest writes during a capture, and in as long a time afterwards."""
    began, number = time.perf_counter(), await guest.number()
    await capture_point(guest.hypervisor, store, DATA)
    during, taken = rate(await guest.since(number)), time.perf_counter() - began
    number = await guest.number()
    await asyncio.sleep(taken)
    return during, rate(await guest.since(number))


def _capture_figure(rounds: Sequence[Captured], over_base: bool) -> Figure:
    ours, bare = middle([each.ours for each in rounds]), middle([each.bare for each in rounds])
    against = f"{seconds(bare)} ({seconds(middle([each.flushed for each in rounds]))})"
    what = f"idle server, {'over its base' if over_base else 'without a base'}"
    ratio = ours / bare
    return Figure(what, seconds(ours), against, ratio, f"≤ {_CAPTURE_GOAL}", ratio <= _CAPTURE_GOAL)


def _rate_figure(rounds: Sequence[tuple[float, float]]) -> Figure:
    during, usual = middle([each[0] for each in rounds]), middle([each[1] for each in rounds])
    ratio = during / usual
    goal, ok = f"≥ {_RATE_GOAL}", ratio >= _RATE_GOAL
    return Figure("what a guest writes meanwhile", speed(during), speed(usual), ratio, goal, ok)
