"""Introspection without a token: once per operation, with a cost by its fields, answered from a cache."""

import asyncio
from typing import Any

import pytest
from graphql import ExecutionResult, get_introspection_query

from app.graphql.limits.introspection import IntrospectionAnswers
from app.graphql.masking import GatewaySchema
from app.graphql.schema import build_schema
from app.graphql.transport.execution import Answer, OperationRequest, answers
from app.viewer import ANONYMOUS
from tests.app.graphql.test_limits import ask, cost, refused
from tests.support.toy_schema import Hub, ToyContext, toy_schema

GATEWAY = build_schema()
STANDARD = get_introspection_query(
    specified_by_url=True,
    directive_is_repeatable=True,
    schema_description=True,
    input_value_deprecation=True,
    one_of=True,
)
FULL = STANDARD[STANDARD.index("__schema") :].partition("fragment FullType")[0].rstrip().removesuffix("}")
FRAGMENTS = STANDARD[STANDARD.index("fragment FullType") :]

DELETE = 'deleteImage(input: {imageId: "x", expectedRevision: 1}) { query { __schema { description } } }'


def fields_in(value: Any) -> int:
    """The number of fields in a result, at any depth."""
    if isinstance(value, dict):
        return len(value) + sum(map(fields_in, value.values()))
    return sum(map(fields_in, value)) if isinstance(value, list) else 0


