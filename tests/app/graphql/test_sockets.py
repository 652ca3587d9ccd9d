"""Subscriptions over graphql-transport-ws, on a real server."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from app.graphql.limits.query_limits import QueryLimits
from tests.support.serving import Socket, served, socket_to
from tests.support.toy_schema import FAR_AWAY, SECRET, Hub, toy_app

NEWS = "subscription { news { cursor text } }"


@asynccontextmanager
async def library(hub: Hub | None = None, **options: Any) -> AsyncGenerator[Socket, None]:
    """A connection that has sent connection_init."""
    async with served(toy_app(hub, **options)) as address, socket_to(address) as socket:
        assert await socket.init() == {"type": "connection_ack"}
        yield socket


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(limited())


@dataclass
class Alarms:
    """Alarms that ring when the test rings them."""

    waiting: list[tuple[datetime, Callable[[], None]]] = field(default_factory=list)
    cancelled: int = 0

    def set_alarm(self, instant: datetime, ring: Callable[[], None]) -> "Alarms":
        self.waiting.append((instant, ring))
        return self

    def cancel(self) -> None:
        self.cancelled += 1

    def ring(self) -> None:
        for _instant, ring in self.waiting:
            ring()


def test_events_come_in_order_and_the_operation_completes() -> None:
    async def scenario() -> None:
        async with library() as socket:
            await socket.subscribe("a", "subscription { count(to: 3) }")
            received = [await socket.receive() for _ in range(4)]
        assert [message["payload"]["data"]["count"] for message in received[:3]] == [1, 2, 3]
        assert received[3] == {"id": "a", "type": "complete"}

    run(scenario)


def test_queries_run_on_the_socket_too() -> None:
    async def scenario() -> None:
        async with library() as socket:
            await socket.subscribe("a", "query ($n: Int) { times(number: $n) }", variables={"n": 4})
            assert (await socket.receive())["payload"]["data"] == {"times": 4}
            assert (await socket.receive())["type"] == "complete"

    run(scenario)


@pytest.mark.parametrize(
    ("document", "code"),
    [
        ("subscription {", "GRAPHQL_PARSE_FAILED"),
        ("subscription { nope }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription ($to: Int!) { count(to: $to) }", "BAD_USER_INPUT"),
        ("query A { hello } query B { hello }", "OPERATION_NAME_REQUIRED"),
        ("{ books { nodes { id } } }", "BAD_PAGINATION"),
        ("{ a" + "{ a" * 300 + "}" * 301, "QUERY_TOO_DEEP"),
        ("", "BAD_REQUEST"),
        ("{ hello }" + " " * 70_000, "DOCUMENT_TOO_LARGE"),
    ],
)
def test_a_mistake_costs_its_operation_and_not_the_socket(document: str, code: str) -> None:
    async def scenario() -> None:
        async with library() as socket:
            await socket.subscribe("bad", document)
            answer = await socket.receive()
            assert (answer["id"], answer["type"]) == ("bad", "error")
            assert answer["payload"][0]["extensions"]["code"] == code
            assert answer["payload"][0]["extensions"]["correlationId"]
            await socket.subscribe("bad", "{ hello }")
            assert (await socket.receive())["payload"]["data"] == {"hello": "world"}

    run(scenario)


def test_what_breaks_a_subscription_is_masked_and_ends_it() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with library(hub) as socket:
            await socket.subscribe("a", NEWS)
            await hub.listeners(1)
            hub.publish(RuntimeError(SECRET))
            answer = await socket.receive()
        assert (answer["type"], answer["payload"][0]["extensions"]["code"]) == ("error", "INTERNAL")
        assert SECRET not in str(answer)

    run(scenario)


def test_what_breaks_a_field_of_an_event_is_masked_and_the_next_event_comes() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with library(hub) as socket:
            await socket.subscribe("a", "subscription { news { text bug } }")
            await hub.listeners(1)
            hub.publish("one")
            hub.publish("two")
            answers = [await socket.receive() for _ in range(2)]
        for answer, text in zip(answers, ("one", "two"), strict=True):
            assert answer["type"] == "next"
            assert answer["payload"]["data"] == {"news": {"text": text, "bug": None}}
            assert answer["payload"]["errors"][0]["extensions"]["code"] == "INTERNAL"
            assert SECRET not in str(answer)

    run(scenario)


def test_the_context_is_cleared_after_each_event_and_new_for_each_operation() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with library(hub) as socket:
            for operation in ("a", "b"):
                await socket.subscribe(operation, "subscription { news { finishedEvents } }")
                await hub.listeners(1)
                seen = []
                for text in ("one", "two", "three"):
                    hub.publish(text)
                    seen.append((await socket.receive())["payload"]["data"]["news"]["finishedEvents"])
                assert seen == [0, 1, 2]
                await socket.send(type="complete", id=operation)
                await hub.listeners(0)

    run(scenario)


def test_one_operation_more_than_allowed_is_refused_and_the_others_live() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with library(hub) as socket:
            for number in range(100):
                await socket.subscribe(str(number), NEWS)
            await hub.listeners(100)
            await socket.subscribe("100", NEWS)
            refused = await socket.receive()
            assert (refused["id"], refused["type"]) == ("100", "error")
            assert refused["payload"][0]["extensions"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
            assert refused["payload"][0]["extensions"]["limit"] == 100
            await socket.send(type="complete", id="0")
            await hub.listeners(99)
            await socket.subscribe("100", NEWS)
            await hub.listeners(100)

    run(scenario)


def test_a_connection_that_may_run_one_operation_says_so_in_the_singular() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with library(hub, limits=QueryLimits(subscriptions_per_connection=1)) as socket:
            await socket.subscribe("0", NEWS)
            await hub.listeners(1)
            await socket.subscribe("1", NEWS)
            refused = await socket.receive()
            message = refused["payload"][0]["message"]
            assert message == "This connection has 1 operation running, and more are not allowed."

    run(scenario)


def test_without_a_token_only_the_schema_can_be_read() -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, socket_to(address) as socket:
            assert (await socket.init(None))["type"] == "connection_ack"
            await socket.subscribe("a", "{ __schema { queryType { name } } }")
            assert (await socket.receive())["type"] == "next"
            assert (await socket.receive())["type"] == "complete"
            await socket.subscribe("b", NEWS)
            refused = await socket.receive()
            assert refused["payload"][0]["extensions"]["code"] == "UNAUTHENTICATED"

    run(scenario)


def test_the_token_can_come_with_the_handshake() -> None:
    async def scenario() -> None:
        headers = {"Authorization": "Bearer good"}
        async with (
            served(toy_app()) as address,
            socket_to(address, additional_headers=headers) as socket,
        ):
            await socket.init(None)
            await socket.subscribe("a", "{ who }")
            assert (await socket.receive())["payload"]["data"] == {"who": "Ada"}

    run(scenario)


@pytest.mark.parametrize(
    ("payload", "code", "reason"),
    [
        ({"Authorization": "Bearer bad"}, 4403, "This token is not known."),
        ({"authorization": "Basic QWRhOg=="}, 4403, "Send the token as `Authorization: Bearer …`."),
        ({"AUTHORIZATION": 7}, 4403, "Send the token as `Authorization: Bearer …`."),
        ({"Authorization": "Bearer broken"}, 1011, "Internal error"),
        ([], 4400, "Invalid message"),
    ],
)
def test_a_token_that_does_not_hold_closes_the_socket(payload: object, code: int, reason: str) -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, socket_to(address) as socket:
            await socket.send(type="connection_init", payload=payload)
            assert await socket.closed() == (code, reason)

    run(scenario)


@pytest.mark.parametrize(
    "message",
    [
        "{", "[]", "null", '"subscribe"', "{}", '{"type": 1}', '{"type": "nonsense"}',
        '{"type": "subscribe", "id": 1, "payload": {"query": "{hello}"}}',
        '{"type": "subscribe", "id": ["a"], "payload": {"query": "{hello}"}}',
        '{"type": "subscribe", "id": "a"}', '{"type": "subscribe", "id": "a", "payload": "{hello}"}',
        '{"type": "complete", "id": {}}', '{"type": "ping", "payload": 1}', "[" * 9_000, b"binary",
        '{"type": "complete", "id": "' + "a" * 257 + '"}',
    ],
)  # fmt: skip
def test_a_message_that_is_none_of_the_protocol_closes_with_4400(message: str | bytes) -> None:
    async def scenario() -> None:
        async with library() as socket:
            await socket.connection.send(message)
            assert (await socket.closed())[0] == 4400

    run(scenario)


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"query": 1}, "BAD_REQUEST"),
        ({"query": "{ hello }", "variables": []}, "BAD_REQUEST"),
        ({"query": "{ hello }", "operationName": 1}, "BAD_REQUEST"),
        ({}, "BAD_REQUEST"),
    ],
)
def test_a_request_of_the_wrong_form_is_answered_with_an_error(payload: object, code: str) -> None:
    async def scenario() -> None:
        async with library() as socket:
            await socket.send(type="subscribe", id="a", payload=payload)
            answer = await socket.receive()
            assert (answer["type"], answer["payload"][0]["extensions"]["code"]) == ("error", code)

    run(scenario)


def test_a_message_beyond_the_limit_closes_with_1009() -> None:
    async def scenario() -> None:
        async with library(limits=QueryLimits(body_bytes=1000)) as socket:
            await socket.subscribe("a", "{ hello }" + " " * 1000)
            assert (await socket.closed())[0] == 1009

    run(scenario)


def test_the_protocol_is_kept() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address:
            async with socket_to(address) as socket:
                await socket.subscribe("a", "{ hello }")
                assert await socket.closed() == (4401, "Unauthorized")
            async with socket_to(address) as socket:
                await socket.init()
                await socket.send(type="connection_init")
                assert await socket.closed() == (4429, "Too many initialisation requests")
            async with socket_to(address) as socket:
                await socket.init()
                await socket.subscribe("a", NEWS)
                await hub.listeners(1)
                await socket.subscribe("a", NEWS)
                assert await socket.closed() == (4409, "Subscriber for a already exists")
            await hub.listeners(0)

    run(scenario)


def test_a_socket_that_does_not_say_who_it_is_is_closed() -> None:
    async def scenario() -> None:
        app = toy_app(connection_init_seconds=0)
        async with served(app) as address, socket_to(address) as socket:
            assert await socket.closed() == (4408, "Connection initialisation timeout")

    run(scenario)


@pytest.mark.parametrize("protocols", [["graphql-ws"], None])
def test_only_graphql_transport_ws_is_spoken(protocols: list[str] | None) -> None:
    async def scenario() -> None:
        offered = [Subprotocol(name) for name in protocols] if protocols else None
        async with (
            served(toy_app()) as address,
            connect(f"ws://{address}/", subprotocols=offered) as connection,
        ):
            await connection.wait_closed()
            assert connection.close_code == 4406

    run(scenario)


def test_pages_of_other_origins_get_no_socket_unless_they_are_allowed() -> None:
    async def handshake(address: str) -> None:
        async with socket_to(address, additional_headers={"Origin": "https://elsewhere.example"}) as socket:
            await socket.init()

    async def scenario() -> None:
        async with served(toy_app()) as address:
            with pytest.raises(InvalidStatus):
                await handshake(address)
        async with served(toy_app(allowed_origins=["https://elsewhere.example"])) as address:
            await handshake(address)

    run(scenario)


def test_a_token_that_expires_closes_the_socket() -> None:
    async def scenario() -> None:
        hub, alarms = Hub(), Alarms()
        async with (
            served(toy_app(hub, set_alarm=alarms.set_alarm)) as address,
            socket_to(address) as socket,
        ):
            await socket.init("expiring")
            await socket.subscribe("a", NEWS)
            await hub.listeners(1)
            assert [instant for instant, _ in alarms.waiting] == [FAR_AWAY]
            alarms.ring()
            assert await socket.closed() == (4403, "Token expired")
            await hub.listeners(0)
            assert alarms.cancelled == 1

    run(scenario)


def test_a_client_that_goes_ends_what_it_listened_to() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address:
            async with socket_to(address) as socket:
                await socket.init()
                await socket.subscribe("a", NEWS)
                await hub.listeners(1)
            await hub.listeners(0)

    run(scenario)


def test_sockets_are_closed_when_the_server_shuts_down() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address:
            sockets = [await connect(f"ws://{address}/", subprotocols=[Subprotocol("graphql-transport-ws")])]
            socket = Socket(sockets[0])
            await socket.init()
            await socket.subscribe("a", NEWS)
            await hub.listeners(1)
        assert await socket.closed() == (1001, "Going away")
        await hub.listeners(0)

    run(scenario)
