"""A small application behind the gateway's HttpConnection, on uvloop in a thread of the test."""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.wire.protocols import protocols
from tests.support.raw_http import Host

LARGE = 64 * 1024 * 1024


class Served:
    """Where the application listens, and what it has seen."""

    def __init__(self, listener: socket.socket, server: uvicorn.Server) -> None:
        self.listener = listener
        self.host: Host = listener.getsockname()[:2]
        self.paths: list[str] = []
        self.holding = threading.Semaphore(0)
        """Released by each request of /held when it is served."""
        self.gate = threading.Event()
        """Requests of /held are answered when it is set."""
        self.ended = threading.Event()
        """Set when a request of /stream learns that its client has disconnected."""
        self._server = server

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.server_state.connections)

    @property
    def unsent(self) -> int:
        """How many bytes wait for clients to read."""
        return sum(each.transport.get_write_buffer_size() for each in self._server.server_state.connections)


@contextlib.contextmanager
def served(*, connections: int = 1000, head_seconds: float = 60, **config: Any) -> Iterator[Served]:
    """Serves /echo, /ignored, /held, /client, /stream, /large and the WebSocket /socket on a free port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    app = Starlette()
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            loop="uvloop",
            **protocols(connections, head_seconds),
            ws_per_message_deflate=False,
            lifespan="off",
            log_level="error",
            timeout_graceful_shutdown=2,
            **config,
        )
    )
    place = Served(listener, server)
    app.routes.extend(_routes(place))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield place
    finally:
        place.gate.set()
        server.should_exit = True
        thread.join()
        listener.close()


def _routes(place: Served) -> list[Any]:
    async def echo(request: Request) -> Response:
        place.paths.append(request.url.path)
        return JSONResponse({"bytes": len(await request.body()), "fields": len(request.headers.raw)})

    async def ignored(request: Request) -> Response:
        return Response("not read", 403)

    async def held(request: Request) -> Response:
        place.holding.release()
        await asyncio.to_thread(place.gate.wait)
        return Response("held")

    async def client(request: Request) -> Response:
        assert request.client is not None
        return JSONResponse({"client": request.client.host, "scheme": request.url.scheme})

    async def large(request: Request) -> Response:
        return Response(bytes(LARGE))

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.send_text(await socket.receive_text())

    return [
        Route("/echo", echo, methods=["GET", "POST"]),
        Route("/ignored", ignored, methods=["POST"]),
        Route("/held", held),
        Route("/client", client),
        Route("/large", large),
        Route("/stream", _Stream(place)),
        WebSocketRoute("/socket", talk),
    ]


class _Stream:
    """Answers without an end, with a sign of life now and then, until its client is gone."""

    def __init__(self, place: Served) -> None:
        self._place = place

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        gone = asyncio.create_task(self._until_gone(receive))
        while not (await asyncio.wait([gone], timeout=0.05))[0]:
            await send({"type": "http.response.body", "body": b"alive", "more_body": True})
        self._place.ended.set()

    async def _until_gone(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
