"""A thousand watchers of one project: how long an event is on its way to each of them, and what one costs."""

from tests.bench.delivering import broadcasts, figures, rename, watched_image, watching
from tests.bench.figures import Figure, Report
from tests.bench.scale import Scale
from tests.bench.serving import processor_seconds, running_bare, running_gateway
from tests.bench.uploading import delete

_GOAL_SECONDS = 0.25
_KIB = 1024


def measure(scale: Scale) -> Report:
    """Subscribe from a process of its own, rename an image again and again, and see when each watcher hears of it."""
    with running_gateway(scale.folder) as gateway:
        image_id = watched_image(gateway)
        before = gateway.process.memory_info().rss
        with watching(gateway, scale.watchers) as client:
            rename(gateway, [client], image_id, 0)  # after it all have certainly subscribed
            cost = (gateway.process.memory_info().rss - before) / scale.watchers
            began = processor_seconds(gateway.process)
            ours = [rename(gateway, [client], image_id, number) for number in range(1, scale.events + 1)]
            work = (processor_seconds(gateway.process) - began) / (scale.events * scale.watchers)
        delete(gateway, image_id)
    with running_bare("sockets", scale.folder) as application:
        bare = broadcasts([application.host], scale.watchers, scale.events)
    return Report(
        title="watchers",
        how=f"{scale.watchers} WebSockets (graphql-transport-ws) that watch one project, opened by a light client in "
        f"a process of its own, and {scale.events} events, the next when all have the last. Counted from the time in "
        "the event, which is taken just before its commit, so that the commit is in it too; and from the moment the "
        "mutation's answer was there, where what came earlier counts as 0. Against a bare application on the same "
        "uvicorn that sends the same bytes to as many sockets, counted from the request.",
        figures=[
            *figures(ours, bare, _GOAL_SECONDS),
            Figure("processor time per delivery", f"{work * 1e6:.0f} µs"),
            Figure("memory per watcher", f"{cost / _KIB:.1f} KiB"),
        ],
    )
