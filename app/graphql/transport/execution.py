"""Runs one operation, and returns answers with masked errors, ready to be encoded.

All transports get their answers from here, so none can leak what the others hide.
"""

import json
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from graphql import GraphQLError
from strawberry.schema import BaseSchema
from strawberry.schema.exceptions import InvalidOperationTypeError
from strawberry.types import ExecutionResult
from strawberry.types.execution import PreExecutionError
from strawberry.types.graphql import OperationType

from app.graphql.json_values import encode
from app.graphql.masking import shown
from app.graphql.protocols import OperationContext

ANY_OPERATION = frozenset(OperationType)
# Every document with a subscription has this word, and few others do.
_SUBSCRIPTION = re.compile(r"\bsubscription\b")


@dataclass(frozen=True, slots=True)
class OperationRequest:
    """An operation that a client requests."""

    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = None

    @property
    def characters(self) -> int:
        """Length of the document and of the variables as JSON."""
        return len(self.query) + len(json.dumps(self.variables))


@dataclass(frozen=True, slots=True)
class Answer:
    """One response of an operation, as JSON values.

    `executed` is false if the operation was refused before it ran; `body` then has no `data`
    (GraphQL specification, section 7.1).
    """

    body: dict[str, Any]
    executed: bool

    def json(self) -> str:
        """The body as JSON, on one line."""
        return encode(self.body)


async def answer_once(
    schema: BaseSchema,
    request: OperationRequest,
    context: OperationContext,
    allowed: Iterable[OperationType],
) -> Answer:
    """Run a query or mutation. Raises InvalidOperationTypeError if its type is not `allowed`."""
    try:
        result = await schema.execute(
            request.query,
            variable_values=request.variables,
            context_value=context,
            operation_name=request.operation_name,
            allowed_operation_types=allowed,
        )
    except InvalidOperationTypeError:
        raise
    except Exception as error:
        return refusal(error, context.correlation_id)
    return _answer(result, context.correlation_id)


async def answers(
    schema: BaseSchema,
    request: OperationRequest,
    context: OperationContext,
    allowed: Iterable[OperationType] = ANY_OPERATION,
) -> AsyncGenerator[Answer, None]:
    """Run an operation: yields an answer for each event of a subscription, otherwise a single one.

    A subscription first waits until the caller's earlier ones have started: a client may start hundreds at once.
    """
    try:
        if _SUBSCRIPTION.search(request.query):
            await context.starting()
        results = await schema.stream(
            request.query,
            variable_values=request.variables,
            context_value=context,
            operation_name=request.operation_name,
            allowed_operation_types=allowed,
        )
        async with aclosing(results):
            async for result in results:
                # Ends the turn, so that a client that reads slowly does not block the caller's other operations.
                context.waiting()
                yield _answer(result, context.correlation_id)
                context.finish_event()
    # Strawberry's stream raises the exceptions of parsing and validation hooks.
    except Exception as error:
        yield refusal(error, context.correlation_id)


def refusal(error: Exception, correlation_id: str) -> Answer:
    """The answer to an operation that could not be run."""
    wrapped = error if isinstance(error, GraphQLError) else GraphQLError(str(error), original_error=error)
    return Answer({"errors": [shown(wrapped, correlation_id)]}, executed=False)


def _answer(result: Any, correlation_id: str) -> Answer:
    body: dict[str, Any] = {}
    executed = True
    if result.errors:
        body["errors"] = [shown(error, correlation_id) for error in result.errors]
        executed = not _failed_before_execution(result)
    if executed:
        body["data"] = result.data
    if result.extensions:
        body["extensions"] = result.extensions
    return Answer(body, executed)


def _failed_before_execution(result: ExecutionResult) -> bool:
    # If variables can't be coerced, the result is an ordinary one, with errors that have no path.
    return isinstance(result, PreExecutionError) or (
        result.data is None and all(error.path is None for error in result.errors or ())
    )
