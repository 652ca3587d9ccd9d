"""Events on their way to many watchers: what makes one happen, and the processes in which the watchers wait."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime

import httpx

from tests.bench.asking import Host
from tests.bench.figures import Figure, quantile, seconds
from tests.bench.serving import Gateway, MeasurementFailed

_PAUSE_SECONDS = 0.1
_WAIT_SECONDS = 120
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
class Delivery:
    """One event: when it was committed, when its mutation was answered, and when each watcher had it (Unix time)."""

    committed: float
    answered: float
    arrived: Sequence[float]


class Client:
    """A process that watches: says when all were let in, and after each event when every watcher had it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ready(self) -> None:
        """Waits until all were let in."""
        self._line()

    def next_event(self) -> list[float]:
        """When each watcher had the next event. Raises MeasurementFailed."""
        arrived: list[float] = json.loads(self._line())
        return arrived

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasurementFailed("the watching client ended early")
        return line


def watched_image(gateway: Gateway) -> str:
    """An image to be renamed; its id."""
    source = {"upload": {"fileName": "disk.qcow2", "size": 1 << 20}}
    wanted = {"projectId": gateway.project_id, "name": "watched", "source": source}
    return str(gateway.ask(_CREATE, input=wanted)["createImage"]["image"]["id"])


def rename(gateway: Gateway, clients: Sequence[Client], image_id: str, number: int) -> Delivery:
    """Change the image, and wait until all have heard. A short pause follows."""
    answer = gateway.ask(_RENAME, id=image_id, name=f"watched {number}")
    answered = time.time()
    committed = datetime.fromisoformat(answer["updateImage"]["image"]["updatedAt"]).timestamp()
    return Delivery(committed, answered, _arrived(clients))


def broadcasts(hosts: Sequence[Host], watchers: int, events: int) -> list[Delivery]:
    """The same from bare applications, to `watchers` of each, with the same number of bytes per event."""
    message = json.dumps({"id": "1", "type": "next", "payload": {"data": {"imageEvents": "x" * 350}}})
    deliveries = []
    with ExitStack() as stack:
        senders = [stack.enter_context(httpx.Client(base_url="http://{}:{}".format(*host))) for host in hosts]
        clients = [stack.enter_context(_client(host, "/", "", "", watchers)) for host in hosts]
        threads = stack.enter_context(ThreadPoolExecutor(len(hosts)))
        for _ in range(events):
            sent = time.time()
            list(threads.map(lambda sender: sender.post("/", content=message), senders))
            deliveries.append(Delivery(sent, time.time(), _arrived(clients)))
    return deliveries


def figures(ours: Sequence[Delivery], bare: Sequence[Delivery], goal_seconds: float | None) -> Iterator[Figure]:
    """How long events were on their way, with a goal for the p99 if there is one."""
    from_commit = [at - event.committed for event in ours for at in event.arrived]
    from_answer = [max(0.0, at - event.answered) for event in ours for at in event.arrived]
    floor = [at - event.committed for event in bare for at in event.arrived]
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        taken, least = quantile(from_commit, share), quantile(floor, share)
        goal, ok = "", None
        if name == "p99" and goal_seconds is not None:
            goal, ok = f"< {goal_seconds * 1000:.0f} ms", taken < goal_seconds
        yield Figure(f"{name} from commit", seconds(taken), seconds(least), taken / least, goal, ok)
    yield Figure("p99 from the mutation's answer", seconds(quantile(from_answer, 0.99)))


@contextmanager
def watching(gateway: Gateway, count: int) -> Iterator[Client]:
    """`count` connected watchers of the gateway's project, in a separate process."""
    # A subscription is not acknowledged; with a cursor from before it, none can miss the first event.
    after = gateway.ask("{ eventCursor }")["eventCursor"]
    request = json.dumps({"query": WATCH, "variables": {"project": gateway.project_id, "after": after}})
    with _client(gateway.host, "/graphql", gateway.token, request, count) as client:
        yield client


def _arrived(clients: Sequence[Client]) -> list[float]:
    arrived = [at for client in clients for at in client.next_event()]
    time.sleep(_PAUSE_SECONDS)
    return arrived


@contextmanager
def _client(host: tuple[str, int], path: str, token: str, request: str, count: int) -> Iterator[Client]:
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
            client = Client(process)
            client.ready()
            yield client
        finally:
            process.kill()
