"""Resolves an event once for all watchers that select the same of it, and reuses the result.

A thousand watchers of a project mostly send the same document. As long as no resolver uses the caller, the result for
an event is the same for all of them.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any
from weakref import WeakMethod

from graphql import ExecutionResult, FieldNode, Node, OperationDefinitionNode, VariableNode, Visitor, visit
from graphql.type import GraphQLResolveInfoHelpers
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext

# Watchers read an event at about the same time, so a few results are enough.
_KEPT = 512

Key = tuple[Any, ...]


class ReusedResults:
    """The newest results of this process, by event, operation and variables."""

    def __init__(self) -> None:
        # The operation is kept with the result, so that no other operation can get its id().
        self._kept: OrderedDict[Key, tuple[OperationDefinitionNode, ExecutionResult]] = OrderedDict()
        self._selecting: OrderedDict[int, tuple[OperationDefinitionNode, frozenset[str]]] = OrderedDict()

    def get(self, key: Key) -> ExecutionResult | None:
        """The stored result, or None."""
        found = self._kept.get(key)
        return None if found is None else found[1]

    def put(self, key: Key, operation: OperationDefinitionNode, result: ExecutionResult) -> None:
        """Store a result for other watchers."""
        self._kept[key] = (operation, result)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def selecting(self, operation: OperationDefinitionNode, fragments: Iterable[Node]) -> frozenset[str]:
        """The variables that affect what is selected of an event; the others only select events."""
        known = self._selecting.get(id(operation))
        if known is None:
            names = frozenset(_selecting_variables(operation, fragments))
            known = self._selecting[id(operation)] = (operation, names)
            if len(self._selecting) > _KEPT:
                self._selecting.popitem(last=False)
        return known[1]


class ReusingExecutor(StrawberryGraphQLCoreExecutionContext):
    """Resolves an event once for all watchers with the same selection. An event with a `share_key` can be reused."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # graphql-core's own are bound methods, which make the executor refer to itself. What it holds (context,
        # loaders, rows) would then stay until the garbage collector runs, which blocks the event loop.
        self.async_helpers = GraphQLResolveInfoHelpers(
            gather=_weakly(self.gather_async_work), track=_weakly(self.track_async_work)
        )

    def execute_operation(self, serially: bool | None = None) -> Any:
        """Return the result for one event of a subscription, or for a query or mutation."""
        event = getattr(self.root_value, "share_key", None)
        if event is None:
            return super().execute_operation(serially)
        context = self.context_value
        reused: ReusedResults = context.reused_results
        key = (event, id(self.operation), self._variables(reused))
        found = reused.get(key)
        if found is not None:
            return found
        context.personal = False
        result = super().execute_operation(serially)
        if isinstance(result, ExecutionResult) and not result.errors and not context.personal:
            reused.put(key, self.operation, result)
        return result

    def _variables(self, reused: ReusedResults) -> str:
        names = reused.selecting(self.operation, self.fragment_definitions.values())
        return str({name: value for name, value in self.variable_values.coerced.items() if name in names})


def _weakly(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that does not keep its object alive; the caller of an executor keeps it alive while it runs."""
    reference = WeakMethod(method)

    def call(*args: Any) -> Any:
        if (alive := reference()) is None:
            raise ReferenceError("the operation has ended")
        return alive(*args)

    return call


def _selecting_variables(operation: OperationDefinitionNode, fragments: Iterable[Node]) -> set[str]:
    """The variables that occur elsewhere than in the arguments of a root field."""
    found = _Variables()
    for fragment in fragments:
        visit(fragment, found)
    for root in operation.selection_set.selections:
        if not isinstance(root, FieldNode):
            visit(root, found)
            continue
        for part in (root.selection_set, *(root.directives or ())):
            if part is not None:
                visit(part, found)
    return found.names


class _Variables(Visitor):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def enter_variable(self, node: VariableNode, *_: object) -> None:
        self.names.add(node.name.value)
