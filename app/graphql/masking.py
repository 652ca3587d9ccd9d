"""What a caller is shown of an error: a code, a correlation id, and never a Python text.

Shown as they are: mistakes of the caller (app.errors.UserMistake, ReadRefused, NotAuthenticated), what GraphQL
itself says about a document or its variables, and errors that carry a code of ours. Everything else becomes INTERNAL,
and is logged with its traceback under the correlation id.
"""

from typing import Any

import strawberry
import structlog
from graphql import ArgumentNode, GraphQLError, GraphQLSyntaxError, ValueNode
from strawberry.exceptions import MissingQueryError
from strawberry.schema.exceptions import CannotGetOperationTypeError, InvalidOperationTypeError
from strawberry.types import ExecutionContext
from strawberry.types.graphql import OperationType

from app import metrics
from app.errors import (
    DatabaseDamaged,
    DatabaseFull,
    DatabaseUnavailable,
    NotAuthenticated,
    ReadRefused,
    StoreError,
    StoreFull,
    UserMistake,
)
from app.graphql.uninterrupted import to_the_end

INTERNAL_MESSAGE = "Something went wrong on our side. Tell the operator the correlation id."
STORAGE_MESSAGE = "The object store can't take or give bytes now. Try again later."
FULL_MESSAGE = "There is no room left on the gateway's disk."
FULL_HINT = "Delete images that are no longer needed: deletions work on a full disk. Or try again later."
DAMAGED_MESSAGE = "The catalogue is damaged. Tell the operator, who has to restore it from a backup."
DATABASE_MESSAGE = (
    "The catalogue does not answer now. Try again in a moment; an idempotencyKey keeps it from being done twice."
)

# graphql-core quotes what a scalar's parser raised between these; that is a Python text.
_QUOTED_EXCEPTION = ", but encountered error '"

log = structlog.get_logger()


class GatewaySchema(strawberry.Schema):
    """A schema that finishes its mutations, and leaves the logging of errors to the mask."""

    async def _execute_operation(self, execution_context: ExecutionContext, *arguments: Any, **options: Any) -> Any:
        """Finishes a mutation whose client has gone, whatever it came by: half of it would be worse than all of it."""
        running = super()._execute_operation(execution_context, *arguments, **options)
        if execution_context.operation_type is not OperationType.MUTATION:
            return await running
        return await to_the_end(running)

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Does nothing; see `shown`."""


class CodedError(GraphQLError):
    """An error that is raised on purpose: code and details are shown to the caller as they are."""

    def __init__(self, message: str, code: str, *, nodes: Any = None, **details: Any) -> None:
        super().__init__(message, nodes, extensions={"code": code, **details})


def shown(error: GraphQLError, correlation_id: str) -> dict[str, Any]:
    """The error as the caller sees it: message, locations and path, a code and the correlation id.

    Logs the error when its text has to be hidden.
    """
    cause = root_cause(error)
    told = _told(error, cause)
    if told is None or isinstance(cause, StoreError | DatabaseUnavailable):
        _log_hidden(error, cause, correlation_id)
    if told is None:
        told = (INTERNAL_MESSAGE, {"code": "INTERNAL"})
    message, details = told
    metrics.ERRORS.labels("graphql", details["code"]).inc()
    formatted = dict(error.formatted)
    formatted["message"] = message
    formatted["extensions"] = {**details, "correlationId": correlation_id}
    return formatted


def root_cause(error: GraphQLError) -> Exception:
    """The exception that was raised first, below all that graphql-core wrapped around it."""
    cause: Exception = error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    return cause


def _told(error: GraphQLError, cause: Exception) -> tuple[str, dict[str, Any]] | None:
    """Message and extensions that may be shown, or None."""
    match cause:
        case UserMistake() | ReadRefused():
            details = {"code": cause.code, "hint": cause.hint, "field": list(cause.field) or None}
            return cause.message, {name: value for name, value in details.items() if value is not None}
        case NotAuthenticated():
            return str(cause) or "Send a valid token.", {"code": "UNAUTHENTICATED"}
        case StoreFull() | DatabaseFull():
            return FULL_MESSAGE, {"code": "STORAGE_UNAVAILABLE", "hint": FULL_HINT}
        case StoreError():
            return STORAGE_MESSAGE, {"code": "STORAGE_UNAVAILABLE"}
        case DatabaseDamaged():
            return DAMAGED_MESSAGE, {"code": "DATABASE_DAMAGED"}
        case DatabaseUnavailable():
            return DATABASE_MESSAGE, {"code": "UNAVAILABLE"}
        case CannotGetOperationTypeError():
            return cause.as_http_error_reason(), {"code": "OPERATION_NOT_FOUND"}
        case InvalidOperationTypeError():
            return "This kind of operation is not served here.", {"code": "OPERATION_NOT_ALLOWED"}
        case MissingQueryError():
            return "The request holds no `query`.", {"code": "BAD_REQUEST"}
        case GraphQLError():
            return _told_by_graphql(error, cause)
        case _ if error.nodes and _QUOTED_EXCEPTION in error.message:
            return _told_by_graphql(error, error)
        case _:
            return None


def _told_by_graphql(error: GraphQLError, cause: GraphQLError) -> tuple[str, dict[str, Any]] | None:
    message = error.message.split(_QUOTED_EXCEPTION)[0]
    for coded in (cause, error):
        if coded.extensions and "code" in coded.extensions:
            return message, dict(coded.extensions)
    if isinstance(cause, GraphQLSyntaxError):
        return message, {"code": "GRAPHQL_PARSE_FAILED"}
    # Without a path nothing had been run yet: the variables are at fault. With one, only an argument can be.
    if error.path is None or _blames_argument(cause):
        return message, {"code": "BAD_USER_INPUT"}
    return None


def _blames_argument(error: GraphQLError) -> bool:
    return bool(error.nodes) and all(isinstance(node, ValueNode | ArgumentNode) for node in error.nodes or ())


def _log_hidden(error: GraphQLError, cause: Exception, correlation_id: str) -> None:
    log.error(
        "graphql_error",
        correlation_id=correlation_id,
        path=".".join(map(str, error.path or ())),
        exc_info=cause,
    )
