"""What the client makes of the gateway's answers."""

import asyncio
import json
from typing import Any

import pytest

from app.client.api.connection import Connection
from app.client.api.gateway import Api, client
from app.client.errors import (
    ClientError,
    NoAnswer,
    NoEventStream,
    NotAllowed,
    NotFound,
    NotReachable,
    Overloaded,
    Refused,
)
from app.client.exits import ExitCode
from app.client.generated.input_types import DeleteImageInput
from app.client.retrying import RetryPolicy
from tests.support.scripted_server import Answer, Reply, data, errors, events, in_turn, session_with

NEVER = RetryPolicy(0)
SHORT = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)


async def queried(answer: Answer) -> dict[str, Any]:
    async with session_with(answer) as (at, _):
        return await at.api.execute("query Q { a }", "Q", {})


async def mutated(answer: Answer) -> dict[str, Any]:
    async with session_with(answer) as (at, _):
        return await at.api.execute("mutation M { act }", "M", {})


async def subscribed(answer: Answer) -> list[dict[str, Any]]:
    async with session_with(answer) as (at, _):
        return [item async for item in at.api.execute_ws("subscription S { a }", "S", {})]


def user_error(code: str) -> Reply:
    error = {"code": code, "message": "No.", "hint": "Fix it.", "field": ["id"]}
    return data(act={"userErrors": [error]})


def test_a_question_carries_the_token_and_its_variables() -> None:
    async def asked() -> None:
        async with session_with(in_turn(data(a=1))) as (at, server):
            assert await at.api.execute("query Q { a }", "Q", {"name": "\udcff ü"}) == {"a": 1}
        (request,) = server.asked
        assert request.headers["authorization"] == "Bearer token"
        assert request.body.isascii()
        assert request.variables == {"name": "\udcff ü"}

    asyncio.run(asked())


@pytest.mark.parametrize(
    ("reply", "error", "code"),
    [
        (errors("UNAUTHENTICATED", status=401), NotAllowed, ExitCode.NOT_ALLOWED),
        (Reply(b"<html>", 401), NotAllowed, ExitCode.NOT_ALLOWED),
        (Reply(b"<html>", 403), NotAllowed, ExitCode.NOT_ALLOWED),
        (errors("FORBIDDEN"), NotAllowed, ExitCode.NOT_ALLOWED),
        (errors("NOT_FOUND"), NotFound, ExitCode.NOT_FOUND),
        (errors("BAD_USER_INPUT", status=400), Refused, ExitCode.REFUSED),
        (errors("SOMETHING_NEW"), Refused, ExitCode.REFUSED),
        (errors("INTERNAL", status=500), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b"<html>", 500), Overloaded, ExitCode.NO_ANSWER),
        (Reply(b"", 503), Overloaded, ExitCode.NO_ANSWER),
        (Reply(b"", 429), Overloaded, ExitCode.NO_ANSWER),
        (Reply(b"<html>", 200), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b"<html>", 404), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b"", 302, {"Location": "http://elsewhere/"}), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b"[]"), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b'{"data": null}'), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b'{"errors": ["text"]}'), NoAnswer, ExitCode.NO_ANSWER),
        (Reply(b"{", cut=True), NotReachable, ExitCode.NO_ANSWER),
    ],
)
def test_every_answer_that_is_none_becomes_an_error_with_an_exit_code(
    reply: Reply, error: type[ClientError], code: ExitCode
) -> None:
    with pytest.raises(ClientError) as raised:
        asyncio.run(queried(in_turn(reply)))

    assert type(raised.value) is error
    assert raised.value.exit_code is code


def test_an_error_says_what_the_gateway_said() -> None:
    with pytest.raises(Refused) as raised:
        asyncio.run(queried(in_turn(errors("QUERY_TOO_DEEP", "Too deep.", hint="Ask less.", correlationId="c1"))))

    assert raised.value.as_json() == {
        "code": "QUERY_TOO_DEEP",
        "message": "Too deep.",
        "hint": "Ask less.",
        "correlationId": "c1",
    }


