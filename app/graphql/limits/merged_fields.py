"""The fields of selection sets as they are executed: with fragments expanded and equal fields merged."""

from collections.abc import Iterator

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLNamedType,
    GraphQLSchema,
    InlineFragmentNode,
    SelectionSetNode,
)


class FieldMerger:
    """Merges the fields of one valid document."""

    def __init__(self, schema: GraphQLSchema, document: DocumentNode) -> None:
        self._schema = schema
        self._fragments = fragments_of(document)

    def merged(
        self, parent: GraphQLNamedType, selection_sets: list[SelectionSetNode]
    ) -> Iterator[tuple[GraphQLNamedType, list[FieldNode]]]:
        """Merge the fields that have the same response name (GraphQL specification, section 6.3.2).

        Yields each merged field with the type that it belongs to.
        """
        merged: dict[tuple[str, str], tuple[GraphQLNamedType, list[FieldNode]]] = {}
        spread: set[str] = set()
        waiting = [(parent, selection_set) for selection_set in selection_sets]
        while waiting:
            owner, selection_set = waiting.pop()
            for selection in selection_set.selections:
                match selection:
                    case FieldNode():
                        name = (selection.alias or selection.name).value
                        merged.setdefault((owner.name, name), (owner, []))[1].append(selection)
                    case InlineFragmentNode():
                        waiting.append((self._condition(selection, owner), selection.selection_set))
                    case FragmentSpreadNode() if selection.name.value not in spread:
                        spread.add(selection.name.value)
                        fragment = self._fragments[selection.name.value]
                        waiting.append((self._condition(fragment, owner), fragment.selection_set))
        yield from merged.values()

    def _condition(
        self, fragment: InlineFragmentNode | FragmentDefinitionNode, owner: GraphQLNamedType
    ) -> GraphQLNamedType:
        if fragment.type_condition is None:
            return owner
        return self._schema.type_map[fragment.type_condition.name.value]


def fragments_of(document: DocumentNode) -> dict[str, FragmentDefinitionNode]:
    """The fragments that a document defines, by name."""
    return {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
