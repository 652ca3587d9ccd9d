"""Floods of WebSocket handshakes, over real sockets: one after the other per address, and others do not wait."""

import socket
from contextlib import ExitStack

import pytest
from websockets.sync.client import connect

from app.wire import handshakes
from tests.support.raw_http import Host, connected, one_answer, rest_of, status_of
from tests.support.wire_server import served

GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MANY = 40


@pytest.fixture
def paused(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a handshake, the next one of the address waits for an hour."""
    monkeypatch.setattr(handshakes, "_PAUSE_SECONDS", 3600.0)


def asked(stack: ExitStack, host: Host, head: bytes, source: str = "127.0.0.1") -> socket.socket:
    """A connection from an address of this machine that has sent a head."""
    connection = stack.enter_context(socket.create_connection(host, timeout=30, source_address=(source, 0)))
    connection.sendall(head)
    return connection


def is_waiting(connection: socket.socket) -> bool:
    """Whether a connection is open, and has been sent nothing."""
    connection.setblocking(False)
    try:
        connection.recv(1)
    except BlockingIOError:
        return True
    return False


@pytest.mark.usefixtures("paused")
def test_the_next_handshake_of_an_address_waits_and_nothing_else_does() -> None:
    with served() as place, ExitStack() as stack:
        first = asked(stack, place.host, HANDSHAKE)
        assert status_of(one_answer(first)) == 101
        second = asked(stack, place.host, HANDSHAKE)

        assert status_of(one_answer(asked(stack, place.host, GET))) == 200
        assert status_of(one_answer(asked(stack, place.host, HANDSHAKE, source="127.0.0.2"))) == 101
        assert is_waiting(second)


@pytest.mark.usefixtures("paused")
def test_a_connection_that_waits_for_its_handshake_gives_way() -> None:
    with served(connections=2) as place, ExitStack() as stack:
        first = asked(stack, place.host, HANDSHAKE)
        assert status_of(one_answer(first)) == 101
        waiting = asked(stack, place.host, HANDSHAKE)

        statuses = [status_of(one_answer(asked(stack, place.host, GET))) for _ in range(2)]

        assert statuses == [200, 200]
        assert (rest_of(first), rest_of(waiting)) == (b"", b"")


def test_many_handshakes_at_once_all_succeed_also_when_some_clients_have_gone() -> None:
    with served() as place, ExitStack() as stack:
        for _ in range(MANY):
            with connected(place.host) as gone:
                gone.sendall(HANDSHAKE)
        waiting = [asked(stack, place.host, HANDSHAKE) for _ in range(MANY)]

        assert {status_of(one_answer(each)) for each in waiting} == {101}
        with connect("ws://{}:{}/socket".format(*place.host)) as talking:
            talking.send("hello")
            assert talking.recv() == "hello"
