"""Relay's Node interface, and the conversion of rows to nodes."""

from collections.abc import Callable
from typing import Any, TypeVar

import strawberry

Made = TypeVar("Made")

_MAKERS: dict[type, Callable[[Any], Any]] = {}


@strawberry.interface(description="An object with a global id, by which `node` and `nodes` read it.")
class Node:
    id: strawberry.ID = strawberry.field(description="Opaque, globally unique id.")


def made_of(row_type: type) -> Callable[[type[Made]], type[Made]]:
    """Register a type, mostly of nodes: its `of` converts the rows of a table.

    These types refer to each other in cycles, as GraphQL types do. A module that can't import another one's type uses
    `node_of` instead.
    """

    def note(node_type: type[Made]) -> type[Made]:
        _MAKERS[row_type] = node_type.of  # type: ignore[attr-defined]
        return node_type

    return note


def node_of(row: Any) -> Any:
    """The node of a row."""
    return _MAKERS[type(row)](row)
