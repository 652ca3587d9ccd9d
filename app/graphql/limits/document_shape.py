"""Measures how deep and wide a document is, by its syntax tree alone, so that it can run before validation."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

# graphql-core has its own rule for introspection, and the standard introspection query is deeper than any other.
_INTROSPECTION_ROOTS = frozenset({"__schema", "__type"})


@dataclass(frozen=True, slots=True)
class _Size:
    depth: int = 0
    aliases: int = 0


class DocumentShape:
    """Depth, aliases and repetitions of a document.

    depth: maximum number of fields on a path from an operation to a leaf, including the leaf, without introspection.
    aliases: maximum number of aliases in one operation; those in a fragment count each time that it is spread.
    repeats: number of occurrences of the most frequent field name in the document.
    """

    def __init__(self, document: DocumentNode) -> None:
        self._operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        self._fragments = {
            node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)
        }
        self._measured: dict[str, _Size] = {}

    @property
    def depth(self) -> int:
        return max((size.depth for size in self._sizes), default=0)

    @property
    def aliases(self) -> int:
        return max((size.aliases for size in self._sizes), default=0)

    @property
    def repeats(self) -> int:
        names: Counter[str] = Counter()
        for node in (*self._operations, *self._fragments.values()):
            _count_names(node.selection_set, names)
        return max(names.values(), default=0)

    @cached_property
    def _sizes(self) -> list[_Size]:
        return [self._size(operation.selection_set) for operation in self._operations]

    def _size(self, selection_set: SelectionSetNode | None) -> _Size:
        depth = aliases = 0
        for selection in selection_set.selections if selection_set else ():
            if isinstance(selection, FieldNode):
                size = self._field_size(selection)
            elif isinstance(selection, FragmentSpreadNode):
                size = self._fragment_size(selection.name.value)
            elif isinstance(selection, InlineFragmentNode):
                size = self._size(selection.selection_set)
            depth = max(depth, size.depth)
            aliases += size.aliases
        return _Size(depth, aliases)

    def _field_size(self, field: FieldNode) -> _Size:
        own_alias = 1 if field.alias else 0
        below = self._size(field.selection_set)
        if field.name.value in _INTROSPECTION_ROOTS:
            return _Size(1, own_alias + below.aliases)
        return _Size(1 + below.depth, own_alias + below.aliases)

    def _fragment_size(self, name: str) -> _Size:
        if name not in self._measured:
            # Ends cycles. Validation rejects them later, and unknown fragments, too.
            self._measured[name] = _Size()
            fragment = self._fragments.get(name)
            self._measured[name] = self._size(fragment.selection_set if fragment else None)
        return self._measured[name]


def _count_names(selection_set: SelectionSetNode | None, names: Counter[str]) -> None:
    for selection in selection_set.selections if selection_set else ():
        if isinstance(selection, FieldNode):
            names[selection.name.value] += 1
        if isinstance(selection, FieldNode | InlineFragmentNode):
            _count_names(selection.selection_set, names)
