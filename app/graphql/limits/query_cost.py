"""Calculates how many nodes an operation requests, multiplied down nested connections, with its variables.

Text counts like nodes where the caller requests an amount of it: one for each KiB.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from graphql import OperationDefinitionNode, Undefined, value_from_ast_untyped

from app.graphql.limits.query_plan import Ask, Sizing
from app.graphql.masking import CodedError


@dataclass(frozen=True, slots=True)
class Bill:
    """The cost of an operation in nodes, and errors in its page sizes and lists of ids."""

    cost: int
    errors: Sequence[CodedError] = ()


class CostPlan:
    """Calculates the cost of one operation. A page may have at most `page_size` nodes, `ids` at most `node_ids`."""

    def __init__(
        self, operation: OperationDefinitionNode, asks: tuple[Ask, ...], *, page_size: int, node_ids: int
    ) -> None:
        self._asks = asks
        self._page_size = page_size
        self._node_ids = node_ids
        self._defaults = {
            definition.variable.name.value: value_from_ast_untyped(definition.default_value)
            for definition in operation.variable_definitions or ()
            if definition.default_value is not None
        }

    def bill(self, variables: Mapping[str, Any]) -> Bill:
        """The cost with these variables, which are JSON values."""
        errors: list[CodedError] = []
        cost = self._cost(self._asks, {**self._defaults, **variables}, errors)
        return Bill(cost, errors)

    def _cost(self, asks: tuple[Ask, ...], variables: dict[str, Any], errors: list[CodedError]) -> int:
        total = 0
        for ask in asks:
            try:
                size = self._size(ask, variables)
            except CodedError as error:
                errors.append(error)
                size = 1
            total += size * (ask.counted + ask.introspected + self._cost(ask.below, variables, errors))
        return total

    def _size(self, ask: Ask, variables: dict[str, Any]) -> int:
        match ask.sizing:
            case Sizing.PAGE:
                return self._page(ask, variables)
            case Sizing.IDS:
                return self._ids(ask, variables)
            case Sizing.KIB:
                return max(1, _whole(_argument(ask, "lastKib", variables) or ask.fixed_size))
            case Sizing.FIXED:
                return ask.fixed_size

    def _page(self, ask: Ask, variables: dict[str, Any]) -> int:
        limit = self._page_size
        name = ask.field.name.value
        asked = [value for key in ("first", "last") if (value := _argument(ask, key, variables)) is not None]
        if len(asked) != 1:
            how = "`first` or `last`" if ask.takes_last else "`first`"
            message = f"`{name}` requires {how}, from 1 to {limit}" + (", not both." if asked else ".")
            raise CodedError(message, "BAD_PAGINATION", nodes=ask.field, field=name, limit=limit)
        size = _whole(asked[0])
        if not 1 <= size <= limit:
            message = f"`{name}` returns 1 to {limit} items at a time; {size} requested."
            details = {"field": name, "limit": limit, "requested": size}
            raise CodedError(message, "BAD_PAGINATION", nodes=ask.field, **details)
        return size

    def _ids(self, ask: Ask, variables: dict[str, Any]) -> int:
        ids = _argument(ask, "ids", variables)
        count = len(ids) if isinstance(ids, list) else 1
        if count > self._node_ids:
            name = ask.field.name.value
            message = f"`{name}` accepts at most {self._node_ids} ids at a time; {count} sent."
            details = {"field": name, "limit": self._node_ids, "requested": count}
            raise CodedError(message, "TOO_MANY_IDS", nodes=ask.field, **details)
        return count


def _argument(ask: Ask, name: str, variables: dict[str, Any]) -> Any:
    argument = ask.arguments.get(name)
    value = value_from_ast_untyped(argument.value, variables) if argument else None
    return None if value is Undefined else value


def _whole(value: Any) -> int:
    """The value of a JSON number as GraphQL's Int, for which 50 and 50.0 are the same.

    Anything else counts as 1; the coercion of variables reports that it is not an Int.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, float) and value.is_integer() else 1
