"""A real server in the test's own event loop, and clients that speak to it."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from app.graphql.transport.asgi import GatewayGraphQL
from app.wire.protocols import protocols


class _Server(uvicorn.Server):
    """Ends what the endpoint has open before uvicorn closes connections, as the gateway does."""

    def __init__(self, config: uvicorn.Config, endpoint: GatewayGraphQL) -> None:
        super().__init__(config)
        self._endpoint = endpoint

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._endpoint.shutdown()
        await super().shutdown(sockets)


@asynccontextmanager
async def served(endpoint: GatewayGraphQL, port: int = 0) -> AsyncGenerator[str, None]:
    """Serves the endpoint on that port, or a free one; yields host and port. Shuts down at the end."""
    listener = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(
        endpoint,
        **protocols(connections=1000, head_seconds=60),
        lifespan="off",
        log_level="error",
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, endpoint)
    running = asyncio.create_task(server.serve([listener]))
    try:
        yield "{}:{}".format(*listener.getsockname())
    finally:
        server.should_exit = True
        await running


class Socket:
    """A client of graphql-transport-ws, one JSON message at a time."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(await self.connection.recv())
        return message

    async def init(self, credential: str | None = "good") -> dict[str, Any]:
        payload = {"Authorization": f"Bearer {credential}"} if credential else {}
        await self.send(type="connection_init", payload=payload)
        return await self.receive()

    async def subscribe(self, id_: str, query: str, **payload: Any) -> None:
        await self.send(type="subscribe", id=id_, payload={"query": query, **payload})

    async def closed(self) -> tuple[int | None, str | None]:
        """Waits for the server to close; returns its code and reason."""
        await self.connection.wait_closed()
        return self.connection.close_code, self.connection.close_reason


@asynccontextmanager
async def socket_to(address: str, **options: Any) -> AsyncIterator[Socket]:
    protocols = [Subprotocol("graphql-transport-ws")]
    async with connect(f"ws://{address}/", subprotocols=protocols, **options) as connection:
        yield Socket(connection)
