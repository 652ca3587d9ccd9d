"""Requests to signed addresses of the gateway or of its object store. They contain no token."""

import json
from typing import Any

import httpx

from app.client.errors import (
    AddressRefused,
    ClientError,
    NoAnswer,
    NotFound,
    NotReachable,
    Overloaded,
    Refused,
    UploadClosed,
)
from app.client.generated.fragments import SignedRequestFields

# A part is written to the disk, and the first one is inspected, before the response.
TIMEOUT = httpx.Timeout(60, connect=10, read=300, pool=None)


_NO_BYTES = "The object store does not have these bytes, or no longer has them."


def headers_of(request: SignedRequestFields) -> dict[str, str]:
    """The headers that have to be sent with a SignedRequest of the API."""
    return {header.name: header.value for header in request.headers}


def broken(error: httpx.TransportError) -> NotReachable:
    """The error for a connection that failed."""
    return NotReachable(f"The object store can't be reached: {str(error) or type(error).__name__}.")


def refusal_of(response: httpx.Response) -> ClientError:
    """The error for an unsuccessful response, whose body the caller has read."""
    status, error = response.status_code, _error_in(response)
    message = str(error.get("message") or f"The object store returned HTTP {status}.")
    hint, code = error.get("hint"), error.get("code")
    if status == 403:
        return AddressRefused(message, hint=hint, code=code)
    if code == "UPLOAD_CLOSED":
        return UploadClosed(message, hint=hint, code=code)
    if code == "OBJECT_MISSING":  # the image exists, but its bytes are lost
        return NoAnswer(message, hint=hint, code=code)
    if status == 404:
        return NotFound(str(error.get("message") or _NO_BYTES), hint=hint, code=code)
    # 409: another request is sending the same part, for example the one of a run that was just killed.
    if status in (408, 409, 429) or status >= 500:
        return Overloaded(message, hint=hint, code=code)
    return Refused(message, hint=hint, code=code)


def _error_in(response: httpx.Response) -> dict[str, Any]:
    """The error in the gateway's JSON body; empty for S3, which sends XML: its status is enough."""
    try:
        error = json.loads(response.content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return error if isinstance(error, dict) else {}
