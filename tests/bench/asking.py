"""Asks for pages over HTTP with a client that costs little: a request is written once, an answer is not parsed."""

import json
import re
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from tests.bench.serving import MeasurementFailed, processor_seconds

CONNECTIONS = 8
_ANSWER_SECONDS = 300
_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
Host = tuple[str, int]


def request(host: Host, path: str, query: str, variables: Mapping[str, Any], headers: Mapping[str, str]) -> bytes:
    """A POST of a GraphQL document, as it goes over the wire."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    named = {
        "host": "{}:{}".format(*host),
        "content-type": "application/json",
        "accept": "application/json",
        "content-length": str(len(body)),
        **headers,
    }
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + _HEAD_END + body


@contextmanager
def connected(host: Host) -> Iterator[socket.socket]:
    """A connection that is kept for many requests."""
    with socket.create_connection(host, timeout=_ANSWER_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def asked(connection: socket.socket, request: bytes) -> bytes:
    """The answer to a request, head and body. Raises MeasurementFailed unless it is 200 and has no errors."""
    connection.sendall(request)
    answer = _answer(connection)
    if not answer.startswith(b"HTTP/1.1 200") or b'"errors"' in answer:
        raise MeasurementFailed(f"not what was asked for: {answer[:500]!r}")
    return answer


def timed(connection: socket.socket, request: bytes) -> float:
    """Seconds from the request to the last byte of its answer. Raises MeasurementFailed."""
    began = time.perf_counter()
    asked(connection, request)
    return time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Rate:
    """Answers in a second, and in a second of the server's processor time."""

    per_second: float
    of_work: float


def rate(server: psutil.Process, host: Host, request: bytes, seconds: float) -> Rate:
    """How many answers come over all connections together. Raises MeasurementFailed."""
    began, work = time.perf_counter(), processor_seconds(server)
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        counts = list(threads.map(lambda _: _count(host, request, began + seconds), range(CONNECTIONS)))
    answers = sum(counts)
    return Rate(answers / (time.perf_counter() - began), answers / (processor_seconds(server) - work))


def _count(host: Host, request: bytes, until: float) -> int:
    answers = 0
    with connected(host) as connection:
        while time.perf_counter() < until:
            asked(connection, request)
            answers += 1
    return answers


def _answer(connection: socket.socket) -> bytes:
    """One response, head and body: nothing is parsed but its length, so that the client costs little."""
    received = bytearray()
    length = None
    while length is None or len(received) < length:
        chunk = connection.recv(1 << 16)
        if not chunk:
            raise MeasurementFailed("the server closed a connection")
        received += chunk
        if length is None and (end := received.find(_HEAD_END)) >= 0:
            stated = _LENGTH.search(received, 0, end)
            if stated is None:
                raise MeasurementFailed("an answer did not say how long it is")
            length = end + len(_HEAD_END) + int(stated[1])
    return bytes(received)
