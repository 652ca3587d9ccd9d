"""Limits on one operation, and the errors above them."""

import asyncio
from typing import Any

import pytest
from strawberry.types.graphql import OperationType

from app.graphql.limits import query_limits as limits_module
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.masking import GatewaySchema
from app.graphql.transport.execution import Answer, OperationRequest, answer_once, answers
from app.viewer import ANONYMOUS, Viewer
from tests.support.toy_schema import CALLERS, Hub, ToyContext, toy_schema

SCHEMA = toy_schema()


def ask(
    document: str,
    variables: dict[str, Any] | None = None,
    *,
    schema: GatewaySchema = SCHEMA,
    caller: Viewer = CALLERS["good"],
    operation_name: str | None = None,
) -> Answer:
    context = ToyContext(Hub(), None, caller, "id")  # type: ignore[arg-type]  # no resolver asks for it
    request = OperationRequest(document, variables, operation_name)
    return asyncio.run(answer_once(schema, request, context, set(OperationType)))


def refused(document: str, variables: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    """Asserts that the operation was not run. Returns the code and details of the only error."""
    answer = ask(document, variables, **options)
    assert not answer.executed
    [error] = answer.body["errors"]
    details: dict[str, Any] = error["extensions"]
    assert details.pop("correlationId") == "id"
    return details


def cost(document: str, variables: dict[str, Any] | None = None, **options: Any) -> int:
    answer = ask(document, variables, **options)
    assert answer.executed, answer.body
    assert answer.body["extensions"]["cost"]["limit"] == 10_000
    requested: int = answer.body["extensions"]["cost"]["requested"]
    return requested


def nested(levels: int) -> str:
    """A query of `levels` fields from the root to its leaf."""
    return "{ book(id: 1) {" + " prequel {" * (levels - 2) + " id " + "}" * (levels - 2) + "} }"


def test_depth_is_counted_from_the_root_to_the_leaf() -> None:
    assert ask(nested(12)).executed
    assert refused(nested(13)) == {"code": "QUERY_TOO_DEEP", "limit": 12, "requested": 13}


def test_depth_is_counted_through_fragments() -> None:
    fragments = "fragment A on Book { prequel { ...B } } fragment B on Book { prequel { ... on Book { id } } }"
    limits = QueryLimits(depth=4)
    assert ask("{ book(id: 1) { ...A } }" + fragments, schema=toy_schema(limits)).executed
    too_deep = refused("{ book(id: 1) { prequel { ...A } } }" + fragments, schema=toy_schema(limits))
    assert too_deep == {"code": "QUERY_TOO_DEEP", "limit": 4, "requested": 5}


def test_a_document_nested_too_deeply_to_be_parsed_is_too_deep() -> None:
    assert refused("{ book " * 300 + "}" * 300) == {"code": "QUERY_TOO_DEEP", "limit": 12}


def test_aliases_are_counted_wherever_a_fragment_is_spread() -> None:
    assert ask("{" + " ".join(f"a{n}: hello" for n in range(30)) + "}").executed
    document = "{" + " ".join(f"a{n}: hello" for n in range(31)) + "}"
    assert refused(document) == {"code": "TOO_MANY_ALIASES", "limit": 30, "requested": 31}
    spread = "{ " + "".join(f"a{n}: book(id: 1) {{ ...T }} " for n in range(8)) + "}"
    fragment = "fragment T on Book { x: id y: id z: id }"
    assert refused(spread + fragment) == {"code": "TOO_MANY_ALIASES", "limit": 30, "requested": 32}


def test_fragments_that_multiply_do_not_multiply_the_work() -> None:
    doubled = "fragment F%d on Book { a: prequel { ...F%d } b: prequel { ...F%d } } "
    doubling = "".join(doubled % (n, n + 1, n + 1) for n in range(60))
    document = "{ book(id: 1) { ...F0 } }" + doubling + "fragment F60 on Book { id }"
    assert refused(document)["code"] in ("QUERY_TOO_DEEP", "TOO_MANY_ALIASES")


def test_a_fragment_that_is_spread_twice_counts_once() -> None:
    twice = "".join(f"fragment F{n} on Book {{ ...F{n + 1} ...F{n + 1} }} " for n in range(60))
    assert cost("{ book(id: 1) { ...F0 } }" + twice + "fragment F60 on Book { prequel { id } }") == 2


def test_one_field_can_not_be_repeated_without_end() -> None:
    assert ask("{" + "hello " * 100 + "}").executed
    assert refused("{" + "hello " * 101 + "}") == {
        "code": "TOO_MANY_REPEATED_FIELDS",
        "limit": 100,
        "requested": 101,
    }


def test_tokens_are_limited() -> None:
    limited = toy_schema(QueryLimits(tokens=5))
    assert ask("{ hello }", schema=limited).executed
    assert refused("{ hello times who hello }", schema=limited) == {"code": "TOO_MANY_TOKENS", "limit": 5}
    assert refused("{" + "#\n" * 2000 + "hello }") == {"code": "TOO_MANY_TOKENS", "limit": 2000}


@pytest.mark.parametrize(
    ("document", "variables", "expected"),
    [
        ("{ hello }", None, 0),
        ("{ book(id: 1) { id } }", None, 1),
        ("{ books(first: 50) { nodes { id } } }", None, 50),
        ("{ books(last: 7) { edges { node { id } } } }", None, 7),
        ("query ($n: Int!) { books(first: $n) { nodes { id } } }", {"n": 40}, 40),
        ("query ($n: Int!) { books(first: $n) { nodes { id } } }", {"n": 40.0}, 40),
        ("query ($n: Int = 30) { books(first: $n) { nodes { id } } }", None, 30),
        ("query ($n: Int = 30) { books(first: $n) { nodes { id } } }", {"n": 20}, 20),
        ("query ($f: Int, $l: Int) { books(first: $f, last: $l) { nodes { id } } }", {"l": 9}, 9),
        ("{ books(first: 10) { nodes { prequel { id } } } }", None, 10 + 10),
        ("{ books(first: 10) { nodes { sequels(first: 5) { nodes { id } } } } }", None, 10 + 10 * 5),
        ("{ books(first: 10) { edges { node { sequels(last: 5) { edges { node { prequel { id } } } } } } } }",
         None, 10 + 10 * (5 + 5)),
        ("{ a: books(first: 10) { nodes { id } } b: books(first: 20) { nodes { id } } }", None, 30),
        ("{ books(first: 10) { nodes { id } } books(first: 10) { nodes { title } } }", None, 10),
        ("{ ...A ...B } fragment A on Query { books(first: 10) { nodes { id } } } "
         "fragment B on Query { books(first: 10) { nodes { prequel { id } } } }", None, 10 + 10),
        ("{ nodes(ids: [1, 2, 3]) { id } }", None, 3),
        ("query ($ids: [ID!]!) { nodes(ids: $ids) { ... on Book { prequel { id } } } }", {"ids": ["1", "2"]}, 4),
        ("query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": "1"}, 1),
        ("query ($id: ID!) { nodes(ids: [$id, $id]) { id } }", {"id": "1"}, 2),
        ("{ shelves { books(first: 3) { nodes { id } } } }", None, 10 + 10 * 3),
        ("{ __schema { queryType { name } } __typename }", None, 1),
    ],
)  # fmt: skip
def test_cost_is_the_nodes_asked_for(document: str, variables: dict[str, Any] | None, expected: int) -> None:
    assert cost(document, variables) == expected


