"""What the gateway is measured against: the least that does the same, on the same uvicorn.

Run as `python -m tests.bench.bare parts|pages|sockets FOLDER`; prints the port when it listens.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from strawberry.asgi import GraphQL

from tests.bench.plain_strawberry import schema


class Parts:
    """Writes the body of each request to the file that its path names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = self._folder / Path(scope["path"]).name
        with open(path, "wb", buffering=0) as file:  # noqa: ASYNC230  the least that does it blocks
            more = True
            while more:
                message = await receive()
                file.write(message.get("body", b""))
                more = message.get("more_body", False)
        await _answer(send)


class Sockets:
    """Sends the body of each POST to every WebSocket that is open, word for word."""

    def __init__(self) -> None:
        self._open: set[Send] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._watch(receive, send)
        else:
            text = (await receive())["body"].decode()
            for watcher in list(self._open):
                await watcher({"type": "websocket.send", "text": text})
            await _answer(send)

    async def _watch(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept", "subprotocol": "graphql-transport-ws"})
        await receive()
        await send({"type": "websocket.send", "text": '{"type":"connection_ack"}'})
        self._open.add(send)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self._open.discard(send)


async def _answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def _pages(_folder: Path) -> ASGIApp:
    return cast("ASGIApp", GraphQL[None, None](schema))


APPS: dict[str, Callable[[Path], ASGIApp]] = {
    "parts": Parts,
    "pages": _pages,
    "sockets": lambda _folder: Sockets(),
}


def main(name: str, folder: Path) -> None:
    """Serve until SIGTERM, with the same settings as the gateway."""
    bound = socket.create_server(("127.0.0.1", 0), backlog=2048)
    config = uvicorn.Config(
        APPS[name](folder),
        loop="uvloop",
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    os.write(1, f"{bound.getsockname()[1]}\n".encode())
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(uvicorn.Server(config).serve([bound]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
