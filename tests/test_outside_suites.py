"""Audits and clients that others wrote, from npm, against a real server: tests/outside holds their scripts."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from tests.support.outside import OUTSIDE, PACKAGES, require
from tests.support.serving import served
from tests.support.toy_schema import Hub, toy_app

pytestmark = pytest.mark.needs_program("node")


@pytest.fixture(autouse=True)
def _clients_are_installed() -> None:
    require(PACKAGES)


class Script:
    """A script of tests/outside that is running."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def said(self) -> Any:
        """The next line that it printed, as JSON. Fails with what it complained of when it has ended."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        line = await self._process.stdout.readline()
        assert line, (await self._process.stderr.read()).decode()
        return json.loads(line)


@asynccontextmanager
async def running(name: str, *arguments: str) -> AsyncGenerator[Script, None]:
    process = await asyncio.create_subprocess_exec(
        "node",
        str(OUTSIDE / name),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Script(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await scenario()

    asyncio.run(limited())


def test_all_61_audits_of_graphql_over_http_pass() -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, running("audit.mjs", f"http://{address}/") as audits:
            results = [await audits.said() for _ in range(61)]
        assert [result for result in results if result["status"] != "ok"] == []
        assert len({result["id"] for result in results}) == 61

    run(scenario)


@pytest.mark.parametrize(
    "client",
    ["graphql-ws", "graphql-sse", "eventsource", "apollo-ws", "apollo-multipart", "urql-ws", "urql-sse"],
)
def test_the_client_watches_until_the_end(client: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        async with (
            served(toy_app(hub)) as address,
            running("watch.mjs", client, f"http://{address}/") as watcher,
        ):
            await hub.listeners(1)
            for text in ("one", "two", "last"):
                hub.publish(text)
                assert await watcher.said() == text
            hub.publish(None)
            assert await watcher.said() == "complete"

    run(scenario)


@pytest.mark.parametrize("client", ["graphql-ws", "graphql-sse", "eventsource", "apollo-ws", "urql-ws"])
def test_the_client_comes_back_by_itself_when_the_server_was_restarted(client: str) -> None:
    async def scenario() -> None:
        hub = Hub()
        async with AsyncExitStack() as until_the_end:
            async with served(toy_app(hub)) as address:
                script = running("watch.mjs", client, f"http://{address}/")
                watcher = await until_the_end.enter_async_context(script)
                await hub.listeners(1)
                hub.publish("one")
                assert await watcher.said() == "one"
            async with served(toy_app(hub), int(address.split(":")[1])):
                if client == "eventsource":
                    assert await watcher.said() == "after c-one"
                await hub.listeners(1)
                hub.publish("last")
                assert await watcher.said() == "last"

    run(scenario)


def test_a_multipart_client_is_told_that_the_server_goes_away() -> None:
    async def scenario() -> None:
        hub = Hub()
        app = toy_app(hub)
        async with (
            served(app) as address,
            running("watch.mjs", "apollo-multipart", f"http://{address}/") as watcher,
        ):
            await hub.listeners(1)
            await app.shutdown()
            assert await watcher.said() == {"errors": ["SHUTTING_DOWN"]}

    run(scenario)


@pytest.mark.parametrize(
    "client", ["graphql-ws", "graphql-sse", "apollo-ws", "apollo-multipart", "urql-ws", "urql-sse"]
)
def test_the_client_queries_mutates_and_reads_mistakes(client: str) -> None:
    book = {"__typename": "Book", "id": "1"}
    expected: dict[str, Any] = {
        "query": {"book": {**book, "title": "Volume 1"}},
        "invalid": ["GRAPHQL_VALIDATION_FAILED"],
        "coercion": ["BAD_USER_INPUT"],
    }
    if client.startswith(("apollo", "urql")):
        expected["mutation"] = {"renameBook": {**book, "title": "Renamed"}}
    if client.startswith("apollo"):
        expected["watched"] = ["Volume 1", "Renamed"]

    async def scenario() -> None:
        async with (
            served(toy_app()) as address,
            running("work.mjs", client, f"http://{address}/") as worker,
        ):
            assert await worker.said() == expected

    run(scenario)
