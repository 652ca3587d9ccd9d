"""A request's body as ASGI delivers it: either read within a time limit, or dropped with its connection."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.sizes import MIB

# After a refusal, at most this much of the body is read and dropped, for at most this long: a client that reads the
# response only after it has sent everything would otherwise see a broken connection. Most parts have 16 MiB.
_DROPPED_BYTES = 32 * MIB
_DROPPED_SECONDS = 5.0


class BodyTimeout(Exception):
    """Raised when the body does not arrive in time. After that, nothing more is read from it."""


class RequestBody:
    """The body of one request. `length` is its Content-Length in bytes, or None."""

    def __init__(self, request: Request, receive: Receive) -> None:
        self._receive = receive
        self._timed_out = False
        declared = request.headers.get("content-length")
        # Servers reject other values; eighteen digits exceed every limit, and int() fails on thousands of digits.
        self.length = int((declared.lstrip("0") or "0")[:18]) if declared is not None and declared.isdecimal() else None
        # False once the client has disconnected, which ends the body early.
        self.complete = True
        self.exhausted = self.length == 0 or (declared is None and "transfer-encoding" not in request.headers)

    async def next_chunk(self) -> bytes:
        """The next bytes; empty when the client has disconnected. Call it only while the body is not exhausted."""
        return self._taken(await self._receive())

    async def next_chunk_within(self, seconds: float) -> bytes:
        """Like `next_chunk`. Raises BodyTimeout when nothing arrives for that long."""
        try:
            async with asyncio.timeout(seconds):
                return await self.next_chunk()
        except TimeoutError:
            self._timed_out = True
            raise BodyTimeout from None

    async def read(self, limit: int, seconds: float) -> bytes | None:
        """The whole body; None when it is longer than `limit` bytes, in which case the rest is not read.

        Raises BodyTimeout when it takes longer than `seconds` to arrive.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(seconds):
                while not self.exhausted:
                    body += await self.next_chunk()
                    if len(body) > limit:
                        return None
        except TimeoutError:
            self._timed_out = True
            raise BodyTimeout from None
        return bytes(body)

    async def drop_rest(self) -> None:
        """Read the rest of the body, up to a limit, and drop it."""
        dropped = 0
        try:
            async with asyncio.timeout(_DROPPED_SECONDS):
                while not (self.exhausted or self._timed_out) and dropped < _DROPPED_BYTES:
                    dropped += len(await self.next_chunk())
        except TimeoutError:
            return

    def _taken(self, message: Message) -> bytes:
        if message["type"] == "http.disconnect":
            self.exhausted, self.complete = True, False
            return b""
        self.exhausted = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


async def respond(response: ASGIApp, body: RequestBody, scope: Scope, receive: Receive, send: Send) -> None:
    """Send a response. If the body was not read to its end, the connection closes after the response."""
    if body.exhausted or not isinstance(response, Response):
        return await response(scope, receive, send)
    response.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    # The response is complete with this, but only its formal end makes the server close the connection.
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
    await body.drop_rest()
    await send({"type": "http.response.body", "body": b"", "more_body": False})
