"""A store without room refuses what it can't keep, loses nothing, and goes on when there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.client import Client, stored
from tests.e2e.gateway import running
from tests.e2e.images import DENSE, MiB, Variant

pytestmark = pytest.mark.needs_program("qemu-img", "mount")

# The image is copied, so that source and result are there at once for a while.
SOURCE = Variant("source", "VHD", DENSE)
ENOUGH = "200M"


class SmallDisk:
    """A file system of its own for the store of a data folder."""

    def __init__(self, data: Path) -> None:
        self.store = data / "store"
        self.store.mkdir(parents=True)

    def mount(self, size: int) -> None:
        """Give it room for `size` bytes. Skips the test where that is not allowed."""
        options = f"size={size},mode=700"
        done = _run("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.store))
        if done.returncode:
            pytest.skip(f"can't mount a small file system: {done.stderr.strip()}")

    def grow(self) -> None:
        done = _run("mount", "-o", f"remount,size={ENOUGH}", str(self.store))
        assert done.returncode == 0, done.stderr

    def unmount(self) -> None:
        _run("umount", "--lazy", str(self.store))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    disk = SmallDisk(tmp_path / "data")
    try:
        yield disk
    finally:
        disk.unmount()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return SOURCE.build(tmp_path)


def test_a_part_that_finds_no_room_is_answered_507_and_can_be_sent_again(
    disk: SmallDisk, source: Path, tmp_path: Path
) -> None:
    disk.mount(source.stat().st_size - 2 * MiB)
    with running(disk.store.parent) as gateway, Client.of(gateway) as client:
        image_id, upload_id = client.create(source)
        first, second = client.missing(image_id)
        assert client.put(source, first).status_code == 200

        refused = client.put(source, second)

        assert refused.status_code == 507
        assert refused.json()["error"]["code"] == "STORE_FULL"
        image = client.image(image_id)
        assert (image["status"], image["upload"]["state"]) == ("QUEUED", "OPEN")
        assert [part.number for part in client.missing(image_id)] == [second.number]
        disk.grow()
        client.resume(source, image_id, upload_id)
        client.check_holds(image_id, source, SOURCE.driver, tmp_path)


def test_a_conversion_that_finds_no_room_keeps_the_source_for_a_retry(
    disk: SmallDisk, source: Path, tmp_path: Path
) -> None:
    disk.mount(source.stat().st_size + 10 * MiB)
    with running(disk.store.parent) as gateway, Client.of(gateway) as client:
        image_id = client.upload(source)

        failure = client.settled(image_id)["failure"]

        assert failure["code"] == "STORAGE_UNAVAILABLE"
        assert failure["retriable"] is True
        assert failure["hint"]
        (kept,) = stored(gateway.data)
        assert kept.startswith("objects/uploads/")
        disk.grow()
        client.mutate("retryImage", imageId=image_id)
        client.check_holds(image_id, source, SOURCE.driver, tmp_path)
        assert client.statuses(image_id) == ["QUEUED", "SAVING", "ERROR", "SAVING", "ACTIVE"]


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=30)
