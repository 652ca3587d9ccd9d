"""Requests to signed addresses, of the gateway or of the object store behind it. They carry no token."""

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

# Before a part is acknowledged it is written to the disk, and the first one is inspected.
TIMEOUT = httpx.Timeout(60, connect=10, read=300, pool=None)


_NO_BYTES = "The object store does not have these bytes (any longer)."


def headers_of(request: SignedRequestFields) -> dict[str, str]:
    """The headers that have to be sent along with a SignedRequest of the API."""
    return {header.name: header.value for header in request.headers}


def broken(error: httpx.TransportError) -> NotReachable:
    """The error for a connection that failed."""
    return NotReachable(f"The object store can't be reached: {str(error) or type(error).__name__}.")


def refusal_of(response: httpx.Response) -> ClientError:
    """What an answer that is no success means. Reads of its body what the caller has read."""
    status, told = response.status_code, _told(response)
    message = str(told.get("message") or f"The object store answers HTTP {status}.")
    hint, code = told.get("hint"), told.get("code")
    if status == 403:
        return AddressRefused(message, hint=hint, code=code)
    if code == "UPLOAD_CLOSED":
        return UploadClosed(message, hint=hint, code=code)
    if code == "OBJECT_MISSING":  # the image is there, and its bytes are lost
        return NoAnswer(message, hint=hint, code=code)
    if status == 404:
        return NotFound(str(told.get("message") or _NO_BYTES), hint=hint, code=code)
    # 409: another request is bringing the same part, for example that of a run which was killed just now.
    if status in (408, 409, 429) or status >= 500:
        return Overloaded(message, hint=hint, code=code)
    return Refused(message, hint=hint, code=code)


def _told(response: httpx.Response) -> dict[str, Any]:
    """What the gateway says in the body; S3 says it in XML, and its status is enough."""
    try:
        told = json.loads(response.content)["error"]
    except (ValueError, KeyError, TypeError):
        return {}
    return told if isinstance(told, dict) else {}
