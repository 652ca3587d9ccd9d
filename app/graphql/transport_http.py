"""Reads operations from requests, by the GraphQL over HTTP specification (https://graphql.github.io/graphql-over-http)."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from app.errors import GatewayError
from app.graphql.execution import OperationRequest
from app.graphql.limits import QueryLimits

_UPLOAD_HINT = "Bytes go around GraphQL: call `createImage` with an upload source and PUT them where it says."


class RequestRefused(GatewayError):
    """Raised when a request can't be taken. `status` is the HTTP status; `headers` go with the answer."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.hint = hint
        self.headers = dict(headers or {})


async def read_operation(request: Request, limits: QueryLimits) -> OperationRequest:
    """The operation in a GET's query string or a POST's body. Raises RequestRefused."""
    if request.method == "GET":
        return operation_in(_query_parameters(request), limits)
    _check_content_type(request.headers.get("content-type", ""))
    return operation_in(_json(await _body(request, limits.body_bytes)), limits)


def operation_in(parameters: object, limits: QueryLimits) -> OperationRequest:
    """The operation in the JSON object that a client sent. Raises RequestRefused (400 or 413)."""
    if isinstance(parameters, list):
        raise _bad_request("Send one operation per request; batches are not taken.", code="BATCHING_OFF")
    if not isinstance(parameters, dict):
        raise _bad_request("The request has to be a JSON object.")
    query = parameters.get("query")
    if not isinstance(query, str) or not query:
        raise _bad_request("`query` has to be a string that holds a GraphQL document.")
    if len(query.encode(errors="surrogatepass")) > limits.document_bytes:
        message = f"The document is longer than {limits.document_bytes} bytes."
        raise RequestRefused(413, "DOCUMENT_TOO_LARGE", message)
    name = parameters.get("operationName")
    if not isinstance(name, str | None):
        raise _bad_request("`operationName` has to be a string or null.")
    for field in ("variables", "extensions"):
        if not isinstance(parameters.get(field), dict | None):
            raise _bad_request(f"`{field}` has to be an object or null.")
    return OperationRequest(query, parameters.get("variables"), name or None)


def _query_parameters(request: Request) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if name in parameters:
            parameters[name] = _json(parameters[name].encode(errors="surrogatepass") or b"null")
    return parameters


def _check_content_type(content_type: str) -> None:
    """Takes JSON only: a browser asks before it sends that across origins; forms and text it just sends."""
    media_type, _, parameters = content_type.lower().partition(";")
    if media_type.strip() == "multipart/form-data":
        raise _unsupported_media("Files can't be sent in a GraphQL request.", hint=_UPLOAD_HINT)
    if media_type.strip() != "application/json":
        raise _unsupported_media("The body has to be JSON, with `Content-Type: application/json`.")
    charset = parameters.partition("charset=")[2].strip(" '\";")
    if charset not in ("", "utf-8", "utf8"):
        raise _unsupported_media("The body has to be UTF-8.")


async def _body(request: Request, limit: int) -> bytes:
    """The body, `limit` bytes at most; a longer one is not read to its end."""
    too_large = RequestRefused(
        413,
        "BODY_TOO_LARGE",
        f"The body is longer than {limit} bytes.",
        hint=_UPLOAD_HINT,
        headers={"Connection": "close"},
    )
    declared = request.headers.get("content-length", "0")
    # Nineteen digits are more than any limit, and int() gives up on thousands of them.
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def _json(text: bytes) -> object:
    try:
        return json.loads(text)
    # A RecursionError tells of brackets nested without end, a ValueError of everything else.
    except (ValueError, RecursionError):
        raise _bad_request("The request is not readable as JSON.") from None


def _bad_request(message: str, code: str = "BAD_REQUEST") -> RequestRefused:
    return RequestRefused(400, code, message)


def _unsupported_media(message: str, hint: str | None = None) -> RequestRefused:
    return RequestRefused(
        415, "UNSUPPORTED_MEDIA_TYPE", message, hint=hint, headers={"Accept-Post": "application/json"}
    )
