"""A damaged database and lost objects: what operators are shown, and how they put things in order."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.client import Client
from tests.e2e.gateway import Gateway, running
from tests.e2e.images import empty_qcow2
from tests.e2e.processes import images_command

pytestmark = pytest.mark.needs_program("qemu-img")


def overwrite_header(path: Path) -> None:
    path.write_bytes(b"\xa5" * 100 + path.read_bytes()[100:])


def overwrite_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture(scope="module")
def used(module_folder: Path) -> Path:
    """A data folder with an ACTIVE image, whose gateway has ended."""
    folder = module_folder / "used"
    folder.mkdir()
    disk = empty_qcow2(folder / "disk.qcow2", "1M")
    with running(folder / "data") as gateway, Client.of(gateway) as client:
        client.active(client.upload(disk))
    return folder / "data"


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        (overwrite_header, ["up", "--port", "0"]),
        (overwrite_pages, ["token", "--subject", "ada"]),
        (cut_in_half, ["work"]),
        (cut_to_nothing, ["fsck", "--repair"]),
    ],
)
def test_a_damaged_database_is_named_in_one_line_before_anything_starts(
    used: Path, damage: Callable[[Path], None], command: list[str]
) -> None:
    database = used / "images.db"
    whole = database.read_bytes()
    objects = sorted((used / "store").rglob("*"))
    damage(database)
    damaged = database.read_bytes()
    try:
        done = images_command(*command, "--data", str(used))

        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.splitlines()
        assert "images.db is damaged" in line
        assert "backup" in line
        assert database.read_bytes() == damaged
        assert sorted((used / "store").rglob("*")) == objects
    finally:
        database.write_bytes(whole)


def test_a_missing_object_is_found_while_the_gateway_runs_and_put_in_order(
    running_gateway: Gateway, tmp_path: Path
) -> None:
    disk = empty_qcow2(tmp_path / "disk.qcow2", "1M")
    with Client.of(running_gateway) as client:
        image_id = client.upload(disk)
        image = client.hashed(image_id)
        (result,) = (running_gateway.data / "store" / "objects" / "blobs").glob("*.qcow2")
        clean = images_command("fsck", "--data", str(running_gateway.data))
        result.unlink()

        found = images_command("fsck", "--json", "--data", str(running_gateway.data))
        lost = client._objects.get(image["download"]["url"])
        printed = images_command("fsck", "--repair", "--data", str(running_gateway.data))
        again = images_command("fsck", "--data", str(running_gateway.data))

        assert (clean.returncode, clean.stdout) == (0, "0 findings\n")
        assert found.returncode == 1, found.stderr
        (finding,) = json.loads(found.stdout)["findings"]
        assert (finding["problem"], finding["imageId"], finding["repaired"]) == ("MISSING_OBJECT", image_id, False)
        assert (lost.status_code, lost.json()["error"]["code"]) == (404, "OBJECT_MISSING")
        assert printed.returncode == 1
        assert f"MISSING_OBJECT  {image_id}" in printed.stdout
        assert printed.stdout.endswith("1 finding, 1 repaired\n")
        assert (again.returncode, again.stdout) == (0, "0 findings\n")
        assert client.image(image_id)["failure"]["code"] == "DATA_LOST"
        assert client.statuses(image_id) == ["QUEUED", "SAVING", "ACTIVE", "ERROR"]
