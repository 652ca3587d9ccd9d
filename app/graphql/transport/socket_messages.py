"""JSON messages on a WebSocket, and the frame that closes it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from strawberry.http.async_base_view import AsyncWebSocketAdapter
from strawberry.http.exceptions import (
    NonJsonMessageReceived,
    NonTextMessageReceived,
    WebSocketDisconnected,
)

from app.graphql.json_values import NotJson, TooManyValues, encode, read_json
from app.graphql.limits.query_limits import QueryLimits

MESSAGE_TOO_BIG = 1009
_REASON_BYTES = 123


class SocketMessages(AsyncWebSocketAdapter):
    """JSON messages on a Starlette socket, each of at most `body_bytes` characters."""

    def __init__(self, socket: WebSocket, limits: QueryLimits) -> None:
        self._socket = socket
        self._limits = limits

    async def iter_json(self, *, ignore_parsing_errors: bool = False) -> AsyncGenerator[object, None]:
        while self._socket.application_state is WebSocketState.CONNECTED:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                return
            text = received.get("text")
            if text is None:
                raise NonTextMessageReceived
            if len(text) > self._limits.body_bytes:
                await self.close(MESSAGE_TOO_BIG, f"Messages may have at most {self._limits.body_bytes:,} characters")
                return
            try:
                message = read_json(text, self._limits.json_values)
            except NotJson:
                raise NonJsonMessageReceived from None
            except TooManyValues:
                reason = f"TOO_MANY_ITEMS: messages may have at most {self._limits.json_values:,} JSON values"
                await self.close(MESSAGE_TOO_BIG, reason)
                return
            yield message

    async def send_json(self, message: Mapping[str, object]) -> None:
        try:
            await self._socket.send_text(encode(message))
        # Starlette raises RuntimeError if the socket is already closed.
        except (WebSocketDisconnect, RuntimeError):
            raise WebSocketDisconnected from None

    async def close(self, code: int, reason: str) -> None:
        """Close the socket. The reason may quote what the client sent, and is cut to fit into a close frame."""
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.close(code, close_reason(reason))


def close_reason(text: str) -> str:
    """The text, cut to the 123 bytes that fit into a close frame (RFC 6455, section 5.5)."""
    return text.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore")
