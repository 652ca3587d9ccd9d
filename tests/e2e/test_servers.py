"""A gateway on a machine without QEMU. Those that run servers are in `test_server_workflow`."""

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.client import Client, Refused
from tests.e2e.gateway import running
from tests.e2e.servers import launch


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


def test_without_qemu_requests_for_servers_are_rejected_and_the_rest_works(tmp_path: Path, small_disk: Path) -> None:
    nowhere = {"PATH": without("qemu-system-x86_64", tmp_path), "IMAGES_SERVERS": "auto"}
    with running(tmp_path / "data", nowhere) as gateway, Client.of(gateway) as client:
        image_id = client.upload(small_disk, format="RAW")
        client.active(image_id)
        with pytest.raises(Refused, match="NO_HYPERVISOR"):
            launch(client, image_id)
