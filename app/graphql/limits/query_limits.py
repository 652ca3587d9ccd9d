"""How large a document may be and what it may ask for, checked before anything is run.

In this order, cheapest first: tokens and nesting while it is parsed; depth, aliases and repeated fields;
which operation is meant; whether an anonymous caller may ask that; validation; introspection; pages, ids and cost
with the variables. What depends on the text alone is found out once and kept with the parsed document.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    GraphQLSyntaxError,
    OperationDefinitionNode,
    parse,
)
from strawberry.schema.schema import validate_document

from app.graphql.limits.document_shape import DocumentShape
from app.graphql.limits.introspection import Introspection
from app.graphql.limits.merged_fields import FieldMerger
from app.graphql.limits.query_cost import CostPlan
from app.graphql.limits.query_plan import Planner, root_fields
from app.graphql.masking import CodedError

KIB = 1024
INTROSPECTION = frozenset({"__schema", "__type", "__typename"})


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """How much one caller may ask for at a time. Sizes are bytes.

    `cost` is the number of nodes asked for, multiplied down nested connections; a list whose size nobody
    states counts as `unsized_list`. `repeats` is how often one field name may occur in a document: validation
    compares such fields in pairs. Documents longer than `cached_document_bytes` are parsed and validated each
    time. `variable_items` are elements of lists and fields of objects in variables, `json_values` all that a
    request holds. An anonymous caller sends no more than `anonymous_body_bytes`.
    """

    depth: int = 12
    aliases: int = 30
    repeats: int = 100
    tokens: int = 2_000
    cost: int = 10_000
    page_size: int = 100
    node_ids: int = 100
    unsized_list: int = 10
    subscriptions_per_connection: int = 100
    schema_reads: int = 1
    type_reads: int = 10
    variable_items: int = 1_000
    variable_depth: int = 12
    json_values: int = 10_000
    body_bytes: int = 1024 * KIB
    anonymous_body_bytes: int = 64 * KIB
    document_bytes: int = 64 * KIB
    # Parsed, a document takes some two hundred times the room of its text.
    cached_documents: int = 128
    cached_document_bytes: int = 4 * KIB


class CheckedOperation:
    """One operation of a document, and what it asks for."""

    def __init__(self, document: "CheckedDocument", node: OperationDefinitionNode) -> None:
        self.node = node
        self._document = document

    @cached_property
    def introspects_only(self) -> bool:
        """Whether it asks for nothing but the schema."""
        return root_fields(self._document.node, self.node) <= INTROSPECTION

    @cached_property
    def cost_plan(self) -> CostPlan:
        """What the operation costs once its variables are known. Only for documents that are valid."""
        limits = self._document.limits
        merger = FieldMerger(self._document.schema, self._document.node)
        introspection = _introspection_of(self._document.schema)
        planner = Planner(
            self._document.schema,
            merger,
            introspection.meter(merger, schema_reads=limits.schema_reads, type_reads=limits.type_reads),
            unsized_list=limits.unsized_list,
            most_fields=limits.cost,
        )
        asks = planner.plan(self.node)
        return CostPlan(self.node, asks, page_size=limits.page_size, node_ids=limits.node_ids)


class CheckedDocument:
    """A parsed document within the limits of its text, with what has been found out about it."""

    def __init__(self, schema: GraphQLSchema, node: DocumentNode, limits: QueryLimits) -> None:
        self.schema = schema
        self.node = node
        self.limits = limits
        self._validation: tuple[object, list[GraphQLError]] | None = None
        self._operations = [
            CheckedOperation(self, definition)
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        ]

    def operation(self, name: str | None) -> CheckedOperation | None:
        """The operation of that name, or without a name the only one. None when there is no such.

        Raises CodedError when there are several and no name.
        """
        if name is None and len(self._operations) > 1:
            raise CodedError(
                "The document holds several operations: say by `operationName` which one to run.",
                "OPERATION_NAME_REQUIRED",
            )
        for operation in self._operations:
            if name is None or (operation.node.name and operation.node.name.value == name):
                return operation
        return None

    def validation_errors(self, rules: tuple[type[Any], ...]) -> list[GraphQLError]:
        """What validation says; asked again with the same rules, it answers from memory."""
        if self._validation is None or self._validation[0] != rules:
            errors = validate_document(self.schema, self.node, rules)
            for error in errors:
                error.extensions = {"code": "GRAPHQL_VALIDATION_FAILED", **(error.extensions or {})}
            self._validation = (rules, errors)
        return self._validation[1]


@lru_cache(maxsize=8)
def _introspection_of(schema: GraphQLSchema) -> Introspection:
    return Introspection(schema)


ReadDocument = Callable[[GraphQLSchema, str], CheckedDocument]


def document_reader(limits: QueryLimits) -> ReadDocument:
    """Reads documents within `limits`, and remembers short ones. What it returns raises CodedError."""

    def read(schema: GraphQLSchema, query: str) -> CheckedDocument:
        document = _parse(query, limits)
        _check_shape(document, limits)
        return CheckedDocument(schema, document, limits)

    remembered = lru_cache(maxsize=limits.cached_documents)(read)

    def read_or_remember(schema: GraphQLSchema, query: str) -> CheckedDocument:
        return (remembered if len(query) <= limits.cached_document_bytes else read)(schema, query)

    return read_or_remember


def _parse(query: str, limits: QueryLimits) -> DocumentNode:
    try:
        return parse(query, max_tokens=limits.tokens)
    except GraphQLSyntaxError as error:
        # graphql-core tells its limits from other mistakes by their text only.
        if f"more than {limits.tokens} tokens" in error.message:
            message = f"The document has more than {limits.tokens} tokens."
            raise CodedError(message, "TOO_MANY_TOKENS", limit=limits.tokens) from error
        if "nested too deeply" in error.message:
            message = f"The document is nested too deeply to be read; {limits.depth} fields are allowed."
            raise CodedError(message, "QUERY_TOO_DEEP", limit=limits.depth) from error
        raise


def _check_shape(document: DocumentNode, limits: QueryLimits) -> None:
    shape = DocumentShape(document)
    for code, what, limit, requested in (
        ("QUERY_TOO_DEEP", "fields deep", limits.depth, shape.depth),
        ("TOO_MANY_ALIASES", "aliases long", limits.aliases, shape.aliases),
        ("TOO_MANY_REPEATED_FIELDS", "fields of one name long", limits.repeats, shape.repeats),
    ):
        if requested > limit:
            message = f"The document is {requested} {what}; {limit} are allowed."
            raise CodedError(message, code, limit=limit, requested=requested)
