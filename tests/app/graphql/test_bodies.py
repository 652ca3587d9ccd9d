"""Bodies of GraphQL requests: refused before they are read, incomplete, and with too much in them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from app.graphql.admission import CallerLimits
from app.graphql.json_values import NotJson, TooManyValues, count_items, read_json
from app.graphql.limits.query_limits import QueryLimits
from app.graphql.transport.media_types import MediaType, negotiate
from tests.support.serving import served, socket_to
from tests.support.toy_schema import toy_app

GOOD = "Authorization: Bearer good"
JSON = "Content-Type: application/json"


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await scenario()

    asyncio.run(limited())


@asynccontextmanager
async def connection_to(address: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


def head(*lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} / HTTP/1.1", "Host: library", *lines, "", ""]).encode()


async def exchanged(app: Any, *pieces: bytes) -> tuple[int, dict[str, Any], bytes]:
    """Sends bytes and reads until the server closes. Returns the status, the error's extensions and the head."""
    async with served(app) as address, connection_to(address) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
        raw_head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    return int(raw_head.split()[1]), json.loads(body)["errors"][0]["extensions"], raw_head


@pytest.mark.parametrize("sent", [b"", b'{"query"'])
@pytest.mark.parametrize("credential", ["X-Nothing: here", GOOD])
def test_a_body_that_does_not_arrive_is_answered_and_the_connection_closed(credential: str, sent: bytes) -> None:
    async def scenario() -> None:
        app = toy_app(caller_limits=CallerLimits(body_seconds=0.05))

        status, error, raw_head = await exchanged(app, head(credential, JSON, "Content-Length: 100"), sent)

        assert (status, error["code"]) == (408, "REQUEST_TIMEOUT")
        assert error["hint"]
        assert b"connection: close" in raw_head.lower()

    run(scenario)


def test_a_body_that_drips_has_no_more_time_than_one_that_stops() -> None:
    async def scenario() -> None:
        app = toy_app(caller_limits=CallerLimits(body_seconds=0.2))
        async with served(app) as address, connection_to(address) as (reader, writer):
            writer.write(head(GOOD, JSON, "Content-Length: 1000000"))
            answered = asyncio.create_task(reader.read(12))
            while not answered.done():
                writer.write(b" ")
                await asyncio.wait({answered}, timeout=0.01)

        assert answered.result() == b"HTTP/1.1 408"

    run(scenario)


@pytest.mark.parametrize(
    ("lines", "status", "code"),
    [
        (["Authorization: Bearer bad", JSON], 401, "UNAUTHENTICATED"),
        (["Authorization: Basic QWRhOg==", JSON], 401, "UNAUTHENTICATED"),
        (["Content-Type: text/plain"], 415, "UNSUPPORTED_MEDIA_TYPE"),
        ([JSON, "Accept: text/plain"], 406, "NOT_ACCEPTABLE"),
        ([JSON, "Accept: text/event-stream", "Authorization: Bearer bad"], 401, "UNAUTHENTICATED"),
    ],
)
def test_what_the_head_decides_is_answered_before_the_body_arrives(lines: list[str], status: int, code: str) -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, connection_to(address) as (reader, writer):
            writer.write(head(*lines, "Content-Length: 1000"))

            raw_head = await reader.readuntil(b"\r\n\r\n")

            assert int(raw_head.split()[1]) == status
            assert b"connection: close" in raw_head.lower()
            length = int(raw_head.lower().split(b"content-length: ")[1].split()[0])
            assert json.loads(await reader.readexactly(length))["errors"][0]["extensions"]["code"] == code

            writer.write(b" " * 1000)
            assert await reader.read() == b""

    run(scenario)


@pytest.mark.parametrize(
    ("credential", "length", "limit"),
    [
        (GOOD, "1048577", "1 MiB"),
        ("X-Nothing: here", "65537", "64 KiB"),
        ("X-Nothing: here", "9" * 18, "64 KiB"),
    ],
)
def test_a_body_with_too_long_a_declared_length_is_not_read(credential: str, length: str, limit: str) -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, connection_to(address) as (reader, writer):
            writer.write(head(credential, JSON, f"Content-Length: {length}"))
            raw_head = await reader.readuntil(b"\r\n\r\n")
            assert raw_head.startswith(b"HTTP/1.1 413")
            body = await reader.readuntil(b"}]}")

        [error] = json.loads(body)["errors"]
        assert error["message"] == f"The body is longer than {limit}."
        assert ("token" in error["extensions"]["hint"]) == (credential != GOOD)

    run(scenario)


@pytest.mark.parametrize(("credential", "limit"), [(GOOD, 1024 * 1024), ("X-Nothing: here", 64 * 1024)])
def test_a_body_without_a_length_is_not_kept_beyond_the_limit(credential: str, limit: int) -> None:
    async def scenario() -> None:
        lines = [credential, JSON, "Transfer-Encoding: chunked"]
        chunk = b"%x\r\n%s\r\n" % (limit + 1, b" " * (limit + 1))

        status, error, raw_head = await exchanged(toy_app(), head(*lines), chunk, b"0\r\n\r\n")

        assert (status, error["code"]) == (413, "BODY_TOO_LARGE")
        assert b"connection: close" in raw_head.lower()

    run(scenario)


def test_an_anonymous_body_of_the_standard_introspection_fits() -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, httpx.AsyncClient() as client:
            body = {"query": "{ __schema { queryType { name } } } #" + "x" * 60_000}
            answer = await client.post(f"http://{address}/", json=body)
        assert answer.json()["data"] == {"__schema": {"queryType": {"name": "Query"}}}

    run(scenario)


