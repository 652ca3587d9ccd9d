"""A thousand watchers of one project: how long an event is on its way to each of them, and what one costs."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

import httpx

from tests.bench.figures import Figure, Report, quantile, seconds
from tests.bench.scale import Scale
from tests.bench.serving import Gateway, MeasurementFailed, processor_seconds, running_bare, running_gateway
from tests.bench.uploading import delete

_GOAL_SECONDS = 0.25
_PAUSE_SECONDS = 0.1
_WAIT_SECONDS = 120
_KIB = 1024
WATCH = """
subscription Watch($project: ID!, $after: EventCursor) {
  imageEvents(projectId: $project, after: $after, progress: false) {
    __typename
    ... on ImageEvent { cursor occurredAt imageId image { id name status updatedAt } }
  }
}"""
_CREATE = """
mutation Create($input: CreateImageInput!) { createImage(input: $input) { userErrors { message } image { id } } }"""
_RENAME = """
mutation Rename($id: ID!, $name: String!) {
  updateImage(input: {imageId: $id, name: $name}) { userErrors { message } image { updatedAt } }
}"""


@dataclass(frozen=True, slots=True)
class _Delivery:
    """One event: when it was committed, when its mutation was answered, and when each watcher had it (Unix time)."""

    committed: float
    answered: float
    arrived: Sequence[float]


def measure(scale: Scale) -> Report:
    """Subscribe from a process of its own, rename an image again and again, and see when each watcher hears of it."""
    with running_gateway(scale.folder) as gateway:
        image_id = _image(gateway)
        before = gateway.process.memory_info().rss
        with _watchers(gateway, scale.watchers) as client:
            _rename(gateway, client, image_id, 0)  # after it all have certainly subscribed
            cost = (gateway.process.memory_info().rss - before) / scale.watchers
            began = processor_seconds(gateway.process)
            ours = [_rename(gateway, client, image_id, number) for number in range(1, scale.events + 1)]
            work = (processor_seconds(gateway.process) - began) / (scale.events * scale.watchers)
        delete(gateway, image_id)
    with running_bare("sockets", scale.folder) as application:
        bare = _broadcasts(application.host, scale)
    return Report(
        title="watchers",
        how=f"{scale.watchers} WebSockets (graphql-transport-ws) that watch one project, opened by a light client in "
        f"a process of its own, and {scale.events} events, the next when all have the last. Counted from the time in "
        "the event, which is taken just before its commit, so that the commit is in it too; and from the moment the "
        "mutation's answer was there, where what came earlier counts as 0. Against a bare application on the same "
        "uvicorn that sends the same bytes to as many sockets, counted from the request.",
        figures=[
            *_figures(ours, bare),
            Figure("processor time per delivery", f"{work * 1e6:.0f} µs"),
            Figure("memory per watcher", f"{cost / _KIB:.1f} KiB"),
        ],
    )


def _figures(ours: Sequence[_Delivery], bare: Sequence[_Delivery]) -> Iterator[Figure]:
    from_commit = [at - event.committed for event in ours for at in event.arrived]
    from_answer = [max(0.0, at - event.answered) for event in ours for at in event.arrived]
    floor = [at - event.committed for event in bare for at in event.arrived]
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        taken, least = quantile(from_commit, share), quantile(floor, share)
        goal, ok = ("< 250 ms", taken < _GOAL_SECONDS) if name == "p99" else ("", None)
        yield Figure(f"{name} from commit", seconds(taken), seconds(least), taken / least, goal, ok)
    yield Figure("p99 from the mutation's answer", seconds(quantile(from_answer, 0.99)))


def _image(gateway: Gateway) -> str:
    source = {"upload": {"fileName": "disk.qcow2", "size": 1 << 20}}
    wanted = {"projectId": gateway.project_id, "name": "watched", "source": source}
    return str(gateway.ask(_CREATE, input=wanted)["createImage"]["image"]["id"])


def _rename(gateway: Gateway, client: "_Client", image_id: str, number: int) -> _Delivery:
    answer = gateway.ask(_RENAME, id=image_id, name=f"watched {number}")
    answered = time.time()
    committed = datetime.fromisoformat(answer["updateImage"]["image"]["updatedAt"]).timestamp()
    return _Delivery(committed, answered, client.next_event())


def _broadcasts(host: tuple[str, int], scale: Scale) -> list[_Delivery]:
    message = json.dumps({"id": "1", "type": "next", "payload": {"data": {"imageEvents": "x" * 350}}})
    deliveries = []
    with (
        httpx.Client(base_url="http://{}:{}".format(*host)) as sender,
        _client(host, "/", "", "", scale.watchers) as client,
    ):
        for _ in range(scale.events):
            sent = time.time()
            sender.post("/", content=message)
            deliveries.append(_Delivery(sent, time.time(), client.next_event()))
    return deliveries


class _Client:
    """The process that watches: says when all were let in, and after each event when every watcher had it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ready(self) -> None:
        """Waits until all were let in."""
        self._line()

    def next_event(self) -> list[float]:
        """When each watcher had the next event; a short pause follows. Raises MeasurementFailed."""
        arrived: list[float] = json.loads(self._line())
        time.sleep(_PAUSE_SECONDS)
        return arrived

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasurementFailed("the watching client ended early")
        return line


@contextmanager
def _watchers(gateway: Gateway, count: int) -> Iterator[_Client]:
    # A subscription is not acknowledged; with a cursor from before it, none can miss the first event.
    after = gateway.ask("{ eventCursor }")["eventCursor"]
    request = json.dumps({"query": WATCH, "variables": {"project": gateway.project_id, "after": after}})
    with _client(gateway.host, "/graphql", gateway.token, request, count) as client:
        yield client


@contextmanager
def _client(host: tuple[str, int], path: str, token: str, request: str, count: int) -> Iterator[_Client]:
    command = [
        sys.executable,
        "-m",
        "tests.bench.watching",
        host[0],
        str(host[1]),
        path,
        str(count),
        str(_WAIT_SECONDS),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"token": token, "request": request}) + "\n")
            process.stdin.flush()
            client = _Client(process)
            client.ready()
            yield client
        finally:
            process.kill()
