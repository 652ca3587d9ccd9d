"""Clients that disconnect while an operation runs: queries are cancelled, mutations finished."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.graphql.transport.asgi import GatewayGraphQL
from app.graphql.uninterrupted import to_the_end
from tests.app.graphql.test_bodies import GOOD, JSON, connection_to, head
from tests.app.graphql.test_streams import MULTIPART, SSE
from tests.support.serving import served, socket_to
from tests.support.toy_schema import Hub, toy_app

QUERY = "{ nextNews }"
MUTATION = "mutation { printNews }"


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(limited())


class Watched(GatewayGraphQL):
    """The endpoint of the library; `noticed` is set when it has received the disconnect of a client."""

    def __init__(self, app: GatewayGraphQL) -> None:
        self._app = app
        self.noticed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def receive_and_notice() -> Message:
            message = await receive()
            if message["type"].endswith("disconnect"):
                self.noticed.set()
            return message

        await self._app(scope, receive_and_notice, send)

    async def shutdown(self, grace_seconds: float = 2.0) -> None:
        await self._app.shutdown(grace_seconds)


async def ask_and_go(address: str, document: str, accept: str, hub: Hub) -> None:
    """Sends an operation, and closes the connection while the operation waits for news."""
    body = json.dumps({"query": document}).encode()
    async with connection_to(address) as (_, writer):
        writer.write(head(GOOD, JSON, f"Accept: {accept}", f"Content-Length: {len(body)}") + body)
        await hub.listeners(1)


@pytest.mark.parametrize("accept", ["application/json", SSE, MULTIPART])
def test_a_query_is_cancelled_when_its_client_goes(accept: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address:
            await ask_and_go(address, QUERY, accept, hub)

            await hub.listeners(0)

    run(scenario)


@pytest.mark.parametrize("accept", ["application/json", SSE, MULTIPART])
def test_a_mutation_is_finished_when_its_client_goes(accept: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        app = Watched(toy_app(hub))
        async with served(app) as address:
            await ask_and_go(address, MUTATION, accept, hub)
            await app.noticed.wait()

            hub.publish("extra")

            assert await hub.printed.get() == "extra"
            await hub.listeners(0)

    run(scenario)


@pytest.mark.parametrize("ends", ["the socket", "the operation"])
def test_a_mutation_on_a_socket_is_finished_when_its_client_ends(ends: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        app = Watched(toy_app(hub))
        async with served(app) as address:
            async with socket_to(address) as socket:
                await socket.init()
                await socket.subscribe("a", MUTATION)
                await hub.listeners(1)
                if ends == "the operation":
                    await socket.send(type="complete", id="a")
                    await socket.send(type="ping")
                    assert (await socket.receive())["type"] == "pong"
                    hub.publish("extra")
                    assert await hub.printed.get() == "extra"
            if ends == "the socket":
                await app.noticed.wait()
                hub.publish("extra")
                assert await hub.printed.get() == "extra"

    run(scenario)


def test_a_query_on_a_socket_is_cancelled_when_the_operation_is_completed() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with served(toy_app(hub)) as address, socket_to(address) as socket:
            await socket.init()
            await socket.subscribe("a", QUERY)
            await hub.listeners(1)

            await socket.send(type="complete", id="a")

            await hub.listeners(0)

    run(scenario)


def test_a_query_that_is_waited_for_is_answered() -> None:
    async def scenario() -> None:
        hub = Hub()
        async with (
            served(toy_app(hub)) as address,
            httpx.AsyncClient(headers={"Authorization": "Bearer good"}) as client,
        ):
            asked = asyncio.create_task(client.post(f"http://{address}/", json={"query": QUERY}))
            await hub.listeners(1)
            hub.publish("extra")
            assert (await asked).json()["data"] == {"nextNews": "extra"}
            again = await client.post(f"http://{address}/", json={"query": "{ hello }"})
            assert again.json()["data"] == {"hello": "world"}

    run(scenario)


def test_work_that_is_finished_passes_on_its_result_or_the_cancellation() -> None:
    async def scenario() -> None:
        release = asyncio.Event()

        async def work(fails: bool) -> str:
            await release.wait()
            if fails:
                raise ValueError("failed")
            return "done"

        tasks = [asyncio.create_task(to_the_end(work(fails))) for fails in (False, True, False, True)]
        await asyncio.sleep(0)
        for task in tasks[2:]:
            task.cancel()
        await asyncio.sleep(0)
        assert not any(task.done() for task in tasks)
        release.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert results[0] == "done"
        assert isinstance(results[1], ValueError)
        assert all(isinstance(result, asyncio.CancelledError) for result in results[2:])

    run(scenario)
