"""Subscriptions in a response, as server-sent events and as multipart parts, on a real server."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from tests.app.graphql.test_sockets import Alarms
from tests.support.serving import served
from tests.support.toy_schema import FAR_AWAY, SECRET, Hub, toy_app

NEWS = "subscription { news { text } }"
SSE = "text/event-stream"
MULTIPART = 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0,application/json'


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(limited())


@asynccontextmanager
async def stream(
    address: str, document: str, accept: str = SSE, bearer: str = "good", **headers: str
) -> AsyncIterator[tuple[httpx.Response, AsyncIterator[str]]]:
    """The response to a subscription, and its pieces: blocks of SSE, or parts."""
    headers = {"Accept": accept, "Authorization": f"Bearer {bearer}", **headers}
    async with (
        httpx.AsyncClient(timeout=None) as client,  # noqa: S113
        client.stream("POST", f"http://{address}/", json={"query": document}, headers=headers) as response,
    ):
        yield response, pieces(response, "\n\n" if accept == SSE else "\r\n--graphql")


async def pieces(response: httpx.Response, delimiter: str) -> AsyncIterator[str]:
    # The first delimiter of a multipart body may come without the line break that the others begin with.
    text = "\r\n" if delimiter.startswith("\r\n") else ""
    async for chunk in response.aiter_text():
        text += chunk
        *whole, text = text.split(delimiter)
        for piece in whole:
            yield piece
    if text:
        yield text


def data_of(block: str) -> Any:
    """The data of an event of type `next`."""
    fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
    assert fields["event"] == "next"
    return json.loads(fields["data"])


def part(piece: str) -> Any:
    """The content of a part."""
    headers, content = piece.split("\r\n\r\n", 1)
    assert headers.strip() == "Content-Type: application/json"
    return json.loads(content)


def test_events_have_ids_and_the_stream_says_when_it_is_complete() -> None:
    async def scenario() -> None:
        async with (
            served(toy_app()) as address,
            stream(address, "subscription { count(to: 2) }") as (response, blocks),
        ):
            received = [block async for block in blocks]
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["x-accel-buffering"] == "no"
        assert received == [
            ":",
            'id: 1\nevent: next\ndata: {"data":{"count":1}}',
            'id: 2\nevent: next\ndata: {"data":{"count":2}}',
            "event: complete\ndata:",
        ]

    run(scenario)


def test_an_id_that_would_forge_lines_is_left_out() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address, stream(address, NEWS) as (_, blocks):
            await hub.listeners(1)
            hub.publish("one\nevent: complete")
            hub.publish(None)
            received = [block async for block in blocks]
        assert received[1].startswith("event: next\n")

    run(scenario)


def test_the_last_event_id_reaches_the_resolver() -> None:
    async def scenario() -> None:
        async with (
            served(toy_app()) as address,
            stream(address, "subscription { resumed }", **{"Last-Event-ID": "c-7"}) as (_, blocks),
        ):
            received = [block async for block in blocks]
        assert data_of(received[1]) == {"data": {"resumed": "c-7"}}

    run(scenario)


def test_a_subscription_can_come_by_get_and_a_mutation_can_not() -> None:
    async def scenario() -> None:
        headers = {"Accept": SSE, "Authorization": "Bearer good"}
        async with served(toy_app()) as address, httpx.AsyncClient(headers=headers) as client:
            count = await client.get(f"http://{address}/", params={"query": "subscription { count(to: 1) }"})
            add = await client.get(f"http://{address}/", params={"query": 'mutation { addBook(title: "x") { id } }'})
        assert '{"data":{"count":1}}' in count.text
        assert "OPERATION_NOT_ALLOWED" in add.text
        assert "CONFLICT" not in add.text

    run(scenario)


def test_parts_carry_payloads_and_end_with_the_closing_delimiter() -> None:
    async def scenario() -> None:
        async with (
            served(toy_app()) as address,
            stream(address, "subscription { count(to: 2) }", MULTIPART) as (response, parts),
        ):
            received = [piece async for piece in parts]
        assert response.headers["content-type"] == 'multipart/mixed;boundary="graphql";subscriptionSpec=1.0'
        assert received[0] == ""
        assert [part(piece) for piece in received[1:-1]] == [
            {"payload": {"data": {"count": 1}}},
            {"payload": {"data": {"count": 2}}},
        ]
        assert received[-1] == "--\r\n"

    run(scenario)


@pytest.mark.parametrize("accept", [SSE, MULTIPART])
@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("subscription {", "GRAPHQL_PARSE_FAILED"),
        ("subscription { nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription ($to: Int!) { count(to: $to) }", "BAD_USER_INPUT"),
        ("subscription { a: count(to: 1) }" + "fragment F on Query { hello }" * 50, "GRAPHQL_VALIDATION_FAILED"),
    ],
)
def test_a_mistake_is_the_only_thing_in_the_stream(accept: str, document: str, code: str) -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, stream(address, document, accept) as (_, blocks):
            received = [block async for block in blocks]
        answer = data_of(received[1]) if accept == SSE else part(received[1])["payload"]
        assert answer["errors"][0]["extensions"]["code"] == code
        assert "data" not in answer
        assert len(received) == 3

    run(scenario)


@pytest.mark.parametrize("accept", [SSE, MULTIPART])
def test_what_breaks_a_subscription_is_masked(accept: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        document = "subscription { news { text bug } }"
        async with served(toy_app(hub)) as address, stream(address, document, accept) as (_, blocks):
            await hub.listeners(1)
            hub.publish("one")
            hub.publish(RuntimeError(SECRET))
            received = [block async for block in blocks]
        assert SECRET not in str(received)
        event, broken = received[1:3]
        assert '"news":{"text":"one","bug":null}' in event
        assert '"code":"INTERNAL"' in event
        assert '"code":"INTERNAL"' in broken

    run(scenario)


def test_anonymous_callers_get_no_stream() -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, httpx.AsyncClient(headers={"Accept": SSE}) as client:
            answer = await client.post(f"http://{address}/", json={"query": NEWS})
            bad = await client.post(f"http://{address}/", json={"query": NEWS}, headers={"Authorization": "Bearer bad"})
        assert "UNAUTHENTICATED" in answer.text
        assert (bad.status_code, bad.headers["content-type"]) == (401, "application/json; charset=utf-8")

    run(scenario)


@pytest.mark.parametrize(("accept", "heartbeat"), [(SSE, ":"), (MULTIPART, "{}")])
def test_a_silent_stream_shows_that_it_is_alive(accept: str, heartbeat: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub, heartbeat_seconds=0.01)
        async with served(app) as address, stream(address, NEWS, accept) as (_, blocks):
            received = [await anext(blocks) for _ in range(3)]
        assert received[1].endswith(heartbeat)
        assert received[2].endswith(heartbeat)

    run(scenario)


@pytest.mark.parametrize("accept", [SSE, MULTIPART])
def test_a_token_that_expires_ends_the_stream_and_says_so(accept: str) -> None:
    async def scenario() -> None:
        hub, alarms = Hub(), Alarms()
        app = toy_app(hub, set_alarm=alarms.set_alarm)
        async with served(app) as address, stream(address, NEWS, accept, "expiring") as (_, blocks):
            await hub.listeners(1)
            assert [instant for instant, _ in alarms.waiting] == [FAR_AWAY]
            alarms.ring()
            received = [block async for block in blocks]
        answer = data_of(received[1]) if accept == SSE else part(received[1])
        assert answer["errors"][0]["extensions"]["code"] == "TOKEN_EXPIRED"
        assert received[2] == ("event: complete\ndata:" if accept == SSE else "--\r\n")
        await hub.listeners(0)
        assert alarms.cancelled == 1

    run(scenario)


def test_a_client_that_goes_ends_what_it_listened_to() -> None:
    async def scenario() -> None:
        hub = Hub()
        # Noticed at once, and not only at the next heartbeat.
        async with served(toy_app(hub, heartbeat_seconds=3600)) as address:
            async with stream(address, NEWS) as (_, blocks):
                await hub.listeners(1)
                assert await anext(blocks) == ":"
            await hub.listeners(0)

    run(scenario)


def test_streams_end_without_being_complete_when_the_server_goes_away() -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub)
        async with (
            served(app) as address,
            stream(address, NEWS) as (_, events),
            stream(address, NEWS, MULTIPART) as (_, parts),
        ):
            await hub.listeners(2)
            await app.shutdown()
            assert [block async for block in events] == [":"]
            received = [piece async for piece in parts]
            assert part(received[1])["payload"] is None
            assert part(received[1])["errors"][0]["extensions"]["code"] == "SHUTTING_DOWN"
            assert received[2] == "--\r\n"
            await hub.listeners(0)

    run(scenario)
