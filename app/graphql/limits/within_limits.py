"""Enforces the limits on operations, and answers introspection from a cache."""

from collections.abc import Callable, Iterator
from typing import Any

from graphql import ExecutionResult, GraphQLError, OperationType
from strawberry.extensions import SchemaExtension

from app.graphql.limits.introspection import IntrospectionAnswers, answer_key
from app.graphql.limits.query_limits import (
    CheckedDocument,
    CheckedOperation,
    QueryLimits,
    ReadDocument,
    document_reader,
)
from app.graphql.masking import CodedError


def limit_extensions(limits: QueryLimits) -> list[Callable[[], SchemaExtension]]:
    """The extensions of one schema that enforce `limits` on its operations."""
    read = document_reader(limits)
    answers = IntrospectionAnswers()
    return [lambda: WithinLimits(read, limits, answers)]


class WithinLimits(SchemaExtension):
    """Refuses operations above the limits, and reports the cost of the others in `extensions.cost`."""

    def __init__(self, read: ReadDocument, limits: QueryLimits, answers: IntrospectionAnswers) -> None:
        self._read = read
        self._limits = limits
        self._answers = answers
        self._checked: CheckedDocument | None = None
        self._cost: int | None = None

    def on_parse(self) -> Iterator[None]:
        """Replaces Strawberry's parsing. `execution.py` answers the errors that it raises."""
        context = self.execution_context
        if context.query:
            self._checked = self._read(context.schema._schema, context.query)
            context.graphql_document = self._checked.node
        yield

    def on_validate(self) -> Iterator[None]:
        """Replaces Strawberry's validation."""
        if self._checked is not None:
            self.execution_context.pre_execution_errors = self._errors(self._checked)
        yield

    def on_execute(self) -> Iterator[None]:
        """Answers operations that only introspect from the cache."""
        context = self.execution_context
        operation = self._checked.operation(context._provided_operation_name) if self._checked else None
        if operation is None or not operation.introspects_only:
            yield
            return
        key = answer_key(context.query or "", operation.node, context.variables)
        context.result = self._answers.get(key)
        yield
        if isinstance(context.result, ExecutionResult):
            self._answers.put(key, context.result)

    def get_results(self) -> dict[str, Any]:
        """The cost of the operation; nothing for subscriptions, as each event would repeat it."""
        if self._cost is None:
            return {}
        return {"cost": {"requested": self._cost, "limit": self._limits.cost}}

    def _errors(self, document: CheckedDocument) -> list[GraphQLError]:
        context = self.execution_context
        try:
            # Without a name, Strawberry would run the first operation. Only this attribute shows that none was sent.
            operation = document.operation(context._provided_operation_name)
            if operation is None:
                return []
            if context.context.viewer.anonymous and not operation.introspects_only:
                message = "Send a token: without one, only the schema can be read."
                raise CodedError(message, "UNAUTHENTICATED")
            if errors := document.validation_errors(context.validation_rules):
                return errors
            return self._price(operation)
        except CodedError as error:
            return [error]

    def _price(self, operation: CheckedOperation) -> list[GraphQLError]:
        bill = operation.cost_plan.bill(self.execution_context.variables or {})
        if bill.errors:
            return list(bill.errors)
        if operation.node.operation is not OperationType.SUBSCRIPTION:
            self._cost = bill.cost
        if bill.cost > self._limits.cost:
            message = f"The query requests {bill.cost} nodes; at most {self._limits.cost} are allowed."
            details = {"limit": self._limits.cost, "requested": bill.cost}
            return [CodedError(message, "QUERY_TOO_EXPENSIVE", **details)]
        return []
