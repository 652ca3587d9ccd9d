"""Decides what a caller sees of an error: a code, a correlation id, and never the text of a Python exception.

Shown unchanged: the caller's mistakes (app.errors.UserMistake, ReadRefused, NotAuthenticated), what GraphQL itself
says about a document or its variables, and errors with a code of the gateway. Every other error becomes INTERNAL and
is logged with its traceback under the correlation id.
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
    DATABASE_UNAVAILABLE_MESSAGE,
    DISK_FULL_MESSAGE,
    STORE_UNAVAILABLE_MESSAGE,
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

INTERNAL_MESSAGE = "The gateway failed. Report the correlation id to its operator."
STORAGE_MESSAGE = f"{STORE_UNAVAILABLE_MESSAGE} Try again later."
FULL_HINT = "Delete images that you no longer need, which works on a full disk, or try again later."
DAMAGED_MESSAGE = "The catalogue is damaged. Ask the operator to restore it from a backup."
DATABASE_MESSAGE = (
    f"{DATABASE_UNAVAILABLE_MESSAGE} Try again in a moment, with an idempotencyKey so that nothing is done twice."
)

# graphql-core appends the text of an exception that a scalar's parser raised after this.
_QUOTED_EXCEPTION = ", but encountered error '"

log = structlog.get_logger()


class GatewaySchema(strawberry.Schema):
    """A schema that finishes every mutation it has started, and leaves the logging of errors to `shown`."""

    async def _execute_operation(self, execution_context: ExecutionContext, *arguments: Any, **options: Any) -> Any:
        """Run an operation. A mutation is finished even if its client disconnects: half of it would be worse."""
        running = super()._execute_operation(execution_context, *arguments, **options)
        if execution_context.operation_type is not OperationType.MUTATION:
            return await running
        return await to_the_end(running)

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        """Does nothing: `shown` logs errors."""


class CodedError(GraphQLError):
    """An error that is raised on purpose: the caller sees its message, code and details unchanged."""

    def __init__(self, message: str, code: str, *, nodes: Any = None, **details: Any) -> None:
        super().__init__(message, nodes, extensions={"code": code, **details})


def shown(error: GraphQLError, correlation_id: str) -> dict[str, Any]:
    """The error as the caller sees it: message, locations, path, code and correlation id.

    Logs the error if its text is hidden.
    """
    cause = root_cause(error)
    visible = _visible(error, cause)
    if visible is None or isinstance(cause, StoreError | DatabaseUnavailable):
        _log_hidden(error, cause, correlation_id)
    if visible is None:
        visible = (INTERNAL_MESSAGE, {"code": "INTERNAL"})
    message, details = visible
    metrics.ERRORS.labels("graphql", details["code"]).inc()
    formatted = dict(error.formatted)
    formatted["message"] = message
    formatted["extensions"] = {**details, "correlationId": correlation_id}
    return formatted


def root_cause(error: GraphQLError) -> Exception:
    """The exception that was raised first, without the ones that graphql-core wrapped around it."""
    cause: Exception = error
    while isinstance(cause, GraphQLError) and cause.original_error is not None:
        cause = cause.original_error
    return cause


def _visible(error: GraphQLError, cause: Exception) -> tuple[str, dict[str, Any]] | None:
    """The message and extensions to show; None if the error has to be hidden."""
    match cause:
        case UserMistake() | ReadRefused():
            details = {"code": cause.code, "hint": cause.hint, "field": list(cause.field) or None}
            return cause.message, {name: value for name, value in details.items() if value is not None}
        case NotAuthenticated():
            return str(cause) or "Send a valid token.", {"code": "UNAUTHENTICATED"}
        case StoreFull() | DatabaseFull():
            return DISK_FULL_MESSAGE, {"code": "STORAGE_UNAVAILABLE", "hint": FULL_HINT}
        case StoreError():
            return STORAGE_MESSAGE, {"code": "STORAGE_UNAVAILABLE"}
        case DatabaseDamaged():
            return DAMAGED_MESSAGE, {"code": "DATABASE_DAMAGED"}
        case DatabaseUnavailable():
            return DATABASE_MESSAGE, {"code": "UNAVAILABLE"}
        case CannotGetOperationTypeError():
            return cause.as_http_error_reason(), {"code": "OPERATION_NOT_FOUND"}
        case InvalidOperationTypeError():
            return "This kind of operation is not allowed here.", {"code": "OPERATION_NOT_ALLOWED"}
        case MissingQueryError():
            return "The request contains no `query`.", {"code": "BAD_REQUEST"}
        case GraphQLError():
            return _visible_of_graphql(error, cause)
        case _ if error.nodes and _QUOTED_EXCEPTION in error.message:
            return _visible_of_graphql(error, error)
        case _:
            return None


def _visible_of_graphql(error: GraphQLError, cause: GraphQLError) -> tuple[str, dict[str, Any]] | None:
    message = error.message.split(_QUOTED_EXCEPTION)[0]
    for coded in (cause, error):
        if coded.extensions and "code" in coded.extensions:
            return message, dict(coded.extensions)
    if isinstance(cause, GraphQLSyntaxError):
        return message, {"code": "GRAPHQL_PARSE_FAILED"}
    # Without a path, nothing has run yet: a variable is wrong. With one, only an argument can be wrong.
    if error.path is None or _blames_argument(cause):
        return message, {"code": "BAD_USER_INPUT"}
    return None


def _blames_argument(error: GraphQLError) -> bool:
    return bool(error.nodes) and all(isinstance(node, ValueNode | ArgumentNode) for node in error.nodes or ())


def _log_hidden(error: GraphQLError, cause: Exception, correlation_id: str) -> None:
    log.error(
        "graphql.failed",
        correlation_id=correlation_id,
        path=".".join(map(str, error.path or ())),
        exc_info=cause,
    )
