"""Lets the subscriptions of a caller start one after the other."""

from collections.abc import AsyncIterator

from strawberry.extensions import SchemaExtension
from strawberry.types.graphql import OperationType

from app.graphql.protocols import OperationContext


class StartsAlone(SchemaExtension):
    """Waits, before a subscription is executed, until the caller's earlier ones have started.

    A client may start hundreds at once. Most of what a start takes comes after this.
    """

    async def on_execute(self) -> AsyncIterator[None]:
        """Wait, if it is a subscription."""
        if self.execution_context.operation_type is OperationType.SUBSCRIPTION:
            context: OperationContext = self.execution_context.context
            await context.starting()
        yield
