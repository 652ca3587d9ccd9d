"""Heads and framing that are too large, over real sockets: they are refused, and others are served."""

from collections.abc import Iterator

import pytest
from websockets.sync.client import connect

from tests.support.raw_http import answer_to, connected, one_answer, status_of
from tests.support.scraped import Scrape
from tests.support.wire_server import Served, served

KIB = 1024
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
SOCKET = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
MUCH = 1000
"""Pieces of 64 KiB that are sent where nothing ends the head."""


@pytest.fixture(scope="module")
def place() -> Iterator[Served]:
    with served() as place:
        yield place


def fields(count: int) -> bytes:
    return b"".join(b"X-%d: 1\r\n" % number for number in range(count))


ENDLESS = {
    "request line": (b"GET /", b"a" * 64 * KIB),
    "field": (GET + b"X: ", b"a" * 64 * KIB),
    "field's name": (GET, b"a" * 64 * KIB),
    "spaces before a value": (GET + b"X:", b" " * 64 * KIB),
    "fields": (GET, b"X: y\r\n" * 10_000),
    "empty lines": (b"", b"\r\n" * 32 * KIB),
    "fields of a websocket": (SOCKET, b"X: y\r\n" * 10_000),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_head_without_an_end_is_refused_with_431(place: Served, name: str) -> None:
    beginning, more = ENDLESS[name]

    with connected(place.host) as connection:
        answer = answer_to(connection, beginning, *[more] * MUCH)

    assert status_of(answer) == 431
    assert b"64 KiB" in answer
    assert b"connection: close" in answer


@pytest.mark.parametrize("beginning", [GET, SOCKET], ids=["request", "websocket"])
def test_a_head_has_at_most_a_hundred_fields(place: Served, beginning: bytes) -> None:
    given = beginning.count(b"\r\n") - 1

    with connected(place.host) as connection:
        most = beginning + fields(100 - given)
        connection.sendall(most + b"\r\n")
        taken = connection.recv(KIB)
    with connected(place.host) as connection:
        refused = answer_to(connection, beginning + fields(101 - given) + b"\r\n")

    assert status_of(taken) in (200, 101)
    assert status_of(refused) == 431


@pytest.mark.parametrize(
    "head",
    [
        GET + b"X: " + b"a" * 65 * KIB + b"\r\n\r\n",
        b"GET /echo?" + b"a" * 65 * KIB + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"".join(b"X-%d: %s\r\n" % (number, b"a" * 2 * KIB) for number in range(33)) + b"\r\n",
    ],
    ids=["field", "request line", "sum"],
)
def test_a_complete_head_of_more_than_64_kib_is_refused(place: Served, head: bytes) -> None:
    with connected(place.host) as connection:
        answer = answer_to(connection, head)

    assert status_of(answer) == 431


def test_a_head_of_almost_64_kib_is_taken(place: Served) -> None:
    with connected(place.host) as connection:
        connection.sendall(GET + b"X: " + b"a" * 63 * KIB + b"\r\n\r\n")
        answer = one_answer(connection)

    assert status_of(answer) == 200


def test_later_heads_of_a_connection_are_limited_too(place: Served) -> None:
    with connected(place.host) as connection:
        for _ in range(3):
            connection.sendall(GET + b"X: " + b"a" * 60 * KIB + b"\r\n\r\n")
            assert status_of(one_answer(connection)) == 200

        answer = answer_to(connection, GET, *[b"X: y\r\n" * 10_000] * MUCH)

    assert status_of(answer) == 431


def test_a_pipelined_head_is_refused_after_the_answers_before_it(place: Served) -> None:
    with connected(place.host) as connection:
        answers = answer_to(connection, (GET + b"\r\n") * 2 + GET + fields(200) + b"\r\n")

    assert [int(part[:3]) for part in answers.split(b"HTTP/1.1 ")[1:]] == [200, 200, 431]


def test_endless_pipelining_is_cut_off_after_the_answers(place: Served) -> None:
    small = b"GET /echo HTTP/1.1\r\n\r\n"
    place.paths.clear()

    with connected(place.host) as connection:
        answers = answer_to(connection, *[small * 3000] * 10)

    assert 1 <= answers.count(b"HTTP/1.1 200") <= 20
    assert len(place.paths) <= 20


def test_trailers_are_refused_and_never_reach_the_application(place: Served) -> None:
    place.paths.clear()

    with connected(place.host) as connection:
        answer = answer_to(connection, CHUNKED, b"2\r\n{}\r\n0\r\nX-Project: p\r\n\r\n")

    assert status_of(answer) == 400
    assert b"trailer" in answer
    assert b"connection: close" in answer


def test_a_chunked_body_without_trailers_is_taken(place: Served) -> None:
    with connected(place.host) as connection:
        connection.sendall(CHUNKED + b"1;a=b\r\nx\r\n" * 3000 + b"0\r\n\r\n")
        answer = one_answer(connection)

    assert b'"bytes":3000' in answer


@pytest.mark.parametrize(
    "more",
    [b"a" * 64 * KIB, (b"1;" + b"a" * KIB + b"\r\nx\r\n") * 60],
    ids=["one without an end", "one for each chunk"],
)
def test_endless_chunk_extensions_are_refused(place: Served, more: bytes) -> None:
    beginning = b"1;a=" if more.startswith(b"a") else b""

    with connected(place.host) as connection:
        answer = answer_to(connection, CHUNKED, beginning, *[more] * MUCH)

    assert status_of(answer) == 400
    assert b"framing" in answer


def test_a_body_that_is_not_wanted_is_read_up_to_a_limit(place: Served) -> None:
    head = b"POST /ignored HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"

    with connected(place.host) as connection:
        connection.sendall(head % (512 * KIB))
        short = [status_of(one_answer(connection))]
        connection.sendall(bytes(512 * KIB) + GET + b"\r\n")
        short.append(status_of(one_answer(connection)))
    with connected(place.host) as connection:
        long = answer_to(connection, head % (10**12), *[bytes(64 * KIB)] * MUCH)

    assert short == [403, 200]
    assert long.count(b"HTTP/1.1") == 1


def test_a_client_that_asks_first_is_answered_before_it_sends_a_body(place: Served) -> None:
    head = b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"

    with connected(place.host) as connection:
        connection.sendall(head % b"/echo")
        interim = connection.recv(KIB)
        connection.sendall(b"12345")
        final = one_answer(connection)
    with connected(place.host) as connection:
        connection.sendall(head % b"/ignored")
        refused = one_answer(connection)

    assert interim == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert status_of(final) == 200
    assert status_of(refused) == 403


def test_a_line_that_the_handshake_cannot_have_is_refused(place: Served) -> None:
    with connected(place.host) as connection:
        answer = answer_to(connection, SOCKET + b"X: " + b"a" * 9 * KIB + b"\r\n\r\n")

    assert status_of(answer) == 431
    assert b"8 KiB" in answer


def test_a_websocket_with_large_fields_works(place: Served) -> None:
    url = "ws://{}:{}/socket".format(*place.host)

    with connect(url, additional_headers={"X": "a" * 7 * KIB}) as socket:
        socket.send("hello")
        answer = socket.recv()

    assert answer == "hello"


def test_messages_of_endlessly_many_empty_fragments_are_refused(place: Served) -> None:
    first, empty = b"\x01\x80aaaa", b"\x00\x80aaaa"

    with connected(place.host) as connection:
        connection.sendall(SOCKET + b"\r\n")
        assert status_of(connection.recv(KIB)) == 101
        answer = answer_to(connection, first, *[empty * 10_000] * 50)

    assert (1009).to_bytes(2) in answer


def test_another_upgrade_ends_the_connection_after_its_answer(place: Served) -> None:
    smuggled = GET + b"X: smuggled\r\n\r\n"
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n"

    with connected(place.host) as connection:
        connection.sendall(head % len(smuggled))
        answers = answer_to(connection, smuggled)

    assert answers.count(b"HTTP/1.1") == 1


def test_a_client_that_leaves_a_pipeline_ends_the_request_at_its_front(place: Served) -> None:
    with connected(place.host) as connection:
        connection.sendall(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
        while b"begun" not in connection.recv(KIB):
            pass
        connection.sendall(GET + b"\r\n")

    assert place.ended.wait(30)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"not HTTP\r\n\r\n", "INVALID"),
        (CHUNKED + b"0\r\nX: y\r\n\r\n", "INVALID"),
        (CHUNKED + b"1;a=b\r\nx\r\n" + b"1;" + b"a" * 512 * KIB, "INVALID"),
        (SOCKET + b"Content-Length: 5\r\n\r\n", "INVALID"),
        (GET + fields(200) + b"\r\n", "TOO_LARGE"),
        (SOCKET + b"X: " + b"a" * 9 * KIB + b"\r\n\r\n", "TOO_LARGE"),
    ],
    ids=["no request", "trailers", "chunk extensions", "no handshake", "head", "handshake"],
)
def test_a_refusal_is_counted_by_its_code(place: Served, sent: bytes, code: str) -> None:
    before = Scrape.here()

    with connected(place.host) as connection:
        answer = answer_to(connection, sent)

    after = Scrape.here()
    assert b'"code": "%s"' % code.encode() in answer
    assert after.more(before, "images_errors_total", where="server", code=code) == 1
    assert after.more(before, "images_errors_total", where="server") == 1
