"""A client that sends bytes as they are, whether they are HTTP or not."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Host = tuple[str, int]

PATIENCE_SECONDS = 30
LINE = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


@contextmanager
def connected(host: Host) -> Iterator[socket.socket]:
    """A connection whose every wait ends after PATIENCE_SECONDS with TimeoutError."""
    with socket.create_connection(host, timeout=PATIENCE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def answer_to(connection: socket.socket, *pieces: bytes) -> bytes:
    """Send what the server takes of it, and return all that it answers until it closes the connection."""
    with suppress(ConnectionResetError, BrokenPipeError):
        for piece in pieces:
            connection.sendall(piece)
    return rest_of(connection)


def rest_of(connection: socket.socket) -> bytes:
    """What comes until the server closes the connection."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while chunk := connection.recv(1 << 16):
            received += chunk
    return bytes(received)


def one_answer(connection: socket.socket) -> bytes:
    """The next answer with a Content-Length or without a body, on a connection that stays open."""
    received = bytearray()
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    stated = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    missing = int(stated[0].partition(b":")[2]) - len(body) if stated else 0
    while missing > 0:
        chunk = _more(connection)
        received += chunk
        missing -= len(chunk)
    return bytes(received)


def _more(connection: socket.socket) -> bytes:
    chunk = connection.recv(1 << 16)
    assert chunk, "the server closed the connection"
    return chunk


def status_of(answer: bytes) -> int:
    """The status of the first answer."""
    return int(answer.split(b" ", 2)[1])
