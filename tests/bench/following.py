"""One watcher of one image, as a console would be: hears over a WebSocket how far it is."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.bench.serving import Gateway, MeasurementFailed

_LONGEST_CONVERSION_SECONDS = 3600
_PROTOCOL = Subprotocol("graphql-transport-ws")
_WATCH = """
subscription Watch($id: ID!) {
  image(id: $id, untilSettled: true) { status failure { code message } progress { phase } }
}"""


class Follower:
    """What was heard of an image, and when, by time.perf_counter()."""

    def __init__(self) -> None:
        self.heard: dict[str, float] = {}
        self._failure: object = None
        self._settled = threading.Event()

    def active_at(self) -> float:
        """Waits until the image is ACTIVE; when that was heard. Raises MeasurementFailed."""
        if not self._settled.wait(_LONGEST_CONVERSION_SECONDS) or "ACTIVE" not in self.heard:
            raise MeasurementFailed(f"the image did not become ACTIVE: {self._failure}")
        return self.heard["ACTIVE"]

    def read(self, connection: ClientConnection) -> None:
        """Takes messages in until the subscription completes."""
        try:
            for message in map(json.loads, connection):
                if message["type"] != "next":
                    self._failure = self._failure or message
                    return
                self.note(message)
        finally:
            self._settled.set()

    def note(self, message: dict[str, Any]) -> None:
        """Keeps when a status or phase was heard of first."""
        now = time.perf_counter()
        image = message["payload"]["data"]["image"]
        self.heard.setdefault(image["status"], now)
        if image["progress"] is not None:
            self.heard.setdefault(image["progress"]["phase"], now)
        self._failure = image["failure"]


@contextmanager
def following(gateway: Gateway, image_id: str) -> Iterator[Follower]:
    """Subscribes; the first message, how the image is now, has come when the block begins."""
    address = gateway.url.replace("http", "ws", 1) + "/graphql"
    follower = Follower()
    with connect(address, subprotocols=[_PROTOCOL], compression=None) as connection:
        payload = {"Authorization": f"Bearer {gateway.token}"}
        connection.send(json.dumps({"type": "connection_init", "payload": payload}))
        connection.recv(timeout=30)
        request = {"query": _WATCH, "variables": {"id": image_id}}
        connection.send(json.dumps({"type": "subscribe", "id": "1", "payload": request}))
        follower.note(json.loads(connection.recv(timeout=30)))
        reading = threading.Thread(target=follower.read, args=(connection,))
        reading.start()
        try:
            yield follower
        finally:
            connection.close()
            reading.join()
