"""Attacks on the connections of a gateway that runs: others are served meanwhile, and its memory does not grow."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e import images
from tests.e2e.client import Client
from tests.e2e.gateway import Gateway, start
from tests.support.raw_http import Host, answer_to, connected, status_of

MiB = 1024 * 1024
OPEN_FILES = 256
HEAD = b"POST /graphql HTTP/1.1\r\nHost: x\r\n"
SOCKET = (
    b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


@pytest.fixture(scope="module")
def gateway(module_folder: Path) -> Iterator[Gateway]:
    """A gateway with few descriptors, on which heads never time out."""
    gateway = start(module_folder / "data", {"IMAGES_HEAD_SECONDS": "3600"}, open_files=OPEN_FILES)
    try:
        yield gateway
        gateway.stop()
    finally:
        gateway.kill()


def place_of(gateway: Gateway) -> Host:
    return "127.0.0.1", gateway.port


def memory_of(gateway: Gateway) -> int:
    return int(psutil.Process(gateway.process.pid).memory_info().rss)


@pytest.mark.parametrize(
    ("beginning", "more"),
    [
        (HEAD, b"X-Field: some value\r\n" * 50_000),
        (HEAD + b"X: ", b"a" * MiB),
        (b"GET /", b"a" * MiB),
        (SOCKET, b"X-Field: some value\r\n" * 50_000),
    ],
    ids=["fields", "one field", "request line", "websocket"],
)
def test_megabytes_of_a_head_are_refused_and_not_kept(gateway: Gateway, beginning: bytes, more: bytes) -> None:
    before = memory_of(gateway)

    with ExitStack() as stack:
        attackers = [stack.enter_context(connected(place_of(gateway))) for _ in range(10)]
        answers = []
        for attacker in attackers:
            answers.append(answer_to(attacker, beginning, *[more] * 50))
            health = httpx.get(f"{gateway.url}/healthz")

    assert [status_of(answer) for answer in answers] == [431] * 10
    assert health.status_code == 200
    assert memory_of(gateway) - before < 16 * MiB


def test_a_body_with_trailers_is_refused(gateway: Gateway) -> None:
    head = HEAD + b"Authorization: Bearer %s\r\nContent-Type: application/json\r\n" % gateway.token.encode()
    body = b'1f\r\n{"query":"{ viewer { subject } }"}\r\n0\r\nX-Project: other\r\n\r\n'

    with connected(place_of(gateway)) as connection:
        answer = answer_to(connection, head + b"Transfer-Encoding: chunked\r\n\r\n" + body)

    assert status_of(answer) == 400


@pytest.mark.needs_program("qemu-img")
def test_an_upload_works_beside_more_half_open_heads_than_descriptors(gateway: Gateway, tmp_path: Path) -> None:
    disk = images.Variant("source", "QCOW2", images.DENSE).build(tmp_path)

    with ExitStack() as stack:
        for _ in range(2 * OPEN_FILES):
            stack.enter_context(connected(place_of(gateway))).sendall(HEAD)
        client = stack.enter_context(Client.of(gateway))
        image_id = client.upload(disk)
        status = client.active(image_id)["status"]

    assert status == "ACTIVE"
