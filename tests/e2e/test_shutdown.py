"""SIGTERM: streams are closed, jobs are handed back, nothing is left running, and the exit code is 0."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.e2e import images
from tests.e2e.client import Client, eventually
from tests.e2e.gateway import Gateway, start
from tests.e2e.images import DENSE, Variant
from tests.e2e.processes import child_named, descendants

pytestmark = pytest.mark.needs_program("qemu-img")

IMPATIENT = {"IMAGES_POLL_SECONDS": "0.2"}
WATCH = "subscription ($project: ID!) { imageEvents(projectId: $project) { __typename } }"
# What the server allows its connections, and what the machine may take on top of it.
GRACE_SECONDS = 10 + 10


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    gateway = start(tmp_path / "data", IMPATIENT)
    try:
        yield gateway
    finally:
        gateway.kill()


def test_sigterm_tells_the_streams_and_hands_the_conversion_back(gateway: Gateway, tmp_path: Path) -> None:
    slow = images.slow_to_copy(tmp_path)
    with ExitStack() as open_:
        client = open_.enter_context(Client.of(gateway))
        image_id = client.upload(slow)
        child = eventually(lambda: child_named(gateway.process.pid, "qemu-img", "convert"))
        child.suspend()  # so that it can't be done before it is stopped
        socket = open_.enter_context(_watching(gateway))
        events = open_.enter_context(client.stream(WATCH, project=client.project_id))
        family = descendants(gateway.process.pid)

        gateway.process.terminate()

        assert _close_code(socket) == 1001
        assert list(events) == []  # it ends in order, without an error
        assert gateway.process.wait(GRACE_SECONDS) == 0
    assert child in family
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert _conversion(gateway.data) == ("WAITING", 0)
    assert list((gateway.data / "store" / "work").iterdir()) == []

    again = start(gateway.data, IMPATIENT)
    try:
        with Client.of(again) as client:
            client.check_holds(image_id, slow, "vmdk", tmp_path)
            assert client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE"]
        assert _conversion(gateway.data) == ("DONE", 1)
        again.stop()
    finally:
        again.kill()


def test_sigterm_cuts_an_upload_off_that_goes_on_after_the_restart(gateway: Gateway, tmp_path: Path) -> None:
    source = Variant("source", "VMDK", DENSE).build(tmp_path)
    with Client.of(gateway) as client:
        image_id, upload_id = client.create(source)
        parts = client.missing(image_id)

    def body() -> Iterator[bytes]:
        with source.open("rb") as file:
            yield file.read(parts[0].size // 2)
            gateway.process.terminate()
            assert gateway.process.wait(GRACE_SECONDS) == 0
            yield file.read(parts[0].size - file.tell())

    headers = {"content-length": str(parts[0].size)}
    with suppress(httpx.TransportError):
        assert not httpx.put(parts[0].url, headers=headers, content=body(), timeout=30).is_success

    again = start(gateway.data, IMPATIENT)
    try:
        with Client.of(again) as client:
            assert len(client.missing(image_id)) == len(parts)
            client.resume(source, image_id, upload_id)
            client.check_holds(image_id, source, "vmdk", tmp_path)
    finally:
        again.kill()


def test_sigterm_ends_a_gateway_at_any_moment(tmp_path: Path) -> None:
    """Right after a conversion was asked for, when its job is on its way from one hand to the next."""
    source = Variant("source", "VMDK", DENSE).build(tmp_path)
    data = tmp_path / "data"
    made: list[str] = []
    for _ in range(2):
        gateway = start(data, IMPATIENT)
        try:
            with Client.of(gateway) as client:
                made.append(client.upload(source))
            gateway.stop()
        finally:
            gateway.kill()

    gateway = start(data, IMPATIENT)
    try:
        with Client.of(gateway) as client:
            for image_id in made:
                assert client.active(image_id)["id"] == image_id
    finally:
        gateway.kill()


@contextmanager
def _watching(gateway: Gateway) -> Iterator[ClientConnection]:
    """A WebSocket on which a subscription runs."""
    url = gateway.graphql.replace("http://", "ws://")
    with connect(url, subprotocols=[Subprotocol("graphql-transport-ws")], proxy=None) as socket:
        _send(socket, type="connection_init", payload={"Authorization": f"Bearer {gateway.token}"})
        assert json.loads(socket.recv(30))["type"] == "connection_ack"
        payload = {"query": WATCH, "variables": {"project": gateway.projects["alpha"]}}
        _send(socket, type="subscribe", id="1", payload=payload)
        _send(socket, type="ping")
        assert json.loads(socket.recv(30))["type"] == "pong"
        yield socket


def _send(socket: ClientConnection, **message: Any) -> None:
    socket.send(json.dumps(message))


def _close_code(socket: ClientConnection) -> int | None:
    """The code that the other side closes with; what it sends before does not matter."""
    try:
        while True:
            socket.recv(30)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else None


def _conversion(data: Path) -> tuple[str, int]:
    """State and attempts of the one conversion."""
    with closing(sqlite3.connect(data / "images.db")) as database:
        query = "SELECT state, attempts FROM job WHERE kind = 'CONVERT'"
        ((state, attempts),) = database.execute(query).fetchall()
        return state, attempts
