"""Limits on documents, checked before an operation runs.

The order is cheapest first: tokens and nesting, during parsing; depth, aliases and repeated fields; which operation to
run; whether an anonymous caller may run it; validation; introspection; pages, ids and cost, with the variables.
Results that depend on the text alone are calculated once and cached with the parsed document.
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
from app.sizes import KIB, MIB

INTROSPECTION = frozenset({"__schema", "__type", "__typename"})


@dataclass(frozen=True, slots=True)
class QueryLimits:
    """Limits on one request. Sizes are in bytes.

    `cost` is the number of requested nodes, multiplied down nested connections; a list without a stated size counts
    as `unsized_list`. `repeats` is how often a field name may occur in a document: validation compares fields of one
    name in pairs. Documents longer than `cached_document_bytes` are parsed and validated each time. `variable_items`
    counts list elements and object fields in variables, `json_values` all JSON values in a request. The body of an
    anonymous request may have at most `anonymous_body_bytes`.
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
    body_bytes: int = MIB
    anonymous_body_bytes: int = 64 * KIB
    document_bytes: int = 64 * KIB
    # A parsed document takes about two hundred times the memory of its text.
    cached_documents: int = 128
    cached_document_bytes: int = 4 * KIB


class CheckedOperation:
    """One operation of a document, and what it requests."""

    def __init__(self, document: "CheckedDocument", node: OperationDefinitionNode) -> None:
        self.node = node
        self._document = document

    @cached_property
    def introspects_only(self) -> bool:
        """Whether it only reads the schema."""
        return root_fields(self._document.node, self.node) <= INTROSPECTION

    @cached_property
    def cost_plan(self) -> CostPlan:
        """Calculates the cost of the operation for given variables. Requires a valid document."""
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
    """A parsed document that is within the limits on its text, with cached results about it."""

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
        """The operation with this name, or without a name the only one; None if there is none.

        Raises CodedError if there are several and no name.
        """
        if name is None and len(self._operations) > 1:
            raise CodedError(
                "The document contains several operations: set `operationName` to the one to run.",
                "OPERATION_NAME_REQUIRED",
            )
        for operation in self._operations:
            if name is None or (operation.node.name and operation.node.name.value == name):
                return operation
        return None

    def validation_errors(self, rules: tuple[type[Any], ...]) -> list[GraphQLError]:
        """The errors that validation finds, cached for the last set of rules."""
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
    """A function that parses and checks documents, and caches short ones. It raises CodedError above `limits`."""

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
        # graphql-core distinguishes its limits from other errors only by the text.
        if f"more than {limits.tokens} tokens" in error.message:
            message = f"The document has more than {limits.tokens} tokens."
            raise CodedError(message, "TOO_MANY_TOKENS", limit=limits.tokens) from error
        if "nested too deeply" in error.message:
            message = (
                f"The document is nested too deeply to be parsed; at most {limits.depth} levels of fields are allowed."
            )
            raise CodedError(message, "QUERY_TOO_DEEP", limit=limits.depth) from error
        raise


def _check_shape(document: DocumentNode, limits: QueryLimits) -> None:
    shape = DocumentShape(document)
    for code, what, limit, requested in (
        ("QUERY_TOO_DEEP", "levels of fields", limits.depth, shape.depth),
        ("TOO_MANY_ALIASES", "aliases in one operation", limits.aliases, shape.aliases),
        ("TOO_MANY_REPEATED_FIELDS", "fields of one name", limits.repeats, shape.repeats),
    ):
        if requested > limit:
            message = f"The document has {requested} {what}; at most {limit} are allowed."
            raise CodedError(message, code, limit=limit, requested=requested)