def test_what_costs_too_much_is_not_run() -> None:
    document = "query ($n: Int!) { books(first: 100) { nodes { sequels(first: $n) { nodes { id } } } } }"
    assert cost(document, {"n": 99}) == 10_000
    too_much = ask(document, {"n": 100})
    assert not too_much.executed
    assert too_much.body["errors"][0]["extensions"]["code"] == "QUERY_TOO_EXPENSIVE"
    assert too_much.body["errors"][0]["extensions"]["requested"] == 10_100
    assert too_much.body["extensions"]["cost"] == {"requested": 10_100, "limit": 10_000}


def test_a_short_text_of_many_fields_costs_too_much() -> None:
    prequels = "prequel { sequels(first: 1) { nodes { ...F%d } edges { node { ...F%d } } } }"
    fragments = "".join(f"fragment F{n} on Book {{ {prequels % (n + 1, n + 1)} }} " for n in range(3))
    document = "{ book(id: 1) { ...F0 } }" + fragments + "fragment F3 on Book { id }"
    limited = toy_schema(QueryLimits(cost=30, depth=100))
    assert refused(document, schema=limited) == {
        "code": "QUERY_TOO_EXPENSIVE",
        "limit": 30,
        "requested": 31,
    }


BAD_PAGES = [
    ("{ books { nodes { id } } }", None, None),
    ("{ books(first: null) { nodes { id } } }", None, None),
    ("query ($n: Int) { books(first: $n) { nodes { id } } }", None, None),
    ("query ($n: Int) { books(first: $n) { nodes { id } } }", {"n": None}, None),
    ("{ books(first: 1, last: 1) { nodes { id } } }", None, None),
    ("query ($n: Int) { books(first: $n, last: $n) { nodes { id } } }", {"n": 1}, None),
    ("{ books(first: 0) { nodes { id } } }", None, 0),
    ("{ books(first: 101) { nodes { id } } }", None, 101),
    ("{ books(last: -1) { nodes { id } } }", None, -1),
    ("query ($n: Int) { books(last: $n) { nodes { id } } }", {"n": 1_000_000}, 1_000_000),
    ("{ ...F } fragment F on Query { ... on Query { books { nodes { id } } } }", None, None),
    ("{ hello books { __typename } }", None, None),
]