@pytest.fixture
def executions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Operations that are executed and not answered from the cache."""
    executed: list[str] = []
    original = GatewaySchema._get_execute_function

    def counting(schema: GatewaySchema) -> Any:
        execute = original(schema)

        def count(*arguments: Any, **options: Any) -> Any:
            executed.append("execution")
            return execute(*arguments, **options)

        return count

    monkeypatch.setattr(GatewaySchema, "_get_execute_function", counting)
    return executed


@pytest.mark.parametrize("schema", [toy_schema(), GATEWAY], ids=["toy", "gateway"])
@pytest.mark.parametrize("query", [STANDARD, get_introspection_query(), get_introspection_query(type_depth=15)])
def test_the_standard_query_costs_a_tenth_of_the_fields_in_its_answer(query: str, schema: GatewaySchema) -> None:
    answer = ask(query, schema=schema, caller=ANONYMOUS)

    assert answer.executed, answer.body
    fields = fields_in(answer.body["data"]["__schema"]) + 1
    assert answer.body["extensions"]["cost"]["requested"] == -(-(fields - 1) // 10)


def test_thirty_aliases_of_the_schema_are_refused_unexecuted(executions: list[str]) -> None:
    document = "{" + " ".join(f"a{n}: {FULL if n == 0 else '__schema { types { name } }'}" for n in range(30)) + "}"

    details = refused(document + FRAGMENTS, schema=GATEWAY, caller=ANONYMOUS)

    assert details["code"] == "TOO_MUCH_INTROSPECTION"
    assert details["limit"] == 1
    assert details["hint"]
    assert executions == []


@pytest.mark.parametrize(
    ("document", "limit"),
    [
        ("{ a: __schema { description } b: __schema { description } }", 1),
        ("{ ...A ...B } fragment A on Query { a: __schema { description } } "
         "fragment B on Query { __schema { description } }", 1),
        ("{" + " ".join(f'a{n}: __type(name: "Image") {{ name }}' for n in range(11)) + "}", 10),
        (f"mutation {{ a: {DELETE} b: {DELETE} }}", 1),
    ],
)  # fmt: skip
def test_reading_the_schema_again_under_another_name_is_refused(document: str, limit: int) -> None:
    details = refused(document, schema=GATEWAY)

    assert (details["code"], details["limit"]) == ("TOO_MUCH_INTROSPECTION", limit)


def test_fields_that_answer_under_one_name_are_read_once() -> None:
    twice = "{ __schema { queryType { name } } ...S } fragment S on Query { __schema { queryType { kind } } }"

    assert cost(twice) == 1
    assert cost("{" + " ".join(f'a{n}: __type(name: "Book") {{ name }}' for n in range(10)) + "}") == 10


@pytest.mark.parametrize(
    "document",
    [
        "{ __schema { a: types { ...FullType } b: types { ...FullType } } }" + FRAGMENTS,
        "query ($n: String!) { a: __type(name: $n) { ...FullType } b: __type(name: $n) { ...FullType } }" + FRAGMENTS,
        "{ __schema { types {" + " ".join(f"a{n}: fields {{ name description }}" for n in range(30)) + "} } }",
    ],
)
def test_repeats_inside_the_schema_are_refused_unexecuted(document: str, executions: list[str]) -> None:
    details = refused(document, {"n": "Image"}, schema=GATEWAY, caller=ANONYMOUS)

    assert details["code"] == "TOO_MUCH_INTROSPECTION"
    assert details["limit"] > 5_000
    assert executions == []


def test_a_type_can_be_looked_up_by_a_variable() -> None:
    document = "query ($n: String!) { __type(name: $n) { name fields { name } } }"

    answer = ask(document, {"n": "Image"}, schema=GATEWAY, caller=ANONYMOUS)

    assert answer.body["data"]["__type"]["name"] == "Image"


def test_introspection_can_not_go_round_in_circles() -> None:
    circles = "{ __schema { types {" + " fields { type {" * 4 + " name " + "} }" * 4 + " } } }"

    assert refused(circles)["code"] == "GRAPHQL_VALIDATION_FAILED"


def test_the_same_introspection_is_executed_once(executions: list[str]) -> None:
    schema = toy_schema()

    first = ask(STANDARD, schema=schema, caller=ANONYMOUS)
    second = ask(STANDARD, schema=schema, caller=ANONYMOUS)
    streamed = asyncio.run(_streamed(schema, STANDARD))

    assert len(executions) == 1
    assert first == second == streamed


def test_answers_from_memory_depend_on_operation_and_variables(executions: list[str]) -> None:
    schema = toy_schema()
    document = (
        "query A($d: Boolean = true) { __schema { description types @include(if: $d) { name } } } "
        "query B { __schema { queryType { name } } }"
    )

    asked: list[tuple[str, Any]] = [("A", {"d": True}), ("A", {"d": False}), ("A", None), ("B", None)]
    for name, variables in asked * 2:
        answer = ask(document, variables, schema=schema, operation_name=name, caller=ANONYMOUS)
        expected = (
            {"queryType"} if name == "B" else {"description"} | ({"types"} if variables != {"d": False} else set())
        )
        assert set(answer.body["data"]["__schema"]) == expected
    assert len(executions) == 4

    ask(document, {"d": True, "unused": 7}, schema=schema, operation_name="A", caller=ANONYMOUS)
    assert len(executions) == 4


def test_answers_with_errors_and_data_are_not_remembered(executions: list[str]) -> None:
    schema = toy_schema()
    document = "query ($d: Boolean!) { __schema { description @include(if: $d) } }"

    for _ in range(2):
        assert not ask(document, {"d": "no"}, schema=schema, caller=ANONYMOUS).executed
        assert ask("{ __typename hello }", schema=schema).executed

    assert len(executions) == 4


def test_the_memory_for_answers_is_bounded() -> None:
    answers = IntrospectionAnswers()

    for number in range(100):
        answers.put((str(number), ""), ExecutionResult({}))
    answers.put(("x" * 100_000, ""), ExecutionResult({}))

    assert len(answers) == 16
    assert answers.get(("99", "")) is not None
    assert answers.get(("x" * 100_000, "")) is None


async def _streamed(schema: GatewaySchema, document: str) -> Answer:
    context = ToyContext(Hub(), None, ANONYMOUS, "id")  # type: ignore[arg-type]
    [answer] = [answer async for answer in answers(schema, OperationRequest(document), context)]
    return answer
