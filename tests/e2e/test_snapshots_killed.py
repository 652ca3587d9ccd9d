"""kill -9 of a gateway at any step of a snapshot, or of the server, leaves a whole snapshot or none.

The guest boots in a fraction of a second, and overwrites its second disk without a pause (`block_writer.py`).
"""

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.adapters.s3.bucket import Bucket
from app.s3_address import S3Address
from tests.e2e import images, servers, stopping
from tests.e2e.client import Client, becomes, eventually, stored
from tests.e2e.killer import IMPATIENT, Killer
from tests.servers.minio import Minio
from tests.support.block_writer import BLOCK, content, newest, windows, write_boot_disk
from workers.hypervisor import processes
from workers.hypervisor.files import HostFiles
from workers.hypervisor.monitor import connected

pytestmark = pytest.mark.needs_program(*servers.PROGRAMS)

MiB = 1 << 20
DISK = 8 * MiB
PASS, WINDOW = DISK // BLOCK, 16
SECONDS = 30.0
GIVEN = "snapshot { id source { ... on ServerSource { capturedAt } } }"
NODES = {"disk0", "base0", "disk1", "seed"}
ORPHANS = "SELECT key FROM blob WHERE id NOT IN (SELECT blob_id FROM image WHERE blob_id IS NOT NULL)"


@dataclass(frozen=True)
class Writer:
    """A server that overwrites its second volume, in a gateway that stops where a file says."""

    killer: Killer
    stop_file: Path
    server_id: str
    volume_id: str

    @property
    def client(self) -> Client:
        return self.killer.client

    @property
    def files(self) -> HostFiles:
        return HostFiles(self.killer.gateway.data / "host")

    def written(self) -> int:
        """The number of a block that has been written since the guest started."""
        found = windows(self.files.server(self.server_id).console.read_bytes())
        return found[-1].number if found else 0

    def overwrite(self) -> None:
        """Wait until the guest has overwritten its disk once more."""
        number = self.written() + PASS + WINDOW
        eventually(lambda: self.written() >= number)

    def execute(self, command: str, **arguments: object) -> Any:
        """What QEMU answers to a command."""

        async def answer() -> Any:
            async with connected(self.files.server(self.server_id), SECONDS) as monitor:
                return await monitor.execute(command, **arguments)

        return asyncio.run(answer())

    def kill_server(self) -> None:
        """End the virtual machine at once."""
        processes.kill(json.loads(self.files.server(self.server_id).description.read_text())["uuid"])

    def snapshot(self, key: str) -> dict[str, Any]:
        """The snapshot of this key: a new one, or that of an earlier request."""
        wish = {"volumeId": self.volume_id, "name": key, "idempotencyKey": key}
        made: dict[str, Any] = self.client.act("createSnapshot", GIVEN, **wish)["snapshot"]
        return made

    @contextmanager
    def stopped(self, step: str, key: str) -> Iterator[None]:
        """A new snapshot, whose gateway has stopped at a step."""
        self.stop_file.write_text(step)
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(self.snapshot, key)
            stopping.wait_until_stopped(self.killer.gateway.process.pid, self.stop_file)
            yield
            # If it was killed, there may be no answer.
            with suppress(httpx.TransportError):
                request.result()

    def number(self, image_id: str, folder: Path) -> int:
        """The number of the last block in an image, which has exactly what was written up to that one."""
        disk, raw = folder / "snapshot.qcow2", folder / "snapshot.raw"
        self.client.download(self.client.active(image_id), disk)
        images.check_sound(disk)
        images.qemu_img("convert", "-f", "qcow2", "-O", "raw", str(disk), str(raw))
        with raw.open("r+b") as file:
            number = newest(file.read(DISK))
            size = file.seek(0, os.SEEK_END)
            file.truncate(0)
            file.seek(0)
            file.write(content(number, DISK))
            file.truncate(size)
        images.check_same_disk(raw, "raw", disk)
        return number

    def assert_nothing_is_left(self, objects: Callable[[], set[str]], *, running: bool = True) -> None:
        """Of captures that have ended: neither in the database nor on the host, in the store, or in QEMU."""
        data = self.killer.gateway.data
        becomes(lambda: {name: found for name, found in left_over(data).items() if found}, {})
        becomes(objects, set(rows(data, "SELECT key FROM blob")))
        if running:
            nodes = self.execute("query-named-block-nodes", flat=True)
            assert {node["node-name"] for node in nodes if not node["node-name"].startswith("#")} == NODES

    def assert_disks_are_sound(self) -> None:
        """Its virtual machine must have ended."""
        for volume in self.files.all_volumes():
            images.check_sound(volume.disk)

    def in_folder(self) -> set[str]:
        """The keys in a store that is a folder."""
        return {path.removeprefix("objects/") for path in stored(self.killer.gateway.data)}