@pytest.mark.parametrize(("document", "variables", "requested"), BAD_PAGES)
def test_a_page_has_a_size_from_1_to_100(
    document: str, variables: dict[str, Any] | None, requested: int | None
) -> None:
    details = {} if requested is None else {"requested": requested}
    expected = {"code": "BAD_PAGINATION", "field": "books", "limit": 100, **details}
    assert refused(document, variables) == expected


def test_the_message_says_which_arguments_there_are() -> None:
    both = ask("{ books { nodes { id } } }").body["errors"][0]
    assert both["message"] == "`books` requires `first` or `last`, from 1 to 100."
    assert both["locations"] == [{"line": 1, "column": 3}]
    one = ask("{ shelves { books { nodes { id } } } }").body["errors"][0]
    assert one["message"] == "`books` requires `first`, from 1 to 100."


@pytest.mark.parametrize("size", ["many", True, 1.5, [1], {"a": 1}, float("inf"), float("nan"), 2**40])
def test_a_size_that_is_no_int_is_a_mistake_in_the_variables(size: object) -> None:
    answer = ask("query ($n: Int!) { books(first: $n) { nodes { id } } }", {"n": size})
    assert not answer.executed
    expected = "BAD_PAGINATION" if size == 2**40 else "BAD_USER_INPUT"
    assert answer.body["errors"][0]["extensions"]["code"] == expected


def test_at_most_a_hundred_ids() -> None:
    document = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    assert cost(document, {"ids": [str(n) for n in range(100)]}) == 100
    expected = {"code": "TOO_MANY_IDS", "field": "nodes", "limit": 100, "requested": 101}
    assert refused(document, {"ids": [str(n) for n in range(101)]}) == expected
    assert refused("{ nodes(ids: [" + "1 " * 101 + "]) { id } }") == expected


@pytest.mark.parametrize(
    "document",
    [
        "{ hello }",
        "{ __typename hello }",
        "{ ... on Query { ... { hello } } }",
        "{ ...F } fragment F on Query { __typename ...G } fragment G on Query { who }",
        "{ __schema: hello }",
        "mutation { addBook(title: 1) { id } }",
        "subscription { count(to: 1) }",
        "{ nope }",
    ],
)
def test_without_a_token_nothing_but_the_schema_is_answered(document: str) -> None:
    assert refused(document, caller=ANONYMOUS) == {"code": "UNAUTHENTICATED"}


def test_of_several_operations_only_the_named_one_counts() -> None:
    pages = "query B { books(first: 5) { nodes { id } } } query C { books { __typename } }"
    document = "query A { __typename } " + pages
    assert ask(document, operation_name="A", caller=ANONYMOUS).executed
    assert cost(document, operation_name="B") == 5
    assert refused(document, operation_name="C")["code"] == "BAD_PAGINATION"
    assert refused(document) == {"code": "OPERATION_NAME_REQUIRED"}


def test_events_of_a_subscription_carry_no_cost() -> None:
    async def bodies(document: str) -> list[dict[str, Any]]:
        context = ToyContext(Hub(), None, CALLERS["good"], "id")  # type: ignore[arg-type]
        return [answer.body async for answer in answers(SCHEMA, OperationRequest(document), context)]

    assert asyncio.run(bodies("subscription { count(to: 1) }")) == [{"data": {"count": 1}}]
    assert asyncio.run(bodies("{ hello }"))[0]["extensions"]["cost"]["requested"] == 0


def test_a_document_is_parsed_and_validated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    work: list[str] = []

    def counted(name: str) -> None:
        original = getattr(limits_module, name)

        def count(*arguments: Any, **options: Any) -> Any:
            work.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(limits_module, name, count)

    for name in ("parse", "validate_document", "CostPlan"):
        counted(name)
    schema = toy_schema()
    document = "query ($n: Int!) { books(first: $n) { nodes { id } } }"
    for size in (1, 2, 3):
        assert cost(document, {"n": size}, schema=schema) == size
    assert work == ["parse", "validate_document", "CostPlan"]
    work.clear()
    for _ in range(2):
        refused("{ nope }", schema=schema)
    assert work == ["parse", "validate_document"]
