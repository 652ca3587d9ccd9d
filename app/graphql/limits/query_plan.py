"""Plans what an operation requests: a tree of the fields that lead to nodes. Knows the schema, not the variables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from graphql import (
    ArgumentNode,
    DocumentNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
    get_named_type,
    get_nullable_type,
    is_composite_type,
    is_list_type,
)

from app.graphql.limits.introspection import READS, IntrospectionMeter
from app.graphql.limits.merged_fields import FieldMerger, fragments_of
from app.graphql.masking import CodedError


class Sizing(Enum):
    """What determines how many objects a field returns."""

    PAGE = "its arguments first and last"
    IDS = "its argument ids, a list"
    KIB = "its argument lastKib"
    FIXED = "the schema"


@dataclass(frozen=True, slots=True)
class Ask:
    """A field that requests nodes, itself or in its subfields. `counted` means that the field itself returns nodes.

    A KiB of text counts as a node. `fixed_size` is the number where no argument states it. `introspected` is the cost
    of its introspection, in nodes.
    """

    field: FieldNode
    sizing: Sizing
    fixed_size: int
    counted: bool
    takes_last: bool
    below: tuple["Ask", ...]
    introspected: int = 0

    @property
    def arguments(self) -> Mapping[str, ArgumentNode]:
        return {argument.name.value: argument for argument in self.field.arguments or ()}


class Planner:
    """Creates the tree for one operation of a valid document, whose fields `merger` merges.

    A list without a stated size counts as `unsized_list`. Raises CodedError above `most_fields` fields, as fragments
    can multiply a short text, and if `meter` finds too much introspection.
    """

    def __init__(
        self,
        schema: GraphQLSchema,
        merger: FieldMerger,
        meter: IntrospectionMeter,
        *,
        unsized_list: int,
        most_fields: int,
    ) -> None:
        self._schema = schema
        self._merger = merger
        self._meter = meter
        self._unsized_list = unsized_list
        self._most_fields = most_fields
        self._fields = 0

    def plan(self, operation: OperationDefinitionNode) -> tuple[Ask, ...]:
        root = self._schema.get_root_type(operation.operation)
        return self._asks(root, [operation.selection_set]) if root else ()

    def _asks(self, parent: GraphQLNamedType, selection_sets: list[SelectionSetNode]) -> tuple[Ask, ...]:
        asks = (self._ask(owner, nodes) for owner, nodes in self._merger.merged(parent, selection_sets))
        return tuple(ask for ask in asks if ask is not None)

    def _ask(self, owner: GraphQLNamedType, nodes: Sequence[FieldNode]) -> Ask | None:
        field = nodes[0]
        if field.name.value in READS:
            return Ask(field, Sizing.FIXED, 1, False, False, (), introspected=self._meter.read(nodes))
        if field.name.value.startswith("__") or not isinstance(owner, GraphQLObjectType | GraphQLInterfaceType):
            return None
        definition = owner.fields[field.name.value]
        given = get_named_type(definition.type)
        if not is_composite_type(given):
            return None
        self._count_field()
        below = self._asks(given, [node.selection_set for node in nodes if node.selection_set])
        sizing, size = self._sizing(owner, definition, given)
        counted = sizing in (Sizing.PAGE, Sizing.KIB) or (_is_node(given) and not _is_part_of_connection(owner))
        if sizing is Sizing.FIXED and not counted and not below:
            return None
        return Ask(field, sizing, size, counted, "last" in definition.args, below)

    def _sizing(self, owner: GraphQLNamedType, definition: GraphQLField, given: GraphQLNamedType) -> tuple[Sizing, int]:
        if given.name.endswith("Connection") and "first" in definition.args:
            return Sizing.PAGE, 0
        if (kib := definition.args.get("lastKib")) is not None:
            return Sizing.KIB, kib.default_value
        if not is_list_type(get_nullable_type(definition.type)) or _is_part_of_connection(owner):
            return Sizing.FIXED, 1
        if "ids" in definition.args:
            return Sizing.IDS, 0
        return Sizing.FIXED, self._unsized_list

    def _count_field(self) -> None:
        self._fields += 1
        if self._fields > self._most_fields:
            message = f"The query selects more than {self._most_fields} fields that have subfields."
            raise CodedError(message, "QUERY_TOO_EXPENSIVE", limit=self._most_fields, requested=self._fields)


def _is_part_of_connection(owner: GraphQLNamedType) -> bool:
    return owner.name.endswith(("Connection", "Edge"))


def _is_node(given: GraphQLNamedType) -> bool:
    if given.name == "Node":
        return True
    implements = given.interfaces if isinstance(given, GraphQLObjectType | GraphQLInterfaceType) else ()
    return any(interface.name == "Node" for interface in implements)


def root_fields(document: DocumentNode, operation: OperationDefinitionNode) -> set[str]:
    """The names of the root fields of an operation, including those in fragments."""
    fragments = fragments_of(document)
    names: set[str] = set()
    spread: set[str] = set()
    waiting = [operation.selection_set]
    while waiting:
        for selection in waiting.pop().selections:
            match selection:
                case FieldNode():
                    names.add(selection.name.value)
                case InlineFragmentNode():
                    waiting.append(selection.selection_set)
                case FragmentSpreadNode() if selection.name.value not in spread:
                    spread.add(selection.name.value)
                    if fragment := fragments.get(selection.name.value):
                        waiting.append(fragment.selection_set)
    return names
