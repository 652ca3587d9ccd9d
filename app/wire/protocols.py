"""The protocol classes that uvicorn uses for connections."""

import asyncio
from functools import partial
from typing import TypedDict, cast

from app.wire.handshakes import Handshakes
from app.wire.http import HttpConnection
from app.wire.room import Room
from app.wire.websocket import WebSocketConnection


class Protocols(TypedDict):
    """Arguments of `uvicorn.Config`."""

    http: type[asyncio.Protocol]
    ws: type[asyncio.Protocol]


def protocols(connections: int, head_seconds: float) -> Protocols:
    """HTTP and WebSocket protocols of one process: at most `connections`, and heads within `head_seconds`."""
    room = Room(connections)
    http = partial(HttpConnection, room=room, handshakes=Handshakes(), head_seconds=head_seconds)
    # uvicorn only calls them; it types them as classes.
    return {
        "http": cast("type[asyncio.Protocol]", http),
        "ws": cast("type[asyncio.Protocol]", partial(WebSocketConnection, room=room)),
    }
