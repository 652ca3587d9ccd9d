"""What a caller sees of an error, and what is logged about it."""

import asyncio
from typing import Any

import pytest
from graphql import GraphQLError
from strawberry.types.graphql import OperationType
from structlog.testing import capture_logs

from app.errors import DatabaseUnavailable, Forbidden, GatewayError, InvalidInput, NotAuthenticated, StoreUnavailable
from app.graphql.masking import DATABASE_MESSAGE, INTERNAL_MESSAGE, STORAGE_MESSAGE, CodedError, shown
from app.graphql.transport.execution import OperationRequest, answer_once, answers
from tests.support.toy_schema import CALLERS, SECRET, Hub, ToyContext, toy_schema

SCHEMA = toy_schema()


def ask(document: str, variables: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """The errors of an operation."""
    context = ToyContext(Hub(), None, CALLERS["good"], "id-1")  # type: ignore[arg-type]
    request = OperationRequest(document, variables)
    answer = asyncio.run(answer_once(SCHEMA, request, context, set(OperationType)))
    errors: list[dict[str, Any]] = answer.body["errors"]
    return errors


def wrapped(cause: Exception, **options: Any) -> GraphQLError:
    return GraphQLError(str(cause), original_error=cause, **options)


@pytest.mark.parametrize("field", ["bug", "brokenPromise", "unserializable"])
def test_our_own_mistakes_are_hidden_and_logged(field: str) -> None:
    with capture_logs() as logs:
        [error] = ask("{ %s }" % field)  # noqa: UP031
    assert error["message"] == INTERNAL_MESSAGE
    assert error["path"] == [field]
    assert error["extensions"] == {"code": "INTERNAL", "correlationId": "id-1"}
    [entry] = logs
    assert (entry["correlation_id"], entry["path"], entry["log_level"]) == ("id-1", field, "error")
    assert isinstance(entry["exc_info"], Exception)


def test_the_log_holds_the_exception_that_was_raised_first() -> None:
    with capture_logs() as logs:
        ask("{ bug }")
    assert str(logs[0]["exc_info"]) == SECRET
    assert logs[0]["exc_info"].__traceback__ is not None


def test_the_callers_mistakes_are_shown_and_not_logged() -> None:
    with capture_logs() as logs:
        [error] = ask("{ mistake }")
    assert error["message"] == "There is no such book."
    assert error["extensions"] == {
        "code": "NOT_FOUND",
        "hint": "Look at the shelf.",
        "field": ["id"],
        "correlationId": "id-1",
    }
    assert logs == []


@pytest.mark.parametrize(
    ("cause", "code", "message"),
    [
        (InvalidInput("No."), "INVALID", "No."),
        (Forbidden("Not you."), "FORBIDDEN", "Not you."),
        (NotAuthenticated("Expired."), "UNAUTHENTICATED", "Expired."),
        (NotAuthenticated(), "UNAUTHENTICATED", "Send a valid token."),
        (CodedError("Too much.", "TOO_MUCH", limit=3), "TOO_MUCH", "Too much."),
        (StoreUnavailable("http://store:9000 refused"), "STORAGE_UNAVAILABLE", STORAGE_MESSAGE),
        (DatabaseUnavailable(SECRET), "UNAVAILABLE", DATABASE_MESSAGE),
        (GatewayError(SECRET), "INTERNAL", INTERNAL_MESSAGE),
        (KeyError(SECRET), "INTERNAL", INTERNAL_MESSAGE),
        (RecursionError(SECRET), "INTERNAL", INTERNAL_MESSAGE),
    ],
)
def test_what_is_raised_decides_what_is_shown(cause: Exception, code: str, message: str) -> None:
    with capture_logs() as logs:
        for error in (wrapped(cause), wrapped(cause, path=["a"]), wrapped(wrapped(cause), path=["a"])):
            formatted = shown(error, "id-1")
            assert formatted["message"] == message
            assert formatted["extensions"]["code"] == code
            assert formatted["extensions"]["correlationId"] == "id-1"
    assert len(logs) == (3 if code in ("INTERNAL", "STORAGE_UNAVAILABLE", "UNAVAILABLE") else 0)


@pytest.mark.parametrize(
    ("document", "variables", "code", "message"),
    [
        ("{", None, "GRAPHQL_PARSE_FAILED", "Syntax Error: Expected Name, found <EOF>."),
        ("{ nope }", None, "GRAPHQL_VALIDATION_FAILED",
         "Cannot query field 'nope' on type 'Query'. Did you mean 'nodes'?"),
        ("{ times(number: %s) }" % ("1" * 5000), None, "GRAPHQL_VALIDATION_FAILED", "Expected value of type 'Int'"),
        ("query ($n: Int) { times(number: $n) }", {"n": "x"}, "BAD_USER_INPUT",
         "Variable '$n' has invalid value: Int cannot represent non-integer value: 'x'"),
        ("query ($n: Int) { times(number: $n) }", {"n": None}, "BAD_USER_INPUT",
         "Argument 'number' has invalid value: "
         "Expected variable '$n' provided to non-null type 'Int!' not to be None."),
    ],
)  # fmt: skip
def test_what_graphql_says_stays_readable(
    document: str, variables: dict[str, Any] | None, code: str, message: str
) -> None:
    with capture_logs() as logs:
        [error] = ask(document, variables)
    assert (error["message"], error["extensions"]["code"]) == (message, code)
    assert logs == []


def test_a_graphql_error_of_a_resolver_is_not_taken_for_one_of_graphql() -> None:
    with capture_logs():
        formatted = shown(GraphQLError(SECRET, path=["a"]), "id-1")
    assert formatted["message"] == INTERNAL_MESSAGE


def test_errors_that_are_remembered_are_not_changed_by_being_shown() -> None:
    first, second = ask("{ nope }"), ask("{ nope }")
    assert first == second


def test_a_broken_subscription_is_logged_with_its_traceback() -> None:
    async def broken() -> list[dict[str, Any]]:
        hub = Hub()
        context = ToyContext(hub, None, CALLERS["good"], "id-1")  # type: ignore[arg-type]
        stream = answers(SCHEMA, OperationRequest("subscription { news { text } }"), context)
        upcoming = asyncio.ensure_future(anext(stream))
        await hub.listeners(1)
        hub.publish(RuntimeError(SECRET))
        return [(await upcoming).body, *[answer.body async for answer in stream]]

    with capture_logs() as logs:
        [body] = asyncio.run(broken())
    assert body["errors"][0]["message"] == INTERNAL_MESSAGE
    assert "data" not in body
    assert str(logs[0]["exc_info"]) == SECRET
