"""Many watchers in one light process: it separates frames of WebSockets (RFC 6455), and reads nothing in them.

Run as `python -m tests.bench.watching HOST PORT PATH COUNT SECONDS`, with `{"token": …, "request": …}` on a
line of standard input. Prints a line when all have been let in, and then after each event a JSON list of when
each watcher had it (Unix time). Ends when nothing comes for SECONDS.
"""

import asyncio
import base64
import json
import os
import sys
import time
from typing import Any, cast

import uvloop

_TEXT, _PING, _PONG = 1, 9, 10
_HANDSHAKE_END = b"\r\n\r\n"


class Watcher(asyncio.Protocol):
    """One connection: shakes hands, says who it is, subscribes, and notes when messages come."""

    def __init__(self, crowd: "Crowd") -> None:
        self._crowd = crowd
        self._received = bytearray()
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asks for a WebSocket (RFC 6455, section 4.1)."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name
        key = base64.b64encode(os.urandom(16)).decode()
        self._transport.write(
            f"GET {self._crowd.path} HTTP/1.1\r\nHost: {self._crowd.host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Takes frames off the stream."""
        self._received += data
        if not self._open:
            head, end, rest = bytes(self._received).partition(_HANDSHAKE_END)
            if not end:
                return
            assert b" 101 " in head, head
            self._open = True
            self._received = bytearray(rest)
            self._send(_TEXT, self._crowd.init)
        while (frame := self._frame()) is not None:
            self._take(*frame)

    def connection_lost(self, error: Exception | None) -> None:
        """The crowd can't go on without one of its own."""
        self._crowd.lost(error)

    def _frame(self) -> tuple[int, bytes] | None:
        """The next complete frame, as its opcode and payload; servers do not mask (section 5.2)."""
        received = self._received
        if len(received) < 2:
            return None
        length, start = received[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(received[2:start], "big")
        if len(received) < start + length:
            return None
        opcode, payload = received[0] & 0x0F, bytes(received[start : start + length])
        del received[: start + length]
        return opcode, payload

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            self._send(_PONG, payload)
        elif opcode == _TEXT and b'"connection_ack"' in payload:
            if self._crowd.subscribe:
                self._send(_TEXT, self._crowd.subscribe)
            self._crowd.acknowledged()
        elif opcode == _TEXT and b'"next"' in payload:
            self._crowd.arrived()
        else:
            self._crowd.lost(RuntimeError(payload.decode(errors="replace")))

    def _send(self, opcode: int, payload: bytes) -> None:
        """A masked frame; the mask is zero, so that masking costs nothing."""
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
        self._transport.write(bytes([0x80 | opcode]) + length + bytes(4) + payload)


class Crowd:
    """All the watchers of this process."""

    def __init__(self, host: str, path: str, count: int, token: str, request: str) -> None:
        self.host, self.path, self._count = host, path, count
        self.init = json.dumps({"type": "connection_init", "payload": _who(token)}).encode()
        subscribe = {"type": "subscribe", "id": "1", "payload": json.loads(request)} if request else None
        self.subscribe = json.dumps(subscribe).encode() if subscribe else b""
        self._acknowledged = 0
        self._arrivals: list[float] = []
        self.news: asyncio.Queue[list[float]] = asyncio.Queue()
        self.ready = asyncio.Event()

    def acknowledged(self) -> None:
        """One more watcher may watch."""
        self._acknowledged += 1
        if self._acknowledged == self._count:
            self.ready.set()

    def arrived(self) -> None:
        """One more watcher has the event."""
        self._arrivals.append(time.time())
        if len(self._arrivals) == self._count:
            self.news.put_nowait(self._arrivals)
            self._arrivals = []

    def lost(self, error: Exception | None) -> None:
        """A connection has ended, or something unexpected came: nothing measured from here on would be true."""
        print(f"a watcher was lost: {error!r}", file=sys.stderr, flush=True)  # noqa: T201
        os._exit(1)

    def failed(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A mistake of this program's own ends it too."""
        self.lost(context.get("exception"))


def _who(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


async def main(host: str, port: int, path: str, count: int, patience: float) -> None:
    """Connect `count` watchers and print what they receive."""
    settings = json.loads(sys.stdin.readline())
    crowd = Crowd(f"{host}:{port}", path, count, settings["token"], settings["request"])
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(crowd.failed)
    for _ in range(count):
        await loop.create_connection(lambda: Watcher(crowd), host, port)
    await asyncio.wait_for(crowd.ready.wait(), patience)
    print("ready", flush=True)  # noqa: T201
    while True:
        arrived = await asyncio.wait_for(crowd.news.get(), patience)
        print(json.dumps(arrived), flush=True)  # noqa: T201


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5])))
