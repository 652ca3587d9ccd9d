"""Relay's Node, and how rows become nodes."""

from collections.abc import Callable
from typing import Any, TypeVar

import strawberry

Made = TypeVar("Made", bound="Node")

_MAKERS: dict[type, Callable[[Any], Any]] = {}


@strawberry.interface(description="An object with a global id, by which `node` and `nodes` read it.")
class Node:
    id: strawberry.ID = strawberry.field(description="Opaque, globally unique id.")


def made_of(row_type: type) -> Callable[[type[Made]], type[Made]]:
    """Says of a node's type that its `of` makes it of rows of a table.

    Types of nodes refer to one another in circles, as GraphQL's do: where a module can't import another one, it gets
    its nodes by `node_of`.
    """

    def note(node_type: type[Made]) -> type[Made]:
        _MAKERS[row_type] = node_type.of  # type: ignore[attr-defined]
        return node_type

    return note


def node_of(row: Any) -> Any:
    """The node of a row."""
    return _MAKERS[type(row)](row)
