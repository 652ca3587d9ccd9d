"""A server of an uploaded disk, in a real gateway on real QEMU: launched, kept through a kill, stopped, deleted."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client, Refused
from tests.e2e.gateway import running, start
from tests.e2e.servers import PROGRAMS, SETTINGS, delete, ending_servers, launch, stop, until, with_status
from tests.support.tiny_linux import TinyLinux

_READINESS = """query ($id: ID!) { node(id: $id) { ... on Image {
  bootReadiness { firmware virtioBlk { state } os { displayName } } } } }"""
_COUNT = "query Count($id: ID!) { project(id: $id) { servers(first: 1) { totalCount } } }"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    with ending_servers(tmp_path / "data") as data:
        yield data


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


@pytest.mark.needs_program(*PROGRAMS)
def test_a_server_of_an_uploaded_disk_outlives_the_gateway(data: Path, tiny_linux: TinyLinux) -> None:
    first = start(data, SETTINGS)
    try:
        with Client.of(first) as client:
            image_id = client.upload(tiny_linux.qcow2())
            image = client.active(image_id)
            ready = until(lambda: client.ask(_READINESS, id=image_id)["node"]["bootReadiness"])
            assert ready == {"firmware": "BIOS", "virtioBlk": {"state": "PRESENT"}, "os": {"displayName": "Debian 12"}}
            server_id = launch(client, image_id)
            server = with_status(client, server_id, "RUNNING")
            assert int(server["bootVolume"]["size"]) == image["minBootDiskGib"] << 30
    finally:
        first.kill()

    (console,) = (data / "host/servers").glob("*/console.log")
    until(lambda: b"is up after" in console.read_bytes())

    with running(data, SETTINGS) as second, Client.of(second) as client:
        with_status(client, server_id, "RUNNING")
        stop(client, server_id)
        delete(client, server_id)
        assert client.ask(_COUNT, id=client.project_id)["project"]["servers"]["totalCount"] == 0
        until(lambda: not [*(data / "host/servers").iterdir(), *(data / "host/volumes").iterdir()])


def test_without_qemu_requests_for_servers_are_rejected_and_the_rest_works(tmp_path: Path, small_disk: Path) -> None:
    nowhere = {"PATH": without("qemu-system-x86_64", tmp_path), "IMAGES_SERVERS": "auto"}
    with running(tmp_path / "data", nowhere) as gateway, Client.of(gateway) as client:
        image_id = client.upload(small_disk, format="RAW")
        client.active(image_id)
        with pytest.raises(Refused, match="NO_HYPERVISOR"):
            launch(client, image_id)
