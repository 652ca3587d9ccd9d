"""Clients that are late, silent or many, over real sockets: they give way, and others are served."""

import socket
import time
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from app.client_network import client_network
from app.commands.serving import drop_slow_readers
from app.errors import SettingsError
from app.wire.limits import connection_limit
from tests.support.raw_http import Host, answer_to, connected, one_answer, rest_of, status_of
from tests.support.scraped import Scrape
from tests.support.wire_server import LARGE, Served, served

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET /echo HTTP/1.1\r\nHost"
SHORTLY = 0.3
LONG = 3600.0


def is_open(connection: socket.socket) -> bool:
    """Whether the server has kept the connection so far."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False
    finally:
        connection.settimeout(30)


def ask(host: Host) -> int:
    """The status of a request on a connection of its own."""
    with connected(host) as connection:
        connection.sendall(GET)
        return status_of(one_answer(connection))


def connect_with_little_room(connection: socket.socket, host: Host) -> None:
    """Connect with small buffers, so that what is not read stays with the server."""
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        connection.setsockopt(socket.SOL_SOCKET, buffer, 4096)
    connection.settimeout(30)
    connection.connect(host)


def send_without_end(connection: socket.socket, data: bytes) -> None:
    """Raises TimeoutError when the server takes no more."""
    while True:
        connection.sendall(data)


def opened(stack: ExitStack, host: Host, count: int, begun: bytes = b"") -> list[socket.socket]:
    """Connections that have sent `begun` and nothing else."""
    connections = [stack.enter_context(connected(host)) for _ in range(count)]
    for connection in connections:
        connection.sendall(begun)
    return connections


def test_a_head_that_does_not_end_is_answered_with_408() -> None:
    with served(head_seconds=SHORTLY) as place, connected(place.host) as connection:
        answer = answer_to(connection, HALF)

    assert status_of(answer) == 408
    assert b"connection: close" in answer


def test_a_connection_on_which_nothing_comes_is_closed_without_an_answer() -> None:
    with served(head_seconds=SHORTLY) as place, connected(place.host) as connection:
        answer = rest_of(connection)

    assert answer == b""


def test_a_late_head_is_counted_and_a_silent_client_is_not() -> None:
    before = Scrape.here()

    with served(head_seconds=SHORTLY) as place:
        with connected(place.host) as late:
            answer_to(late, HALF)
        with connected(place.host) as silent:
            rest_of(silent)

    after = Scrape.here()
    assert after.more(before, "images_errors_total", where="server", code="REQUEST_TIMEOUT") == 1
    assert after.more(before, "images_errors_total", where="server") == 1


def test_bytes_that_drip_do_not_extend_the_time() -> None:
    with served(head_seconds=SHORTLY) as place, connected(place.host) as connection:
        connection.settimeout(0.05)
        connection.sendall(b"GET /")
        answer = b""
        while not answer:  # it fails by hanging
            connection.sendall(b"a")
            try:
                answer = connection.recv(1024)
            except TimeoutError:
                continue

    assert status_of(answer) == 408


def test_the_time_of_a_later_head_begins_with_its_first_byte() -> None:
    with served(head_seconds=SHORTLY) as place, connected(place.host) as connection:
        connection.sendall(GET)
        assert status_of(one_answer(connection)) == 200
        answer = answer_to(connection, HALF)

    assert status_of(answer) == 408


def test_a_connection_may_be_idle_for_longer_than_a_head_may_take() -> None:
    with served(head_seconds=0.05, timeout_keep_alive=LONG) as place, connected(place.host) as connection:
        connection.sendall(GET)
        first = one_answer(connection)
        with connected(place.host) as other:  # until the time of a head has passed for another
            rest_of(other)
        connection.sendall(GET)
        second = one_answer(connection)

    assert [status_of(first), status_of(second)] == [200, 200]


def test_an_idle_connection_is_closed() -> None:
    with served(timeout_keep_alive=SHORTLY) as place, connected(place.host) as connection:
        answers = answer_to(connection, GET)

    assert answers.count(b"HTTP/1.1") == 1


def test_a_connection_is_idle_too_when_its_body_came_after_the_answer() -> None:
    with served(timeout_keep_alive=SHORTLY) as place, connected(place.host) as connection:
        connection.sendall(b"POST /ignored HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")
        assert status_of(one_answer(connection)) == 403
        answer = answer_to(connection, b"12345")

    assert answer == b""


def test_the_rest_of_an_unwanted_body_has_to_come_in_time() -> None:
    with served(head_seconds=SHORTLY) as place, connected(place.host) as connection:
        answers = answer_to(connection, b"POST /ignored HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n")

    assert answers.count(b"HTTP/1.1") == 1


def test_a_request_that_takes_longer_than_a_head_may_is_answered() -> None:
    with served(head_seconds=0.05) as place, connected(place.host) as connection:
        connection.sendall(GET.replace(b"echo", b"held"))
        with connected(place.host) as other:
            rest_of(other)
        place.gate.set()
        answer = one_answer(connection)

    assert status_of(answer) == 200


def test_half_open_heads_give_way_the_oldest_of_their_address_first() -> None:
    with served(connections=8, head_seconds=LONG) as place, ExitStack() as stack:
        half = opened(stack, place.host, 3, HALF)
        status = ask(place.host)

        assert rest_of(half[0]) == b""
        assert status == 200
        assert is_open(half[2])


def test_more_half_open_heads_than_connections_lock_nobody_out() -> None:
    with served(connections=20, head_seconds=LONG) as place, ExitStack() as stack:
        opened(stack, place.host, 100, HALF)

        statuses = [ask(place.host) for _ in range(5)]

    assert statuses == [200] * 5


def test_idle_connections_give_way_the_longest_idle_first() -> None:
    with served(connections=4, timeout_keep_alive=LONG) as place, ExitStack() as stack:
        idle = opened(stack, place.host, 0)
        for _ in range(4):
            idle += opened(stack, place.host, 1, GET)
            assert status_of(one_answer(idle[-1])) == 200

        status = ask(place.host)

        assert rest_of(idle[0]) == b""
        assert status == 200
        assert [is_open(connection) for connection in idle[1:]] == [True] * 3


def test_requests_that_are_served_do_not_give_way_and_others_see_503() -> None:
    with served(connections=4, head_seconds=LONG) as place, ExitStack() as stack:
        held = []
        for _ in range(4):
            held += opened(stack, place.host, 1, GET.replace(b"echo", b"held"))
            assert place.holding.acquire(timeout=30)

        with connected(place.host) as connection:
            refused = answer_to(connection)
        place.gate.set()
        answers = [status_of(one_answer(connection)) for connection in held]
        status = ask(place.host)

    assert status_of(refused) == 503
    assert answers == [200] * 4
    assert status == 200


def test_a_client_that_sees_503_is_counted() -> None:
    before = Scrape.here()

    with served(connections=1, head_seconds=LONG) as place, connected(place.host) as held:
        held.sendall(GET.replace(b"echo", b"held"))
        assert place.holding.acquire(timeout=30)
        with connected(place.host) as connection:
            answer_to(connection)

    assert Scrape.here().more(before, "images_errors_total", where="server", code="OVERLOADED") == 1


def test_sockets_give_way_until_they_have_spoken() -> None:
    with served(connections=4, head_seconds=LONG) as place, ExitStack() as stack:
        url = "ws://{}:{}/socket".format(*place.host)
        spoken = stack.enter_context(connect(url))
        spoken.send("hello")
        assert spoken.recv() == "hello"
        silent = [stack.enter_context(connect(url)) for _ in range(3)]

        statuses = [ask(place.host) for _ in range(3)]
        spoken.send("still here")

        assert statuses == [200] * 3
        assert spoken.recv() == "still here"
        with pytest.raises(ConnectionClosed):
            silent[0].recv()


def test_a_client_that_does_not_read_its_answer_is_dropped() -> None:
    with served() as place, socket.socket() as slow:
        drop_slow_readers(place.listener, 0.5)
        connect_with_little_room(slow, place.host)
        slow.sendall(GET.replace(b"echo", b"large"))
        _until_connected(place, 1)

        _until_connected(place, 0)

        assert len(rest_of(slow)) < LARGE


def test_pings_are_not_answered_without_end_to_who_reads_no_answers() -> None:
    handshake = (
        b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    ping = b"\x89\xfdaaaa" + b"a" * 125
    with served() as place, socket.socket() as connection:
        connect_with_little_room(connection, place.host)
        connection.sendall(handshake)
        assert status_of(connection.recv(1024)) == 101

        connection.settimeout(1)
        with pytest.raises(TimeoutError):  # it is not read from
            send_without_end(connection, ping * 2000)

        assert place.unsent < 1024 * 1024


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("1.2.3.4, 203.0.113.9", "203.0.113.9"),
        ("1.2.3.4, 203.0.113.9, 127.0.0.1", "203.0.113.9"),
    ],
)
def test_a_trusted_proxy_says_who_the_client_is(forwarded: str, client: str) -> None:
    with served(proxy_headers=True, forwarded_allow_ips=["127.0.0.0/8"]) as place, connected(place.host) as connection:
        connection.sendall(b"GET /client HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: %s\r\n\r\n" % forwarded.encode())
        answer = one_answer(connection)

    assert b'"client":"%s"' % client.encode() in answer


@pytest.mark.parametrize(
    ("wanted", "descriptors", "limit"),
    [(None, 256, 64), (None, 1024, 448), (None, 1 << 20, 10_000), (500, 2048, 500), (None, 160, 16)],
)
def test_the_limit_of_connections_leaves_descriptors_for_the_rest(
    wanted: int | None, descriptors: int, limit: int
) -> None:
    assert connection_limit(wanted, descriptors) == limit


def test_too_few_descriptors_are_an_error_with_numbers() -> None:
    with pytest.raises(SettingsError, match="5000 connections need 10128 open files") as caught:
        connection_limit(5000, 1024)

    assert "this process may open only 1024;" in str(caught.value)
    assert "lower IMAGES_CONNECTIONS" in str(caught.value)


def test_too_few_descriptors_for_a_single_connection_are_told_in_the_singular() -> None:
    with pytest.raises(SettingsError, match="1 connection needs 130 open files"):
        connection_limit(1, 100)


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("", ""),
    ],
)
def test_an_ipv6_client_is_its_network(host: str, network: str) -> None:
    assert client_network(host) == network


def _until_connected(place: Served, count: int) -> None:
    """Waits until so many connections are open; it fails by hanging."""
    while place.connections != count:
        time.sleep(0.01)
