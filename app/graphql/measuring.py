"""Counts operations, by what of the schema they ask for: names that clients choose could be any, and any number."""

import time
from collections.abc import Iterator

from graphql import DocumentNode, OperationDefinitionNode, OperationType, get_operation_ast
from strawberry.extensions import SchemaExtension
from strawberry.types.execution import PreExecutionError

from app import metrics
from app.graphql.limits.query_limits import INTROSPECTION
from app.graphql.limits.query_plan import root_fields

OK, ERROR, REFUSED, CANCELLED = "OK", "ERROR", "REFUSED", "CANCELLED"
_OTHER, _SEVERAL, _INTROSPECTION = "other", "several", "introspection"
_UNREADABLE = "unknown"


class Measured(SchemaExtension):
    """Measures an operation from its parsing to its result; a subscription, to its end."""

    _executing = False
    _subscribed = False

    def on_operation(self) -> Iterator[None]:
        """Count the operation when it has ended, however it ended."""
        began = time.perf_counter()
        outcome = CANCELLED
        try:
            yield
            outcome = self._outcome()
        except Exception:
            outcome = ERROR if self._executing else REFUSED
            raise
        finally:
            self._count(outcome, time.perf_counter() - began)

    def on_execute(self) -> Iterator[None]:
        """From here on it runs: all checks are passed."""
        self._executing = True
        node = self._node()
        if node is not None and node.operation is OperationType.SUBSCRIPTION:
            self._subscribed = True
            metrics.SUBSCRIPTIONS.inc()
        yield

    def _outcome(self) -> str:
        result = self.execution_context.result
        if isinstance(result, PreExecutionError) or not self._executing:
            return REFUSED
        return ERROR if getattr(result, "errors", None) else OK

    def _count(self, outcome: str, seconds: float) -> None:
        document, node = self.execution_context.graphql_document, self._node()
        if document is None or node is None:
            operation, kind = _OTHER, _UNREADABLE
        else:
            operation, kind = self._asked_for(document, node), node.operation.value
        metrics.REQUESTS.labels(operation, kind, outcome).inc()
        if self._subscribed:
            metrics.SUBSCRIPTIONS.dec()
        elif kind != OperationType.SUBSCRIPTION.value:
            metrics.REQUEST_SECONDS.labels(operation, kind).observe(seconds)

    def _node(self) -> OperationDefinitionNode | None:
        """The operation that is to run; None when the document can't be read, or does not say which."""
        context = self.execution_context
        if context.graphql_document is None:
            return None
        return get_operation_ast(context.graphql_document, context._provided_operation_name)

    def _asked_for(self, document: DocumentNode, node: OperationDefinitionNode) -> str:
        """The root field of an operation; `several` where it has more, `other` where the schema has no such field."""
        names = root_fields(document, node) - INTROSPECTION
        if not names:
            return _INTROSPECTION
        root = self.execution_context.schema._schema.get_root_type(node.operation)
        if root is None or not names <= root.fields.keys():
            return _OTHER
        return names.pop() if len(names) == 1 else _SEVERAL
