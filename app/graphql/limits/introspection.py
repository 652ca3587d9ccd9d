"""Calculates the cost of introspection, and caches its answers.

An answer depends only on the document, its variables and the schema, so its size is known before it is executed.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from graphql import (
    ExecutionResult,
    FieldNode,
    GraphQLNamedType,
    GraphQLSchema,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    get_introspection_query,
    get_named_type,
    is_abstract_type,
    is_enum_type,
    is_input_object_type,
    parse,
)

from app.graphql.json_values import encode
from app.graphql.limits.merged_fields import FieldMerger
from app.graphql.masking import CodedError

READS = frozenset({"__schema", "__type"})

# An introspected field is a name or a flag. A node has about ten fields and is read from a database.
_FIELDS_PER_NODE = 10
# Tools send the standard query, with few additions.
_ROOM = 1.5
_ANSWERS = 16
_KEY_CHARACTERS = 8 * 1024

# Elements of a schema by their id(), since not all can be hashed, and how often each occurs in an answer.
_Population = dict[int, tuple[Any, int]]


class Introspection:
    """Calculates the cost of introspecting one schema.

    An operation may read at most 1.5 times the fields that the standard query reads with all its options.
    """

    def __init__(self, schema: GraphQLSchema) -> None:
        self._schema = schema
        document = parse(get_introspection_query(True, True, True, True, True, True))
        [operation] = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
        [read] = [node for node in operation.selection_set.selections if isinstance(node, FieldNode)]
        standard = _Counter(schema, FieldMerger(schema, document), None).count_read([read])
        self.most_fields = int(standard * _ROOM)

    def meter(self, merger: FieldMerger, *, schema_reads: int, type_reads: int) -> "IntrospectionMeter":
        """A meter for one operation, with the number of times that it may read `__schema` and `__type`."""
        counter = _Counter(self._schema, merger, self.most_fields)
        return IntrospectionMeter(counter, {"__schema": schema_reads, "__type": type_reads})


class IntrospectionMeter:
    """Adds up the introspection of one operation."""

    def __init__(self, counter: "_Counter", most: dict[str, int]) -> None:
        self._counter = counter
        self._most = most
        self._reads = dict.fromkeys(most, 0)

    def read(self, nodes: Sequence[FieldNode]) -> int:
        """Count one `__schema` or `__type`, merged from `nodes`. Returns its cost in nodes, of ten fields each.

        Raises CodedError if the operation introspects too much.
        """
        name = nodes[0].name.value
        self._reads[name] += 1
        limit = self._most[name]
        if self._reads[name] > limit:
            times = "once" if limit == 1 else f"{limit} times"
            raise CodedError(
                f"An operation may select `{name}` at most {times}.",
                "TOO_MUCH_INTROSPECTION",
                limit=limit,
                hint="Select everything in one field, or send several requests.",
            )
        return -(-self._counter.count_read(nodes) // _FIELDS_PER_NODE)


class _Counter:
    """Counts the fields of answers to introspection, including deprecated ones, up to a total of `most`."""

    def __init__(self, schema: GraphQLSchema, merger: FieldMerger, most: int | None) -> None:
        self._schema = schema
        self._merger = merger
        self._most = most
        self._counted = 0

    def count_read(self, nodes: Sequence[FieldNode]) -> int:
        """The number of fields of one `__schema` or `__type`. Raises CodedError above the limit."""
        selected = [node.selection_set for node in nodes if node.selection_set]
        before = self._counted
        if nodes[0].name.value == "__schema":
            self._count("__Schema", selected, _population([(self._schema, 1)]))
        else:
            self._count("__Type", selected, _population((named, 1) for named in self._types_read(nodes[0])))
        return self._counted - before

    def _types_read(self, node: FieldNode) -> Iterable[GraphQLNamedType | None]:
        for argument in node.arguments or ():
            if isinstance(argument.value, StringValueNode):
                return [self._schema.type_map.get(argument.value.value)]
        # A variable may contain any name: count all types, which takes no longer than one.
        return self._schema.type_map.values()

    def _count(self, owner: str, selected: list[SelectionSetNode], things: _Population) -> None:
        times = sum(count for _, count in things.values())
        if not times:
            return
        described = self._schema.type_map[owner]
        for _, nodes in self._merger.merged(described, selected):
            self._add(times)
            below = [node.selection_set for node in nodes if node.selection_set]
            if below:
                name = nodes[0].name.value
                kind = get_named_type(described.fields[name].type).name  # type: ignore[attr-defined]
                self._count(kind, below, self._reached(name, things))

    def _add(self, fields: int) -> None:
        self._counted += fields
        if self._most is not None and self._counted > self._most:
            raise CodedError(
                f"The operation selects more than {self._most:,} fields of the schema.",
                "TOO_MUCH_INTROSPECTION",
                limit=self._most,
                hint="Send the standard introspection query, or select fewer fields.",
            )

    def _reached(self, name: str, things: _Population) -> _Population:
        step = _STEPS.get(name, _nothing)
        return _population((child, times) for thing, times in things.values() for child in step(self._schema, thing))


def _population(things: Iterable[tuple[Any, int]]) -> _Population:
    found: _Population = {}
    for thing, times in things:
        if thing is not None:
            found[id(thing)] = (thing, times + found.get(id(thing), (thing, 0))[1])
    return found


def _nothing(_schema: GraphQLSchema, _thing: Any) -> Iterable[Any]:
    return ()


def _fields(_schema: GraphQLSchema, thing: Any) -> Iterable[Any]:
    return () if is_input_object_type(thing) else getattr(thing, "fields", {}).values()


def _input_fields(_schema: GraphQLSchema, thing: Any) -> Iterable[Any]:
    return getattr(thing, "fields", {}).values() if is_input_object_type(thing) else ()


# The elements that each composite field of introspection returns (GraphQL specification, section 4.2).
_STEPS: dict[str, Callable[[GraphQLSchema, Any], Iterable[Any]]] = {
    "types": lambda schema, _: schema.type_map.values(),
    "queryType": lambda schema, _: [schema.query_type],
    "mutationType": lambda schema, _: [schema.mutation_type],
    "subscriptionType": lambda schema, _: [schema.subscription_type],
    "directives": lambda schema, _: schema.directives,
    "fields": _fields,
    "inputFields": _input_fields,
    "interfaces": lambda _, thing: getattr(thing, "interfaces", ()),
    "possibleTypes": lambda schema, thing: schema.get_possible_types(thing) if is_abstract_type(thing) else (),
    "enumValues": lambda _, thing: thing.values.values() if is_enum_type(thing) else (),
    "ofType": lambda _, thing: [getattr(thing, "of_type", None)],
    "args": lambda _, thing: thing.args.values(),
    "type": lambda _, thing: [thing.type],
}


class IntrospectionAnswers:
    """Caches answers to operations that only introspect; the schema does not change while a process runs."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], ExecutionResult] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: tuple[str, ...]) -> ExecutionResult | None:
        """The cached answer, or None."""
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, key: tuple[str, ...], answer: ExecutionResult) -> None:
        """Cache an answer, unless its key is long or it has errors."""
        if answer.errors or sum(map(len, key)) > _KEY_CHARACTERS:
            return
        self._kept[key] = answer
        if len(self._kept) > _ANSWERS:
            self._kept.popitem(last=False)


def answer_key(query: str, operation: OperationDefinitionNode, variables: dict[str, Any] | None) -> tuple[str, ...]:
    """The cache key of an answer: the document, the operation, and the values of the variables that it declares."""
    declared = {definition.variable.name.value for definition in operation.variable_definitions or ()}
    given = {name: value for name, value in (variables or {}).items() if name in declared}
    return query, operation.name.value if operation.name else "", encode(sorted(given.items()))
