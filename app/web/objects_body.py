"""The body of a request that uploads a part: it may be long, stall, or be refused before it is read."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import Receive

from app.request_body import BodyTimeout, RequestBody
from app.sizes import exactly
from app.web.objects_errors import Refusal


def require_plain_body(headers: Headers) -> None:
    """Raises Refusal for a body that is not exactly the bytes of the part.

    A part is stored as it arrives: of an encoded one, the wrong bytes would be stored, and a range that the client
    chooses is not the part that was signed.
    """
    encodings = ",".join(headers.getlist("content-encoding")).lower().split(",")
    if any(encoding.strip() not in ("", "identity") for encoding in encodings):
        raise Refusal(
            415,
            "UNSUPPORTED_ENCODING",
            "A part is stored as it is, but this request has a Content-Encoding.",
            "Send the plain bytes of the file, without Content-Encoding.",
            {"accept-encoding": "identity"},  # RFC 9110, section 15.5.16
        )
    if "content-range" in headers:
        raise Refusal(
            400,
            "INVALID",
            "A part is sent as a whole, but this request has a Content-Range.",
            "Send every byte of the part in one request, without Content-Range.",
            {},
        )
    if "content-length" in headers and "transfer-encoding" in headers:
        raise Refusal(
            400,
            "INVALID",
            "The request has both a Content-Length and a Transfer-Encoding.",
            "Send only a Content-Length with the length of the part.",
            {},
        )


class Body(RequestBody):
    """An iterator over the chunks of a body; it ends early when the client disconnects."""

    def __init__(self, request: Request, receive: Receive, silence_seconds: float) -> None:
        """Iterating raises Refusal after `silence_seconds` without a byte."""
        super().__init__(request, receive)
        self._silence_seconds = silence_seconds

    def expect(self, length: int) -> None:
        """Raises Refusal unless the request declares exactly `length` bytes."""
        hint = f"Send exactly {exactly(length)}, with a Content-Length of {length}."
        if self.length is None:
            raise Refusal(411, "LENGTH_REQUIRED", "The request has no Content-Length.", hint, {})
        if self.length > length:
            raise Refusal(
                413,
                "TOO_LARGE",
                f"The part has {exactly(length)}, but the Content-Length declares {exactly(self.length)}.",
                hint,
                {},
            )
        if self.length < length:
            raise Refusal(
                400,
                "INVALID",
                f"The part has {exactly(length)}, but the Content-Length declares {exactly(self.length)}.",
                hint,
                {},
            )

    def __aiter__(self) -> "Body":
        return self

    async def __anext__(self) -> bytes:
        if self.exhausted:
            raise StopAsyncIteration
        try:
            return await self.next_chunk_within(self._silence_seconds)
        except BodyTimeout:
            hint = "Send the part again."
            raise Refusal(408, "REQUEST_TIMEOUT", "The client sent nothing for too long.", hint, {}) from None
