"""WebSocket connections: uvicorn's, with limits on what a client can make the server keep."""

from asyncio.transports import BaseTransport
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame

from app.client_network import network_of
from app.wire import refusals
from app.wire.limits import FRAGMENTS
from app.wire.room import Room

_MESSAGE_TOO_BIG = 1009


class WebSocketConnection(WebSocketsSansIOProtocol):
    """Replaces an HttpConnection after a WebSocket handshake. It may give way until its first message."""

    def __init__(self, *, room: Room, **server: Any) -> None:
        super().__init__(**server)
        self.address = ""
        self._room = room
        self._spoken = False

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self.address = network_of(self.client)
        self._room.join(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._room.leave(self)
        super().connection_lost(exc)

    def give_way(self) -> None:
        """Close immediately: another client needs the descriptor."""
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        if not self.handshake_initiated:
            return self._shake_hands(data)
        if not self._spoken:
            self._spoken = True
            self._room.serve(self)
        super().data_received(data)
        if not self.writable.is_set():
            # Pings are answered without the application. Read nothing more from a client that reads no answers.
            self.transport.pause_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    def handle_cont(self, event: Frame) -> None:
        # Only bytes count towards the size of a message, and a frame may have none.
        if len(self.frames) >= FRAGMENTS:
            self.conn.fail(_MESSAGE_TOO_BIG, f"more than {FRAGMENTS} fragments")
            self.handle_parser_exception()
            return
        super().handle_cont(event)

    def _shake_hands(self, head: bytes) -> None:
        super().data_received(head)
        if not self.handshake_initiated and not self.transport.is_closing():
            # uvicorn would wait forever: the `websockets` package does not accept the handshake as a request.
            refusals.BAD_REQUEST.write(self.transport)
            self.transport.close()