def test_where_nobody_listens_is_named() -> None:
    async def ask() -> None:
        async with client() as http:
            await Api(Connection("http://127.0.0.1:1/graphql", "t"), http).execute("query Q { a }", "Q", {})

    with pytest.raises(NotReachable, match=r"127\.0\.0\.1:1/graphql"):
        asyncio.run(ask())


def test_a_mutation_sends_what_is_given_as_its_input() -> None:
    async def act() -> None:
        done: dict[str, Any] = {"deletedImageId": "1", "cursor": None, "userErrors": []}
        async with session_with(in_turn(data(deleteImage=done))) as (at, server):
            answer = await at.api.delete_image(DeleteImageInput(image_id="1"))
        assert answer.delete_image is not None
        assert answer.delete_image.deleted_image_id == "1"
        assert server.asked[0].variables == {"input": {"imageId": "1"}}

    asyncio.run(act())


def test_an_answer_that_does_not_fit_the_schema_is_none() -> None:
    async def ask() -> None:
        async with session_with(in_turn(data(eventCursor=5))) as (at, _):
            await at.api.event_cursor()

    with pytest.raises(NoAnswer, match="eventCursor") as raised:
        asyncio.run(ask())

    assert raised.value.exit_code is ExitCode.NO_ANSWER


@pytest.mark.parametrize(
    ("code", "error"), [("INVALID", Refused), ("FORBIDDEN", NotAllowed), ("NOT_FOUND", NotFound), ("NEW", Refused)]
)
def test_what_a_user_has_to_mend_is_raised(code: str, error: type[ClientError]) -> None:
    with pytest.raises(error) as raised:
        asyncio.run(mutated(in_turn(user_error(code))))

    assert raised.value.as_json() == {"code": code, "message": "No.", "hint": "Fix it.", "field": ["id"]}


def test_a_subscription_gives_what_comes_until_it_is_complete() -> None:
    assert asyncio.run(subscribed(in_turn(events({"a": 1}, {"a": 2})))) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (events({"a": 1}, complete=False), NotReachable),
        (Reply(b":\n\n", headers={"Content-Type": "text/event-stream"}, cut=True), NotReachable),
        (data(a=1), NoEventStream),
        (Reply(b"", 406), NoEventStream),
        (Reply(b"", 405), NoEventStream),
        (Reply(b"", 502), Overloaded),
        (errors("UNAUTHENTICATED", status=401), NotAllowed),
    ],
)
def test_a_subscription_that_ends_otherwise_says_why(reply: Reply, error: type[ClientError]) -> None:
    with pytest.raises(ClientError) as raised:
        asyncio.run(subscribed(in_turn(reply)))

    assert type(raised.value) is error


def test_an_error_within_a_stream_is_raised() -> None:
    expired = {"errors": [{"message": "expired", "extensions": {"code": "TOKEN_EXPIRED"}}], "data": None}
    body = f"event: next\ndata: {json.dumps(expired)}\n\n".encode()

    with pytest.raises(NotAllowed) as raised:
        asyncio.run(subscribed(in_turn(Reply(body, headers={"Content-Type": "text/event-stream"}))))

    assert raised.value.code == "TOKEN_EXPIRED"


def test_what_passes_by_itself_is_waited_for_and_what_does_not_is_told_at_once() -> None:
    async def asked(policy: RetryPolicy, *replies: Reply) -> tuple[object, int]:
        async with session_with(in_turn(*replies)) as (at, server):
            try:
                return await policy.until_done(lambda: at.api.execute("query Q { a }", "Q", {})), len(server.asked)
            except ClientError as error:
                return type(error), len(server.asked)

    away, refused = Reply(b"", 503), errors("INVALID")
    assert asyncio.run(asked(SHORT, away, Reply(cut=True), away, data(a=1))) == ({"a": 1}, 4)
    assert asyncio.run(asked(SHORT, refused, data(a=1))) == (Refused, 1)
    assert asyncio.run(asked(NEVER, away, data(a=1))) == (Overloaded, 1)
