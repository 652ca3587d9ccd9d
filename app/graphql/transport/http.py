"""Reads operations from requests, by the GraphQL over HTTP specification (https://graphql.github.io/graphql-over-http)."""

from collections.abc import Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request

from app.errors import GatewayError
from app.graphql.json_values import NotJson, TooManyValues, count_items, read_json
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.masking import CodedError
from app.graphql.transport.execution import OperationRequest
from app.request_body import BodyTimeout, RequestBody
from app.sizes import counted, exactly

_TOKEN_HINT = "Send a token: without one, only the schema can be read."  # noqa: S105
_FEWER_HINT = "Split the input over several requests."
_CLOSE = {"Connection": "close"}
_UPLOAD_HINT = "Call `createImage` with an upload source, and PUT the bytes to the URLs that it returns."


class RequestRefused(GatewayError):
    """Raised when a request is refused. `status` is the HTTP status, `headers` are those of the response.

    `details` are shown in the error's extensions, next to the code.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})
        self.details = {**(details or {}), **({"hint": hint} if hint else {})}

    @classmethod
    def of(cls, status: int, error: CodedError, headers: Mapping[str, str] | None = None) -> "RequestRefused":
        """The refusal of a request that exceeds a limit."""
        details = dict(error.extensions or {})
        return cls(status, details.pop("code"), error.message, headers=headers, details=details)

    def as_error(self) -> CodedError:
        """The error that the caller sees."""
        return CodedError(self.message, self.code, **self.details)


def check_head(request: Request, body: RequestBody, limits: QueryLimits, *, anonymous: bool) -> None:
    """Check the head of a request before its body is read. Raises RequestRefused (413 or 415)."""
    if request.method == "GET":
        return
    _check_content_type(request.headers.get("content-type", ""))
    if (body.length or 0) > _body_limit(limits, anonymous):
        raise _body_too_large(limits, anonymous)


async def read_operation(
    request: Request, body: RequestBody, limits: QueryLimits, *, anonymous: bool, seconds: float
) -> OperationRequest:
    """Read the operation from a GET's query string, or from a POST's body, which may take `seconds` to arrive.

    Raises RequestRefused, and ClientDisconnect if the client disconnects while it sends.
    """
    if request.method == "GET":
        return operation_in(_query_parameters(request, limits), limits)
    try:
        content = await body.read(_body_limit(limits, anonymous), seconds)
    except BodyTimeout:
        message = f"The body did not arrive within {counted(seconds, 'second')}."
        raise RequestRefused(408, "REQUEST_TIMEOUT", message, hint="Send the request again.", headers=_CLOSE) from None
    if not body.complete:
        raise ClientDisconnect
    if content is None:
        raise _body_too_large(limits, anonymous)
    return operation_in(_json(content, limits), limits)


def operation_in(parameters: object, limits: QueryLimits) -> OperationRequest:
    """The operation in the JSON object that a client sent. Raises RequestRefused (400 or 413)."""
    if isinstance(parameters, list):
        raise _bad_request("Send one operation per request; batches are not supported.", code="BATCHING_OFF")
    if not isinstance(parameters, dict):
        raise _bad_request("The request must be a JSON object.")
    query = parameters.get("query")
    if not isinstance(query, str) or not query:
        raise _bad_request("`query` must be a string that contains a GraphQL document.")
    if len(query.encode(errors="surrogatepass")) > limits.document_bytes:
        message = f"The document is longer than {exactly(limits.document_bytes)}."
        raise RequestRefused(413, "DOCUMENT_TOO_LARGE", message)
    name = parameters.get("operationName")
    if not isinstance(name, str | None):
        raise _bad_request("`operationName` must be a string or null.")
    for field in ("variables", "extensions"):
        if not isinstance(parameters.get(field), dict | None):
            raise _bad_request(f"`{field}` must be an object or null.")
    variables = parameters.get("variables")
    _check_variables(variables, limits)
    return OperationRequest(query, variables, name or None)


def _check_variables(variables: dict[str, Any] | None, limits: QueryLimits) -> None:
    """Limit the variables: coercion takes time for every item, even if the caller may do nothing."""
    items, depth = count_items(variables, limits.variable_items)
    if items > limits.variable_items:
        message = f"The variables contain more than {limits.variable_items:,} list elements and object fields."
        raise RequestRefused(400, "TOO_MANY_ITEMS", message, hint=_FEWER_HINT)
    if depth > limits.variable_depth:
        message = f"The variables are nested more than {limits.variable_depth} levels deep."
        raise _bad_request(message, code="VARIABLES_TOO_DEEP")


def _query_parameters(request: Request, limits: QueryLimits) -> dict[str, Any]:
    parameters: dict[str, Any] = dict(request.query_params)
    for name in ("variables", "extensions"):
        if name in parameters:
            parameters[name] = _json(parameters[name] or "null", limits)
    return parameters


def _check_content_type(content_type: str) -> None:
    """Accept only JSON: browsers send it to other origins only after a preflight, but forms and text without one."""
    media_type, _, parameters = content_type.lower().partition(";")
    if media_type.strip() == "multipart/form-data":
        raise _unsupported_media("Files can't be sent in a GraphQL request.", hint=_UPLOAD_HINT)
    if media_type.strip() != "application/json":
        raise _unsupported_media("The body must be JSON, with `Content-Type: application/json`.")
    charset = parameters.partition("charset=")[2].strip(" '\";")
    if charset not in ("", "utf-8", "utf8"):
        raise _unsupported_media("The body must be UTF-8.")


def _body_limit(limits: QueryLimits, anonymous: bool) -> int:
    return min(limits.anonymous_body_bytes, limits.body_bytes) if anonymous else limits.body_bytes


def _body_too_large(limits: QueryLimits, anonymous: bool) -> RequestRefused:
    message = f"The body is longer than {exactly(_body_limit(limits, anonymous))}."
    hint = _TOKEN_HINT if anonymous else _UPLOAD_HINT
    return RequestRefused(413, "BODY_TOO_LARGE", message, hint=hint, headers=_CLOSE)


def _json(text: bytes | str, limits: QueryLimits) -> object:
    try:
        return read_json(text, limits.json_values)
    except NotJson:
        raise _bad_request("The request can't be parsed as JSON.") from None
    except TooManyValues:
        message = f"The request contains more than {limits.json_values:,} JSON values."
        raise RequestRefused(400, "TOO_MANY_ITEMS", message, hint=_FEWER_HINT) from None


def _bad_request(message: str, code: str = "BAD_REQUEST") -> RequestRefused:
    return RequestRefused(400, code, message)


def _unsupported_media(message: str, hint: str | None = None) -> RequestRefused:
    return RequestRefused(
        415, "UNSUPPORTED_MEDIA_TYPE", message, hint=hint, headers={"Accept-Post": "application/json"}
    )
