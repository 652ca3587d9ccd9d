"""Stands between a client and a gateway, one request per connection, and can keep requests from getting through.

The gateway signs addresses for the host that the client has asked, so that bytes come this way, too.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.gateway import Gateway

_SECONDS = 60
_PART = re.compile(r"PUT /objects/\S*[?&]part=(\d+)")


class Gate:
    """Lets requests through to `port` of this machine; `parts` are the numbers of the parts that got through."""

    def __init__(self, port: int) -> None:
        self.parts: list[int] = []
        self._port = port
        self._held: Callable[[int], bool] = lambda _number: False
        self._waiting = 0
        self._dropped = 0
        self._changed = threading.Condition()
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def hold(self, held: Callable[[int], bool]) -> None:
        """Keep back the parts, by number, for which `held` is true."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def release(self, *, drop: bool = False) -> None:
        """Let everything through that is kept back or comes; with `drop`, what is kept back is thrown away instead.

        Starts a new count of what gets through.
        """
        with self._changed:
            self._held = lambda _number: False
            self._dropped += drop
            self.parts.clear()
            self._changed.notify_all()

    def wait_until_held(self, count: int) -> None:
        """Wait until `count` parts are being held back."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting >= count, _SECONDS), "no part came"

    def connection_file(self, gateway: Gateway, folder: Path) -> Path:
        """A connection.json that leads through here."""
        file = folder / "gate.json"
        file.write_text(json.dumps({"graphql": f"{self.url}/graphql", "token": gateway.token}))
        return file

    @contextmanager
    def open(self) -> Iterator["Gate"]:
        """Lets requests through until the end of the block."""
        accepting = threading.Thread(target=self._accept)
        accepting.start()
        try:
            yield self
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._listener.shutdown(socket.SHUT_RDWR)
            accepting.join(_SECONDS)
            self._listener.close()

    def _accept(self) -> None:
        serving: list[threading.Thread] = []
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                break
            thread = threading.Thread(target=self._serve, args=(client,))
            thread.start()
            serving.append(thread)
        for thread in serving:
            thread.join(_SECONDS)

    def _serve(self, client: socket.socket) -> None:
        with client:
            client.settimeout(_SECONDS)
            try:
                head, rest = _read_head(client)
                part = _PART.match(head)
                if part is not None and not self._may_pass(int(part[1])):
                    return
                with socket.create_connection(("127.0.0.1", self._port), _SECONDS) as server:
                    server.sendall(head.encode("latin-1") + rest)
                    _exchange(client, server)
            except OSError:
                return

    def _may_pass(self, number: int) -> bool:
        with self._changed:
            dropped = self._dropped
            if self._held(number):
                self._waiting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing or not self._held(number), _SECONDS)
                self._waiting -= 1
            if self._closing or dropped != self._dropped:
                return False
            self.parts.append(number)
            return True


def _read_head(client: socket.socket) -> tuple[str, bytes]:
    """The head of a request, which is made the last one of its connection, and what came of its body with it."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = client.recv(65_536)
        if not chunk:
            raise ConnectionError
        received += chunk
    head, _, rest = received.partition(b"\r\n\r\n")
    lines = [line for line in head.decode("latin-1").split("\r\n") if not line.lower().startswith("connection:")]
    return "\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n", rest


def _exchange(client: socket.socket, server: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(server, client))
    back.start()
    _copy(client, server)
    back.join(_SECONDS)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65_536):
            target.sendall(chunk)
    except OSError:
        pass
    # When one side has ended, the other has nothing to wait for.
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