def rows(data: Path, query: str) -> list[str]:
    """The first column of what the database answers."""
    with closing(sqlite3.connect(data / "images.db")) as database:
        return [str(row[0]) for row in database.execute(query)]


def left_over(data: Path) -> dict[str, list[str]]:
    """What is left of captures that have ended, apart from the objects of their images."""
    volumes = data / "host/volumes"
    points = [path for name in ("point.json", "disk/fleece.raw") for path in volumes.glob(f"*/{name}")]
    return {
        "jobs": rows(data, "SELECT kind FROM job WHERE state <> 'DONE'"),
        "captures": rows(data, "SELECT image_id FROM capture"),
        "blobs": rows(data, ORPHANS),
        "points": [str(path) for path in points],
        "work": os.listdir(data / "store/work") if (data / "store/work").exists() else [],
    }


@contextmanager
def writing(folder: Path, settings: dict[str, str]) -> Iterator[Writer]:
    """A server that writes, in a gateway with these settings; both end with the block."""
    disk, stop_file = folder / "boot.qcow2", folder / "step"
    write_boot_disk(disk, DISK, WINDOW)
    with servers.ending_servers(folder / "data") as data:
        killer = Killer(data, IMPATIENT | servers.SETTINGS | settings, stopping.program(stop_file))
        try:
            image_id = killer.client.upload(disk, format="QCOW2")
            killer.client.active(image_id)
            wish = {"projectId": killer.client.project_id, "name": "data", "sizeGib": 1}
            volume_id = killer.client.act("createVolume", "volume { id }", **wish)["volume"]["id"]
            server_id = servers.launch(killer.client, image_id, dataVolumeIds=[volume_id])
            servers.with_status(killer.client, server_id, "RUNNING")
            writer = Writer(killer, stop_file, server_id, volume_id)
            writer.overwrite()
            yield writer
            servers.stop(killer.client, server_id)
            writer.assert_disks_are_sound()
            killer.gateway.stop()
        finally:
            killer.client.close()
            killer.kill()


@pytest.fixture(scope="module")
def writer(module_folder: Path) -> Iterator[Writer]:
    with writing(module_folder, {}) as writer:
        yield writer


@pytest.mark.parametrize("step", stopping.STEPS)
def test_a_snapshot_is_whole_wherever_the_gateway_is_killed(writer: Writer, tmp_path: Path, step: str) -> None:
    before = writer.written()
    with writer.stopped(step, step):
        writer.overwrite()
        # It need not run while nothing happens.
        writer.execute("stop")
        writer.killer.kill()
    writer.killer.start_again()
    snapshot = writer.snapshot(step)
    assert snapshot["source"]["capturedAt"] is not None
    assert writer.number(snapshot["id"], tmp_path) >= before
    writer.assert_nothing_is_left(writer.in_folder)
    writer.execute("cont")


def test_a_snapshot_whose_server_is_killed_fails_and_the_next_one_is_whole(writer: Writer, tmp_path: Path) -> None:
    with writer.stopped("store the rest", "of a killed server"):
        writer.kill_server()
        writer.killer.gateway.process.send_signal(signal.SIGCONT)
    failed = writer.client.settled(writer.snapshot("of a killed server")["id"])
    assert (failed["status"], failed["failure"]["code"]) == ("ERROR", "SOURCE_UNAVAILABLE")
    writer.assert_nothing_is_left(writer.in_folder, running=False)
    writer.assert_disks_are_sound()

    servers.with_status(writer.client, writer.server_id, "STOPPED")
    writer.client.act("startServer", "server { id }", serverId=writer.server_id)
    servers.with_status(writer.client, writer.server_id, "RUNNING")
    # Its numbers begin with 1 again.
    writer.overwrite()
    writer.number(writer.snapshot("another")["id"], tmp_path)
    writer.assert_nothing_is_left(writer.in_folder)


def test_what_a_killed_gateway_sent_of_a_snapshot_is_removed_from_the_store(tmp_path: Path, minio: Minio) -> None:
    settings = minio.settings("snapshots-killed")
    with (
        writing(tmp_path, settings) as writer,
        closing(Bucket(S3Address.parse(settings["IMAGES_OBJECT_STORE"]))) as bucket,
    ):
        with writer.stopped("store the rest", "killed"):
            writer.overwrite()
            writer.killer.kill()
        writer.killer.start_again()
        writer.number(writer.snapshot("killed")["id"], tmp_path)
        writer.assert_nothing_is_left(lambda: {key for key, _ in bucket.keys()})
        query = "SELECT json_extract(detail, '$.key') FROM job WHERE kind = 'CAPTURE'"
        (key,) = rows(writer.killer.gateway.data, query)
        assert bucket.multiparts(key) == []
