"""Limits per caller: requests without a token, and open operations and connections."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from starlette.requests import HTTPConnection
from websockets.asyncio.client import connect

from app.graphql.admission import AnonymousRequests, CallerLimits, client_address
from app.graphql.masking import CodedError
from app.graphql.transport.asgi import GatewayGraphQL
from app.graphql.turns import Turns
from app.viewer import ANONYMOUS, Viewer
from tests.app.graphql.test_streams import MULTIPART, SSE, stream
from tests.support.serving import Socket, served, socket_to
from tests.support.toy_schema import CALLERS, Hub, toy_app

NEWS = "subscription { news { text } }"
SCHEMA = "{ __schema { queryType { name } } }"


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(limited())


def client_at(host: str | None) -> HTTPConnection:
    return HTTPConnection({"type": "http", "client": (host, 1) if host is not None else None})


def open_things(app: GatewayGraphQL) -> tuple[int, int]:
    return app.admission.subscriptions.total, app.admission.sockets.total


async def all_closed(app: GatewayGraphQL) -> None:
    """Returns as soon as nothing is counted as open."""
    # The server runs in the same loop.
    while open_things(app) != (0, 0):  # noqa: ASYNC110
        await asyncio.sleep(0)


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_address_has_the_requests_of_a_minute_and_gets_them_back_evenly() -> None:
    clock = Clock()
    requests = AnonymousRequests(60, clock=clock)
    caller = client_at("192.0.2.1")

    for _ in range(60):
        requests.admit(caller)
    with pytest.raises(CodedError) as refused:
        requests.admit(caller)

    assert refused.value.extensions == {
        "code": "RATE_LIMITED",
        "limit": 60,
        "retryAfter": 1,
        "hint": "Send a token, or try again in 1 second.",
    }
    requests.admit(client_at("192.0.2.2"))
    clock.now = 1.0
    requests.admit(caller)
    with pytest.raises(CodedError):
        requests.admit(caller)
    clock.now = 3600.0
    for _ in range(60):
        requests.admit(caller)
    with pytest.raises(CodedError):
        requests.admit(caller)


def test_few_requests_per_minute_say_how_long_to_wait() -> None:
    clock = Clock()
    requests = AnonymousRequests(2, clock=clock)
    caller = client_at("192.0.2.1")
    for _ in range(2):
        requests.admit(caller)

    clock.now = 0.5
    with pytest.raises(CodedError, match="the limit is 2 per minute") as refused:
        requests.admit(caller)

    assert (refused.value.extensions or {})["retryAfter"] == 30
    clock.now = 30.0
    requests.admit(caller)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("x" * 1000, "x" * 64),
        (None, ""),
    ],
)
def test_a_client_is_counted_by_its_address_or_its_network(host: str | None, address: str) -> None:
    assert client_address(client_at(host)) == address


def test_the_memory_for_addresses_is_bounded() -> None:
    requests = AnonymousRequests(1, addresses=100)
    for number in range(10_000):
        requests.admit(client_at(f"10.0.{number // 250}.{number % 250}"))

    assert len(requests) == 100
    with pytest.raises(CodedError):
        requests.admit(client_at("10.0.39.249"))


def test_anonymous_requests_above_the_limit_get_429_before_their_body_is_read() -> None:
    async def scenario() -> None:
        app = toy_app(caller_limits=CallerLimits(anonymous_requests_per_minute=3))
        async with served(app) as address, httpx.AsyncClient() as client:
            url = f"http://{address}/"
            for _ in range(3):
                assert (await client.post(url, json={"query": SCHEMA})).status_code == 200

            refused = await client.post(url, content=b"{", headers={"Content-Type": "application/json"})

            [error] = refused.json()["errors"]
            assert refused.status_code == 429
            assert (error["extensions"]["code"], error["extensions"]["limit"]) == ("RATE_LIMITED", 3)
            assert error["extensions"]["hint"].startswith("Send a token, or try again in ")
            assert 1 <= int(refused.headers["retry-after"]) <= 20
            for accept in (SSE, MULTIPART):
                streamed = await client.post(url, json={"query": NEWS}, headers={"Accept": accept})
                assert streamed.status_code == 429
            known = await client.post(url, json={"query": "{ hello }"}, headers={"Authorization": "Bearer good"})
            assert known.json()["data"] == {"hello": "world"}

    run(scenario)


def test_sockets_and_their_operations_count_as_anonymous_requests() -> None:
    async def scenario() -> None:
        app = toy_app(caller_limits=CallerLimits(anonymous_requests_per_minute=3))
        async with served(app) as address:
            async with socket_to(address) as socket:
                assert (await socket.init(None))["type"] == "connection_ack"
                for operation in ("a", "b"):
                    await socket.subscribe(operation, SCHEMA)
                    assert (await socket.receive())["type"] == "next"
                    assert (await socket.receive())["type"] == "complete"
                await socket.subscribe("c", SCHEMA)
                refused = await socket.receive()
                assert refused["type"] == "error"
                assert refused["payload"][0]["extensions"]["code"] == "RATE_LIMITED"
            async with socket_to(address) as socket:
                await socket.send(type="connection_init")
                code, reason = await socket.closed()
                assert code == 4429
                assert str(reason).startswith("RATE_LIMITED: Send a token, or try again in ")
            async with socket_to(address) as socket:
                assert (await socket.init())["type"] == "connection_ack"

    run(scenario)


def test_one_socket_more_than_a_subject_may_have_is_closed() -> None:
    async def scenario() -> None:
        app = toy_app(caller_limits=CallerLimits(sockets=2))
        async with served(app) as address:
            async with socket_to(address) as first, socket_to(address) as second:
                for socket in (first, second):
                    await socket.init()
                async with socket_to(address) as third:
                    await third.send(type="connection_init", payload={"Authorization": "Bearer good"})
                    reason = "TOO_MANY_CONNECTIONS: Close connections that you no longer need."
                    assert await third.closed() == (4429, reason)
                async with httpx.AsyncClient(headers={"Authorization": "Bearer good", "Accept": SSE}) as client:
                    refused = await client.post(f"http://{address}/", json={"query": NEWS})
                assert refused.status_code == 429
                error = refused.json()["errors"][0]["extensions"]
                assert (error["code"], error["limit"]) == ("TOO_MANY_CONNECTIONS", 2)
                assert error["hint"]
                async with socket_to(address) as anonymous:
                    assert (await anonymous.init(None))["type"] == "connection_ack"
            await all_closed(app)
            async with socket_to(address) as socket:
                assert (await socket.init())["type"] == "connection_ack"

    run(scenario)


@pytest.mark.parametrize("accept", [SSE, MULTIPART])
def test_subscriptions_of_a_subject_are_limited_over_all_its_connections(accept: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub, caller_limits=CallerLimits(subscriptions=3))
        async with served(app) as address, AsyncExitStack() as opened:
            sockets = [await opened.enter_async_context(socket_to(address)) for _ in range(2)]
            for socket in sockets:
                await socket.init()
                await socket.subscribe("a", NEWS)
            await opened.enter_async_context(stream(address, NEWS, accept))
            await hub.listeners(3)

            await sockets[0].subscribe("b", NEWS)
            refused = (await sockets[0].receive())["payload"][0]
            assert (refused["extensions"]["code"], refused["extensions"]["limit"]) == ("TOO_MANY_SUBSCRIPTIONS", 3)
            assert refused["message"] == "A caller may have at most 3 subscriptions open on one server."
            assert refused["extensions"]["hint"]
            async with httpx.AsyncClient(headers={"Authorization": "Bearer good", "Accept": accept}) as client:
                answer = await client.post(f"http://{address}/", json={"query": NEWS})
            assert answer.status_code == 429
            assert answer.json()["errors"][0]["extensions"]["code"] == "TOO_MANY_SUBSCRIPTIONS"

            await sockets[1].send(type="complete", id="a")
            await hub.listeners(2)
            await sockets[0].subscribe("b", NEWS)
            await hub.listeners(3)

    run(scenario)


def test_long_subscriptions_are_limited_by_their_characters() -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub)
        async with served(app) as address, socket_to(address) as socket:
            await socket.init()
            for number in range(4):
                await socket.subscribe(str(number), NEWS, variables={"unused": "x" * 1_000_000})
            await hub.listeners(4)

            await socket.subscribe("one too many", NEWS, variables={"unused": "x" * 1_000_000})
            refused = (await socket.receive())["payload"][0]
            async with httpx.AsyncClient(headers={"Authorization": "Bearer good", "Accept": SSE}) as client:
                body = {"query": NEWS, "variables": {"unused": "x" * 1_000_000}}
                streamed = await client.post(f"http://{address}/", json=body)

            assert (
                refused["message"]
                == "A caller may have at most 4,194,304 characters of subscription text open on one server."
            )
            assert refused["extensions"]["code"] == "TOO_MANY_SUBSCRIPTIONS"
            assert streamed.status_code == 429
            await socket.send(type="complete", id="0")
            await hub.listeners(3)
            await socket.subscribe("another", NEWS)
            await hub.listeners(4)

    run(scenario)


def test_operations_of_one_caller_take_turns_and_leave_others_theirs() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address, socket_to(address) as socket, httpx.AsyncClient() as client:
            await socket.init()
            for number in range(9):
                await socket.subscribe(str(number), "{ nextNews }")
            await hub.listeners(8)

            other = await client.post(f"http://{address}/", json={"query": SCHEMA})
            hub.publish("first")
            await hub.listeners(1)
            hub.publish("second")
            answers = [await socket.receive() for _ in range(18)]

            assert other.json()["data"]
            news = [answer["payload"]["data"]["nextNews"] for answer in answers if answer["type"] == "next"]
            assert sorted(news) == ["first"] * 8 + ["second"]

    run(scenario)


def test_sockets_of_one_address_are_authenticated_a_few_at_a_time() -> None:
    async def scenario() -> None:
        asked: list[str] = []
        may_answer = asyncio.Event()

        async def slowly(token: str | None) -> Viewer:
            if token is None:
                return ANONYMOUS
            asked.append(token)
            await may_answer.wait()
            return CALLERS[token]

        async with AsyncExitStack() as stack:
            address = await stack.enter_async_context(served(toy_app(authenticate=slowly)))
            client = await stack.enter_async_context(httpx.AsyncClient())
            sockets = [await stack.enter_async_context(socket_to(address)) for _ in range(6)]
            acknowledged = [asyncio.create_task(socket.init()) for socket in sockets]
            # Requests by which the messages of all sockets have arrived, and which need not wait for them.
            for _ in range(3):
                answered = await client.post(f"http://{address}/", json={"query": SCHEMA})
                assert answered.json()["data"]
            assert len(asked) == 4
            may_answer.set()
            assert {(await answer)["type"] for answer in acknowledged} == {"connection_ack"}
            assert len(asked) == 6

    run(scenario)


def test_a_subscription_is_not_prepared_before_its_turn_to_start() -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub)
        async with served(app) as address, socket_to(address) as socket:
            await socket.init()
            async with app.admission.turns.taken("Ada") as first:
                await first.start_alone()
                await socket.subscribe("1", NEWS)
                await socket.send(type="ping")
                assert await socket.receive() == {"type": "pong"}
                assert not hub.queues
            await hub.listeners(1)

    run(scenario)


def test_subscriptions_of_one_caller_start_one_after_the_other() -> None:
    async def scenario() -> None:
        turns = Turns(at_once=3)
        async with turns.taken("ann") as first, turns.taken("ann") as second, turns.taken("bob") as other:
            await first.start_alone()
            starting = asyncio.create_task(second.start_alone())
            await other.start_alone()
            await asyncio.sleep(0)
            assert not starting.done()
            async with turns.taken("ann"):  # what starts no subscription does not wait for those that do
                first.end()
            await starting

    run(scenario)


def test_what_waits_to_start_keeps_no_other_operation_of_the_caller_waiting() -> None:
    async def scenario() -> None:
        turns = Turns(at_once=2)
        async with turns.taken("ann") as first, turns.taken("ann") as second:
            await first.start_alone()
            starting = asyncio.create_task(second.start_alone())
            await asyncio.sleep(0)
            async with turns.taken("ann"):
                assert not starting.done()
            first.end()
            await starting

    run(scenario)


@pytest.mark.parametrize(("took", "rest"), [(0.03, 0.15), (5.0, 0.25)])
def test_a_start_is_followed_by_a_rest_in_which_others_have_the_loop(
    monkeypatch: pytest.MonkeyPatch, took: float, rest: float
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        clock = loop.time()
        monkeypatch.setattr(loop, "time", lambda: clock)

        async def after(seconds: float) -> None:
            nonlocal clock
            clock += seconds
            for _ in range(5):
                await asyncio.sleep(0)

        turns = Turns(at_once=2)
        async with turns.taken("ann") as first, turns.taken("ann") as second, turns.taken("bob") as other:
            await first.start_alone()
            starting = asyncio.create_task(second.start_alone())
            await after(took)
            first.end()
            await after(rest - 0.01)
            assert not starting.done()
            await other.start_alone()
            await after(0.02)
            assert starting.done()

    run(scenario)


def test_a_subscription_cancelled_while_it_waits_to_start_passes_its_turn_on() -> None:
    async def scenario() -> None:
        turns = Turns(at_once=2)
        async with turns.taken("ann") as first:
            await first.start_alone()
            async with turns.taken("ann") as second:
                cancelled = asyncio.create_task(second.start_alone())
                await asyncio.sleep(0)
                cancelled.cancel()
            first.end()
            async with turns.taken("ann") as third:
                await third.start_alone()

    run(scenario)


async def _completes(hub: Hub, app: GatewayGraphQL, socket: Socket) -> None:
    hub.publish(None)
    assert (await socket.receive())["type"] == "complete"


async def _breaks(hub: Hub, app: GatewayGraphQL, socket: Socket) -> None:
    hub.publish(RuntimeError("broken"))
    assert (await socket.receive())["type"] == "error"


async def _is_cancelled(hub: Hub, app: GatewayGraphQL, socket: Socket) -> None:
    await socket.send(type="complete", id="a")


async def _violates_the_protocol(hub: Hub, app: GatewayGraphQL, socket: Socket) -> None:
    await socket.send(type="nonsense")
    await socket.closed()


async def _loses_its_connection(hub: Hub, app: GatewayGraphQL, socket: Socket) -> None:
    socket.connection.transport.abort()


async def _is_shut_down(hub: Hub, app: GatewayGraphQL, socket: Socket) -> None:
    await app.shutdown()


@pytest.mark.parametrize(
    "end",
    [_completes, _breaks, _is_cancelled, _violates_the_protocol, _loses_its_connection, _is_shut_down],
    ids=lambda end: end.__name__.strip("_"),
)
def test_a_socket_releases_its_slot_however_it_ends(end: Callable[..., Awaitable[None]]) -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub)
        async with served(app) as address:
            async with socket_to(address) as socket:
                await socket.init()
                await socket.subscribe("a", NEWS)
                await hub.listeners(1)
                assert open_things(app) == (1, 1)
                await end(hub, app, socket)
                await hub.listeners(0)
            await all_closed(app)

    run(scenario)


@pytest.mark.parametrize("accept", [SSE, MULTIPART])
@pytest.mark.parametrize("how", ["completes", "breaks", "is left", "is shut down"])
def test_a_stream_releases_its_slot_however_it_ends(how: str, accept: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub, heartbeat_seconds=3600)
        async with served(app) as address:
            async with stream(address, NEWS, accept) as (_, blocks):
                await hub.listeners(1)
                assert open_things(app) == (1, 1)
                if how == "is shut down":
                    await app.shutdown()
                elif how != "is left":
                    hub.publish(None if how == "completes" else RuntimeError("broken"))
                if how != "is left":
                    assert [block async for block in blocks]
            await all_closed(app)

    run(scenario)


@pytest.mark.parametrize("type_", ["x" * 1_000, "ü" * 1_000, "x" + "\U0001f4a5" * 1_000, "\ud800" * 1_000])
def test_a_close_reason_is_cut_to_what_a_close_frame_holds(type_: str) -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, socket_to(address) as socket:
            await socket.init()
            await socket.send(type=type_)

            code, reason = await socket.closed()

            assert code == 4400
            assert str(reason).startswith("Unknown message type: ")
            assert 100 < len(str(reason).encode()) <= 123

    run(scenario)


def test_the_id_of_an_operation_in_a_close_reason_is_cut_as_well() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address, socket_to(address) as socket:
            await socket.init()
            for _ in range(2):
                await socket.subscribe("ü" * 256, NEWS)

            code, reason = await socket.closed()

            assert code == 4409
            assert str(reason) == "Subscriber for " + "ü" * 54

    run(scenario)


@pytest.mark.parametrize("protocols", [["x" * 1_000], ["graphql-transport-ws-" + "x" * 200, "graphql-ws"]])
def test_names_of_other_subprotocols_are_not_quoted(protocols: Any) -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, connect(f"ws://{address}/", subprotocols=protocols) as connection:
            await connection.wait_closed()
            assert (connection.close_code, connection.close_reason) == (4406, "Subprotocol not acceptable")

    run(scenario)
