"""A store without room refuses what it can't keep, loses nothing, and goes on when there is room."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.client import Client, eventually, stored
from tests.e2e.gateway import running
from tests.e2e.images import DENSE, MiB, Variant, empty_qcow2

pytestmark = pytest.mark.needs_program("qemu-img", "mount")

# The image is copied, so that source and result are there at once for a while.
SOURCE = Variant("source", "VHD", DENSE)
ENOUGH = "200M"
RESERVE_BYTES = 8 * MiB
RESERVE = {"IMAGES_RESERVE_BYTES": str(RESERVE_BYTES)}


class SmallDisk:
    """A file system of its own for the store of a data folder, or for all of the folder."""

    def __init__(self, data: Path, *, all_of_it: bool = False) -> None:
        self.store = data if all_of_it else data / "store"
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

    def fill(self) -> Path:
        """Take every byte that is left, as another program may; yields the file to remove."""
        filler = self.store / "filler"
        with open(filler, "ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(64 * 1024))
        room = os.statvfs(self.store)
        assert room.f_bavail == 0
        return filler

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
def data_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    disk = SmallDisk(tmp_path / "data", all_of_it=True)
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


def error_when_full(client: Client, image_id: str) -> dict[str, Any]:
    """The error of the first change that finds no room: those before it fit into what SQLite has already."""
    document = "mutation ($input: UpdateImageInput!) { updateImage(input: $input) { userErrors { code } } }"
    for number in range(5_000):
        variables = {"input": {"imageId": image_id, "name": f"name {number}"}}
        body = client.http.post(client.graphql, json={"query": document, "variables": variables}).json()
        if "errors" in body:
            return dict(body["errors"][0]["extensions"])
    raise AssertionError("the disk is never full")


def test_on_a_full_disk_images_can_still_be_deleted_and_nothing_else_grows(
    data_disk: SmallDisk, tmp_path: Path
) -> None:
    disk = empty_qcow2(tmp_path / "disk.qcow2", "1M")
    data_disk.mount(60 * MiB)
    with running(data_disk.store, RESERVE) as gateway, Client.of(gateway) as client:
        first, second, third = (client.upload(disk) for _ in range(3))
        for image_id in (first, second, third):
            client.settled(image_id)
        waiting, _ = client.create(disk)
        (part,) = client.missing(waiting)
        filler = data_disk.fill()

        refused = error_when_full(client, first)
        client.mutate("deleteImage", imageId=first)

        assert refused["code"] == "STORAGE_UNAVAILABLE"
        assert "Delete images" in refused["hint"]
        with pytest.raises(AssertionError, match="STORAGE_UNAVAILABLE"):
            client.create(disk)
        answer = client.put(disk, part)
        assert (answer.status_code, answer.json()["error"]["code"]) == (507, "STORE_FULL")
        client.mutate("deleteImage", imageId=second)
        client.mutate("deleteImage", imageId=waiting)
        assert client.image_ids() == [third]

        filler.unlink()

        client.check_holds(client.upload(disk), disk, "qcow2", tmp_path)
        assert (data_disk.store / "reserve").stat().st_size == RESERVE_BYTES


def test_a_gateway_starts_on_a_full_disk_so_that_images_can_be_deleted(data_disk: SmallDisk, tmp_path: Path) -> None:
    disk = empty_qcow2(tmp_path / "disk.qcow2", "1M")
    data_disk.mount(60 * MiB)
    with running(data_disk.store, RESERVE) as gateway, Client.of(gateway) as client:
        image_id = client.upload(disk)
        client.settled(image_id)
        eventually((data_disk.store / "reserve").exists)
    data_disk.fill()

    with running(data_disk.store, RESERVE) as gateway, Client.of(gateway) as client:
        client.mutate("deleteImage", imageId=image_id)

        assert client.image_ids() == []


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=30)
