"""Ten thousand watchers of one project on two API processes: how long an event is on its way, and what they cost."""

import resource
from collections.abc import Sequence
from contextlib import ExitStack

from tests.bench.delivering import Delivery, broadcasts, figures, rename, watched_image, watching
from tests.bench.figures import Figure, Report, mebibytes
from tests.bench.scale import Scale
from tests.bench.scaled_out import ScaledOut, scaled_out
from tests.bench.serving import processor_seconds, running_bare

_APIS = 2
_KIB = 1024


def measure(scale: Scale) -> Report:
    """Half of the watchers on each API process; an image is renamed through the first, again and again."""
    _raise_limit()
    each = scale.crowd // _APIS
    with scaled_out(scale.folder / "cluster", apis=_APIS, workers=0) as cluster:
        ours, costs = _ours(cluster, each, scale.events)
    with ExitStack() as stack:
        hosts = [stack.enter_context(running_bare("sockets", scale.folder)).host for _ in range(_APIS)]
        bare = broadcasts(hosts, each, scale.events)
    return Report(
        title="crowd",
        how=f"{each} WebSockets (graphql-transport-ws) on each of {_APIS} API processes, opened by a light client in a "
        f"process of its own for each, and {scale.events} events, the next when all have the last. They all happen at "
        "the first API process, and the other hears of them through PostgreSQL and Redis. Counted as in watchers; "
        f"against {_APIS} bare applications that are notified at once. All of it shares the cores of this machine.",
        figures=[*figures(ours, bare, None), *costs],
    )


def _ours(cluster: ScaledOut, each: int, events: int) -> tuple[Sequence[Delivery], Sequence[Figure]]:
    first, gateways = cluster.gateways[0], cluster.gateways
    processes = [gateway.process for gateway in gateways]
    image_id = watched_image(first)
    before = [process.memory_info().rss for process in processes]
    with ExitStack() as stack:
        clients = [stack.enter_context(watching(gateway, each)) for gateway in gateways]
        rename(first, clients, image_id, 0)  # after it all have certainly subscribed
        began = sum(map(processor_seconds, processes))
        ours = [rename(first, clients, image_id, number) for number in range(1, events + 1)]
        work = (sum(map(processor_seconds, processes)) - began) / (events * each * len(gateways))
        after = [process.memory_info().rss for process in processes]
    memory = [
        Figure(f"memory of API process {number}", mebibytes(now), f"{mebibytes(then)} before the crowd")
        for number, (now, then) in enumerate(zip(after, before, strict=True), start=1)
    ]
    per_watcher = (sum(after) - sum(before)) / (each * len(gateways))
    return ours, [
        Figure("processor time per delivery", f"{work * 1e6:.0f} µs"),
        Figure("memory per watcher", f"{per_watcher / _KIB:.1f} KiB"),
        *memory,
    ]


def _raise_limit() -> None:
    """Let this process and those that it starts open as many files as the system allows: each socket is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
