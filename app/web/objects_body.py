"""The body of a request that may be long, may stop coming, and may have to be refused before it is read."""

import asyncio

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Message, Receive

from app.web.objects_errors import Refusal

# After a refusal so much of the body is read and dropped, for at most so long: a client that looks for the
# answer only when it has sent everything would otherwise find a broken connection. Most parts have 16 MiB.
_DROPPED_BYTES = 32 * 1024 * 1024
_DROPPED_SECONDS = 5.0


def require_plain_body(headers: Headers) -> None:
    """Raises Refusal for a body that is not exactly the bytes of the part.

    A part is stored as it comes: of an encoded one, the wrong bytes would be kept, and a range of the object that a
    client names itself is not the part that was signed.
    """
    encodings = ",".join(headers.getlist("content-encoding")).lower().split(",")
    if any(encoding.strip() not in ("", "identity") for encoding in encodings):
        raise Refusal(
            415,
            "UNSUPPORTED_ENCODING",
            "The body of a part is stored as it is, and this one has a Content-Encoding.",
            "Send the plain bytes of the file, without Content-Encoding.",
            {"accept-encoding": "identity"},  # RFC 9110, section 15.5.16
        )
    if "content-range" in headers:
        raise Refusal(
            400,
            "INVALID",
            "A part is sent as a whole: this request has a Content-Range.",
            "Send every byte of the part in one request, without Content-Range.",
            {},
        )
    if "content-length" in headers and "transfer-encoding" in headers:
        raise Refusal(
            400,
            "INVALID",
            "The request has both a Content-Length and a Transfer-Encoding.",
            "Send the length of the part in Content-Length alone.",
            {},
        )


class Body:
    """An iterator over the chunks of a body; it ends early when the client goes away."""

    def __init__(self, request: Request, receive: Receive, silence_seconds: float) -> None:
        """After `silence_seconds` without a byte, iterating raises Refusal."""
        self._receive = receive
        self._silence_seconds = silence_seconds
        declared = request.headers.get("content-length")
        self._length = None if declared is None else int(declared)  # the server has made sure that it is one
        self.exhausted = self._length == 0 or (declared is None and "transfer-encoding" not in request.headers)

    def expect(self, length: int) -> None:
        """Raises Refusal when it isn't declared that exactly `length` bytes come."""
        hint = f"Send exactly {length} bytes, with their number in Content-Length."
        if self._length is None:
            raise Refusal(411, "LENGTH_REQUIRED", "The request does not say how long its body is.", hint, {})
        if self._length > length:
            raise Refusal(413, "TOO_LARGE", f"The part has {length} bytes, not {self._length}.", hint, {})
        if self._length < length:
            raise Refusal(400, "INVALID", f"The part has {length} bytes, not {self._length}.", hint, {})

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        if self.exhausted:
            raise StopAsyncIteration
        try:
            async with asyncio.timeout(self._silence_seconds):
                message = await self._receive()
        except TimeoutError:
            hint = "Send the part again."
            raise Refusal(408, "REQUEST_TIMEOUT", "No byte came for too long.", hint, {}) from None
        return self._taken(message)

    async def drop_rest(self) -> None:
        """Read on, up to a limit, and keep nothing."""
        dropped = 0
        try:
            async with asyncio.timeout(_DROPPED_SECONDS):
                while not self.exhausted and dropped < _DROPPED_BYTES:
                    dropped += len(self._taken(await self._receive()))
        except TimeoutError:
            return

    def _taken(self, message: Message) -> bytes:
        if message["type"] == "http.disconnect":
            self.exhausted = True
            return b""
        self.exhausted = not message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk
