"""Clients that watch: the same subscription over a WebSocket, as server-sent events, and as multipart parts."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.graphql.transport.asgi import GatewayGraphQL
from app.wire.protocols import protocols

DEADLINE_SECONDS = 20
MULTIPART = 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0'


@dataclass(frozen=True)
class Wanted:
    """A subscription to be made at an address, with a token or without."""

    address: str
    document: str
    variables: dict[str, Any]
    token: str | None
    last_event_id: str | None = None
    project: str | None = None

    @property
    def payload(self) -> dict[str, Any]:
        return {"query": self.document, "variables": self.variables}

    @property
    def headers(self) -> dict[str, str]:
        return self.credentials | ({"Last-Event-ID": self.last_event_id} if self.last_event_id else {})

    @property
    def credentials(self) -> dict[str, str]:
        """Headers, or what a socket begins with."""
        given = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return given | ({"X-Project": self.project} if self.project else {})


# Items of a subscription: GraphQL responses, with SSE's id, and {"closed": CODE} from a socket.
Answers = AsyncGenerator[dict[str, Any], None]


async def over_socket(wanted: Wanted) -> Answers:
    protocols = [Subprotocol("graphql-transport-ws")]
    headers = {"Last-Event-ID": wanted.last_event_id} if wanted.last_event_id else {}
    url = f"ws://{wanted.address}/graphql"
    async with connect(url, subprotocols=protocols, additional_headers=headers) as connection:
        await connection.send(json.dumps({"type": "connection_init", "payload": wanted.credentials}))
        assert json.loads(await connection.recv()) == {"type": "connection_ack"}
        try:
            await connection.send(json.dumps({"id": "1", "type": "subscribe", "payload": wanted.payload}))
            async for text in connection:
                message = json.loads(text)
                if message["type"] == "complete":
                    return
                yield message["payload"] if message["type"] == "next" else {"errors": message["payload"]}
                if message["type"] == "error":
                    return
        except ConnectionClosed:
            pass
        yield {"closed": connection.close_code}


async def over_sse(wanted: Wanted) -> Answers:
    async for block in _pieces(wanted, "text/event-stream", "\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if fields.get("event") == "complete":
            return
        if fields.get("event") == "next":
            yield json.loads(fields["data"]) | {"id": fields.get("id")}


async def over_multipart(wanted: Wanted) -> Answers:
    async for part in _pieces(wanted, MULTIPART, "--graphql"):
        _, _, content = part.partition("\r\n\r\n")
        answer = json.loads(content) if content.strip() else {}
        if answer.get("payload"):
            yield answer["payload"]
        elif answer.get("errors"):
            yield {"errors": answer["errors"]}


async def _pieces(wanted: Wanted, accept: str, delimiter: str) -> AsyncIterator[str]:
    headers = {"Accept": accept, **wanted.headers}
    async with (
        httpx.AsyncClient(timeout=DEADLINE_SECONDS) as client,
        client.stream("POST", f"http://{wanted.address}/graphql", json=wanted.payload, headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        text = ""
        async for chunk in response.aiter_text():
            *whole, text = (text + chunk).split(delimiter)
            for piece in whole:
                yield piece


TRANSPORTS: dict[str, Callable[[Wanted], Answers]] = {
    "websocket": over_socket,
    "sse": over_sse,
    "multipart": over_multipart,
}


class Watcher:
    """The responses of a subscription, in order."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    async def next(self) -> dict[str, Any]:
        """The next answer. Raises TimeoutError when none comes, StopAsyncIteration at the end."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await anext(self._answers)

    async def item(self) -> Any:
        """What the next answer's only field holds."""
        answer = await self.next()
        assert "errors" not in answer, answer
        (value,) = answer["data"].values()
        return value

    async def items(self, count: int) -> list[Any]:
        return [await self.item() for _ in range(count)]

    async def ended(self) -> bool:
        """Whether nothing more comes; waits for the end."""
        try:
            answer = await self.next()
        except StopAsyncIteration:
            return True
        raise AssertionError(f"something came after the end: {answer}")


@asynccontextmanager
async def served(app: Starlette, endpoint: GatewayGraphQL) -> AsyncIterator[str]:
    """Serves a gateway on a free port; yields host and port. Ends its streams first, as `app.commands.serving` does."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, **protocols(connections=1000, head_seconds=60), lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve([listener]))
    try:
        yield "{}:{}".format(*listener.getsockname())
    finally:
        await endpoint.shutdown()
        server.should_exit = True
        await running


@asynccontextmanager
async def watching(transport: str, wanted: Wanted) -> AsyncIterator[Watcher]:
    """A subscription over one of TRANSPORTS; it is given up at the end of the block."""
    answers = TRANSPORTS[transport](wanted)
    try:
        yield Watcher(answers)
    finally:
        await answers.aclose()
