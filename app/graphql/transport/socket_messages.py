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
    """JSON messages on a Starlette socket, each with at most as many characters as a request has bytes."""

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
                await self.close(MESSAGE_TOO_BIG, f"Messages may have {self._limits.body_bytes:,} characters")
                return
            try:
                message = read_json(text, self._limits.json_values)
            except NotJson:
                raise NonJsonMessageReceived from None
            except TooManyValues:
                reason = f"TOO_MANY_ITEMS: messages may have {self._limits.json_values:,} JSON values"
                await self.close(MESSAGE_TOO_BIG, reason)
                return
            yield message

    async def send_json(self, message: Mapping[str, object]) -> None:
        try:
            await self._socket.send_text(encode(message))
        # Starlette tells by RuntimeError that the socket was closed before.
        except (WebSocketDisconnect, RuntimeError):
            raise WebSocketDisconnected from None

    async def close(self, code: int, reason: str) -> None:
        """Close the socket. Reasons may quote what the client sent; they are cut to what a close frame holds."""
        with suppress(WebSocketDisconnect, RuntimeError):
            await self._socket.close(code, close_reason(reason))


def close_reason(text: str) -> str:
    """A text cut to the 123 bytes that a close frame has for its reason (RFC 6455, section 5.5)."""
    return text.encode(errors="replace")[:_REASON_BYTES].decode(errors="ignore")
