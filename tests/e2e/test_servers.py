"""A server of an uploaded disk, in a real gateway on real QEMU: launched, kept through a kill, captured, deleted."""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.e2e.client import Client
from tests.e2e.gateway import Gateway, running, start
from tests.support.tiny_linux import TinyLinux
from workers.hypervisor import processes

T = TypeVar("T")

_PATIENCE_SECONDS = 120
_POLL_SECONDS = 0.1
# The guest has no time to shut down: it may still be booting.
_SETTINGS = {"IMAGES_SERVERS": "auto", "IMAGES_ACCELERATOR": "tcg", "IMAGES_STOP_SECONDS": "0.1"}
_LAUNCH = """
mutation Launch($input: LaunchServerInput!) {
  launchServer(input: $input) { userErrors { code message } server { id status } }
}"""
_SERVER = """
query Server($id: ID!) {
  node(id: $id) { ... on Server { status failure { code message } bootVolume { id size } } }
}"""
_READINESS = """query ($id: ID!) { node(id: $id) { ... on Image {
  bootReadiness { firmware virtioBlk { state } os { displayName } } } } }"""
_READY = {"firmware": "BIOS", "virtioBlk": {"state": "PRESENT"}, "os": {"displayName": "Debian 12"}}
_COUNT = "query Count($id: ID!) { project(id: $id) { servers(first: 1) { totalCount } } }"
_SNAPSHOT = """
mutation Snapshot($input: CreateSnapshotInput!) {
  createSnapshot(input: $input) {
    userErrors { code message } snapshot { id source { ... on ServerSource { capturedAt } } }
  }
}"""
_PROMOTE = """
mutation Promote($input: CreateImageInput!) { createImage(input: $input) { userErrors { code } image { status } } }"""
_STOP = "mutation Stop($id: ID!) { stopServer(input: {serverId: $id}) { userErrors { code } server { id } } }"
_DELETE = "mutation Delete($id: ID!) { deleteServer(input: {serverId: $id}) { userErrors { code } deletedServerId } }"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """A data folder, whose virtual machines are ended with the test."""
    yield tmp_path / "data"
    for description in (tmp_path / "data/host/servers").glob("*/server.json"):
        processes.kill(json.loads(description.read_text())["uuid"])


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(1 << 20))
    return disk


def without(program: str, folder: Path) -> str:
    """A PATH with everything of this one except a program."""
    links = folder / "bin"
    links.mkdir()
    for place in os.get_exec_path():
        for name in os.listdir(place) if os.path.isdir(place) else ():
            if name != program and not (links / name).exists():
                (links / name).symlink_to(Path(place) / name)
    assert shutil.which(program, path=str(links)) is None
    return str(links)


def client_of(gateway: Gateway) -> Client:
    return Client(gateway.url, gateway.token, gateway.projects["alpha"])


def until(happened: Callable[[], T | None]) -> T:
    """The first result that is neither None nor false."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not (result := happened()):
        assert time.monotonic() < deadline
        time.sleep(_POLL_SECONDS)
    return result


def readiness(client: Client, image_id: str) -> Any:
    """What is found out about the disk of an image."""
    return until(lambda: client.ask(_READINESS, id=image_id)["node"]["bootReadiness"])


def with_status(client: Client, server_id: str, status: str) -> Any:
    """The server as soon as it has a status."""

    def looked_up() -> Any:
        server = client.ask(_SERVER, id=server_id)["node"]
        assert server["failure"] is None
        return server if server["status"] == status else None

    return until(looked_up)


@pytest.mark.needs_program("qemu-system-x86_64", "qemu-img", "qemu-nbd", "bwrap")
def test_a_server_of_an_uploaded_disk_outlives_the_gateway(data: Path, tiny_linux: TinyLinux) -> None:
    first = start(data, _SETTINGS)
    try:
        with client_of(first) as client:
            image_id = client.upload(tiny_linux.qcow2())
            image = client.active(image_id)
            assert readiness(client, image_id) == _READY
            given = {"projectId": client.project_id, "imageId": image_id, "name": "web", "memoryMib": 256}
            launched = client.ask(_LAUNCH, input=given)["launchServer"]
            assert launched["userErrors"] == []
            server_id = launched["server"]["id"]
            server = with_status(client, server_id, "RUNNING")
            assert int(server["bootVolume"]["size"]) == image["minBootDiskGib"] << 30
    finally:
        first.kill()

    (console,) = (data / "host/servers").glob("*/console.log")
    until(lambda: b"is up after" in console.read_bytes())

    with running(data, _SETTINGS) as second, client_of(second) as client:
        assert client.ask(_SERVER, id=server_id)["node"]["status"] == "RUNNING"
        given = {"volumeId": server["bootVolume"]["id"], "name": "live"}
        taken = client.ask(_SNAPSHOT, input=given)["createSnapshot"]
        assert (taken["userErrors"], taken["snapshot"]["source"]["capturedAt"] is None) == ([], False)
        client.active(snapshot_id := taken["snapshot"]["id"])
        assert readiness(client, snapshot_id) == _READY
        source = {"snapshot": {"snapshotId": snapshot_id}}
        promoted = client.ask(_PROMOTE, input={"projectId": client.project_id, "name": "golden", "source": source})
        assert promoted["createImage"]["image"] == {"status": "ACTIVE"}
        assert client.ask(_SERVER, id=server_id)["node"]["status"] == "RUNNING"
        assert client.ask(_STOP, id=server_id)["stopServer"]["userErrors"] == []
        with_status(client, server_id, "STOPPED")
        assert client.ask(_DELETE, id=server_id)["deleteServer"]["userErrors"] == []
        assert client.ask(_COUNT, id=client.project_id)["project"]["servers"]["totalCount"] == 0
        until(lambda: not [*(data / "host/servers").iterdir(), *(data / "host/volumes").iterdir()])


def test_without_qemu_requests_for_servers_are_rejected_and_the_rest_works(tmp_path: Path, small_disk: Path) -> None:
    nowhere = {"PATH": without("qemu-system-x86_64", tmp_path), "IMAGES_SERVERS": "auto"}
    with running(tmp_path / "data", nowhere) as gateway, client_of(gateway) as client:
        image_id = client.upload(small_disk, format="RAW")
        client.active(image_id)
        given = {"projectId": client.project_id, "imageId": image_id, "name": "web"}
        (error,) = client.ask(_LAUNCH, input=given)["launchServer"]["userErrors"]
        assert error["code"] == "NO_HYPERVISOR"
