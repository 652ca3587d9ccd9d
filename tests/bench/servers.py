"""What it costs to launch a server, and what its guest notices of a point in time of its volume."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.figures import Figure, Report, middle, seconds
from tests.bench.guests import DATA, WritingGuest, longest, timed_commands, writing_guest
from tests.bench.launching import Launch, Launcher
from tests.bench.scale import Scale
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.settings import HostSettings

_LAUNCH_GOAL = 1.5
_POINT_GOAL_SECONDS = 0.01
# The command that puts the filter of a point in place.
_MOMENT = "qom-set"
# Points per round, since one takes milliseconds.
_POINTS = 5
# How much of the data the guest overwrites.
_SHARE = 0.25
# How long the guest is watched when nothing else happens, about as long as a point takes.
_WATCHED_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Taken:
    """Seconds of a point: the whole call, and its moment; and the longest pauses of the guest.

    They are those while the point was taken, while it was released, and while nothing happened.
    """

    whole: float
    moment: float
    taking: float
    releasing: float
    usual: float


def measure(scale: Scale) -> Report:
    """Launch servers in turns with a bare QEMU; take points of a volume that a guest overwrites."""
    return asyncio.run(_measure(scale))


async def _measure(scale: Scale) -> Report:
    settings = HostSettings(scale.folder / "host")
    hypervisor = QemuHypervisor(settings)
    accelerator = await hypervisor.check()
    launcher = Launcher(hypervisor, settings, scale.folder, scale.bytes_of())
    await launcher.prepare()
    launches = [await launcher.launch() for _ in range(scale.rounds)]
    async with writing_guest(hypervisor, scale.folder, scale.bytes_of(_SHARE)) as guest:
        points = [await _take(guest) for _ in range(scale.rounds * _POINTS)]
    return Report(
        title="servers",
        how=f"Guests run on {accelerator}; medians. {len(launches)} launches, from an image with {scale.gib:g} GiB of "
        "data that the host has cached: disk and seed are created, and QEMU is started in its sandbox, until its "
        "processors run. Against that QEMU alone, with the same arguments and files, in turns. "
        f"{len(points)} points of a disk that its guest overwrites in blocks of 64 KiB, one after the other, without a "
        "pause. The moment is QEMU's answer to the command that inserts the point's filter. A pause is the longest "
        "time between two blocks, as the guest measures it.",
        figures=[*_launch_figures(launches), *_point_figures(points)],
    )


async def _take(guest: WritingGuest) -> _Taken:
    number = await guest.number()
    await asyncio.sleep(_WATCHED_SECONDS)
    usual = longest(await guest.since(number))
    number = await guest.number()
    with timed_commands() as commands:
        began = time.perf_counter()
        await guest.hypervisor.point(DATA)
        whole = time.perf_counter() - began
    taking = longest(await guest.since(number))
    await guest.overwrite()
    number = await guest.number()
    await guest.hypervisor.release(DATA)
    return _Taken(whole, dict(commands)[_MOMENT], taking, longest(await guest.since(number)), usual)


def _launch_figures(rounds: Sequence[Launch]) -> list[Figure]:
    copied, tables = max(each.copied for each in rounds), max(each.tables for each in rounds)
    ours, bare = middle([each.ours for each in rounds]), middle([each.bare for each in rounds])
    ratio = ours / bare
    return [
        Figure("launch: bytes copied", f"{copied} B", f"{tables >> 10} KiB of tables", None, "0 B", copied == 0),
        Figure(
            "launch: until it runs", seconds(ours), seconds(bare), ratio, f"≤ {_LAUNCH_GOAL}", ratio <= _LAUNCH_GOAL
        ),
    ]


def _point_figures(rounds: Sequence[_Taken]) -> list[Figure]:
    moments = [each.moment for each in rounds]
    moment, taking = middle(moments), middle([each.taking for each in rounds])
    whole, releasing = middle([each.whole for each in rounds]), middle([each.releasing for each in rounds])
    usual = f"{_milliseconds(middle([each.usual for each in rounds]))} without a point"
    goal, most = f"≤ {_milliseconds(_POINT_GOAL_SECONDS)}", f"{_milliseconds(max(moments))} at most"
    return [
        Figure("point: its moment", _milliseconds(moment), most, None, goal, moment <= _POINT_GOAL_SECONDS),
        Figure("point: pause of the guest", _milliseconds(taking), usual, None, goal, taking <= _POINT_GOAL_SECONDS),
        Figure("point: the whole call", _milliseconds(whole)),
        Figure("release: pause of the guest", _milliseconds(releasing), usual),
    ]


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.1f} ms"