LABELS = [{"key": f"k{n}", "value": "v"} for n in range(33_000)]
IDS = {"ids": [str(n) for n in range(1_000)]}


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream", "multipart/mixed;subscriptionSpec=1.0"])
@pytest.mark.parametrize(
    ("variables", "code"),
    [
        ({"labels": LABELS}, "TOO_MANY_ITEMS"),
        (IDS, "TOO_MANY_ITEMS"),
        ({"a": json.loads("[" * 13 + "]" * 13)}, "VARIABLES_TOO_DEEP"),
    ],
)
def test_variables_of_too_many_items_are_refused_over_http(variables: Any, code: str, accept: str) -> None:
    async def scenario() -> None:
        headers = {"Accept": accept, "Authorization": "Bearer good"}
        async with served(toy_app()) as address, httpx.AsyncClient(headers=headers) as client:
            answer = await client.post(f"http://{address}/", json={"query": "{ hello }", "variables": variables})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["extensions"]["code"] == code

    run(scenario)


def test_variables_of_too_many_items_are_refused_over_get() -> None:
    async def scenario() -> None:
        parameters = {"query": "{ hello }", "variables": json.dumps({"n": [1] * 1_000})}
        headers = {"Authorization": "Bearer good"}
        async with served(toy_app()) as address, httpx.AsyncClient(headers=headers) as client:
            answer = await client.get(f"http://{address}/", params=parameters)
        assert answer.json()["errors"][0]["extensions"]["code"] == "TOO_MANY_ITEMS"

    run(scenario)


def test_variables_of_too_many_items_cost_their_operation_on_a_socket() -> None:
    async def scenario() -> None:
        async with served(toy_app()) as address, socket_to(address) as socket:
            await socket.init()
            await socket.subscribe("a", "{ hello }", variables=IDS)
            refused = await socket.receive()
            assert (refused["type"], refused["payload"][0]["extensions"]["code"]) == ("error", "TOO_MANY_ITEMS")
            assert refused["payload"][0]["extensions"]["hint"]

            await socket.subscribe("a", "{ hello }", variables={"ids": IDS["ids"][:999]})
            assert (await socket.receive())["type"] == "next"
            assert (await socket.receive())["type"] == "complete"

            await socket.subscribe("b", "{ hello }", variables={"labels": LABELS[:5_000]})
            assert await socket.closed() == (1009, "TOO_MANY_ITEMS: messages may have at most 10,000 JSON values")

    run(scenario)


def test_literals_are_bounded_by_the_tokens_of_the_document() -> None:
    async def scenario() -> None:
        document = "{ nodes(ids: [" + "1 " * 2_000 + "]) { id } }"
        headers = {"Authorization": "Bearer good"}
        async with served(toy_app()) as address, httpx.AsyncClient(headers=headers) as client:
            answer = await client.post(f"http://{address}/", json={"query": document})
        assert answer.json()["errors"][0]["extensions"]["code"] == "TOO_MANY_TOKENS"

    run(scenario)


@pytest.mark.parametrize(
    "text",
    [
        "[" + "[]," * 5_000 + "0]",
        "{" + '"a":{},' * 5_000 + '"b":1}',
        "[" * 10_001,
        '"' + "," * 5_000 + '",' + "[{" * 5_001,
        '["\\"' + "," * 20 + '",' + "1," * 10_001 + "1]",
    ],
)
def test_json_of_too_many_values_is_not_parsed(text: str) -> None:
    with pytest.raises(TooManyValues):
        read_json(text, 10_000)


@pytest.mark.parametrize(
    "text",
    ['"' + "[{," * 300_000 + '"', '["' + '\\",' * 300_000 + '"]', '"' + "\\\\" * 300_000 + '"'],
)
def test_separators_in_strings_are_no_values(text: str) -> None:
    assert isinstance(read_json(text.encode(), 10_000), str | list)


def test_every_value_may_be_a_string_that_has_a_name() -> None:
    text = json.dumps({str(number): "," for number in range(10_000)})
    assert len(read_json(text, 10_000)) == 10_000  # type: ignore[arg-type]


def test_no_more_strings_are_looked_at_than_the_values_can_have() -> None:
    """A megabyte of short strings would take longer to look at than the values within the limit to parse."""
    with pytest.raises(NotJson):
        read_json('"," ' * 20_001, 10_000)
    with pytest.raises(TooManyValues):
        read_json('"," ' * 20_002, 10_000)


@pytest.mark.parametrize(
    "text",
    [b"", b"[" * 9_999, b'"' + b"[" * 500_000, b'"' + b'\\"' * 400_000 + b"\\", b"\xff", b"1" * 5_000],
)
def test_what_is_no_json_says_so(text: bytes) -> None:
    with pytest.raises(NotJson):
        read_json(text, 10_000)


def test_items_are_counted_at_every_depth() -> None:
    assert count_items(None, 10) == (0, 0)
    assert count_items({"a": 1}, 10) == (1, 1)
    assert count_items({"a": [1, {"b": [2]}], "c": "text"}, 10) == (6, 4)
    assert count_items([0] * 1_000_000, 10)[0] > 10


def test_an_endless_accept_header_is_read_at_its_beginning_only() -> None:
    assert negotiate("application/json" + ",a;b" * 100_000) is MediaType.JSON
    assert negotiate("a," * 100 + "application/json") is None


def test_the_limits_on_values_are_the_documented_ones() -> None:
    limits = QueryLimits()
    assert (limits.variable_items, limits.json_values, limits.anonymous_body_bytes) == (1_000, 10_000, 64 * 1024)
