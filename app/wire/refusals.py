"""Responses that the server sends without calling the application."""

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus

from app import metrics
from app.sizes import KIB
from app.wire.limits import HANDSHAKE_LINE_BYTES, HEAD_BYTES, HEAD_FIELDS


@dataclass(frozen=True, slots=True)
class Refusal:
    """A response of the server. `code` is the error's code in it."""

    code: str
    response: bytes

    def write(self, transport: asyncio.WriteTransport) -> None:
        """Send the response to the client, and count it."""
        metrics.ERRORS.labels("server", self.code).inc()
        transport.write(self.response)


def _refusal(status: HTTPStatus, code: str, message: str, hint: str) -> Refusal:
    body = json.dumps({"error": {"code": code, "message": message, "hint": hint}}).encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        "cache-control: no-store\r\n"
        "connection: close\r\n"
        "\r\n"
    )
    return Refusal(code, head.encode() + body)


BAD_REQUEST = _refusal(
    HTTPStatus.BAD_REQUEST, "INVALID", "The request is not valid HTTP/1.1.", "Use an HTTP library to send it."
)
TRAILERS = _refusal(
    HTTPStatus.BAD_REQUEST,
    "INVALID",
    "The chunked body ends with trailer fields.",
    "Send all header fields before the body.",
)
CHUNK_EXTENSIONS = _refusal(
    HTTPStatus.BAD_REQUEST,
    "INVALID",
    "The chunked body has more framing than content.",
    "Send chunks without extensions, or use Content-Length.",
)
HEAD_TOO_LARGE = _refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "TOO_LARGE",
    f"The head of the request is larger than {HEAD_BYTES // KIB} KiB or has more than {HEAD_FIELDS} fields.",
    "Send fewer or shorter header fields, and send long queries by POST.",
)
HANDSHAKE_TOO_LARGE = _refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "TOO_LARGE",
    f"A line of the WebSocket handshake is longer than {HANDSHAKE_LINE_BYTES // KIB} KiB.",
    "Send the token in the payload of connection_init.",
)
HEAD_TIMEOUT = _refusal(
    HTTPStatus.REQUEST_TIMEOUT,
    "REQUEST_TIMEOUT",
    "The head of the request did not arrive in time.",
    "Send the request again, without pauses.",
)
FULL = _refusal(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "OVERLOADED",
    "All connections of this server are in use.",
    "Try again in a few seconds.",
)
