"""A point has the bytes of its moment, whatever a guest writes meanwhile: one that overwrites its disk without a pause.

Most tests here boot, in a fraction of a second, the guest of `tests/support/block_writer.py`.
"""

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.block_writer import BLOCK, Window, content, newest, windows, write_boot_disk
from tests.workers.hypervisor_contract import Base, read_all, spec, until
from tests.workers.images import MiB, qemu_img
from tests.workers.qemu_place import QemuPlace
from workers.hypervisor.port import Point, PointLost, VolumeSpec

pytestmark = pytest.mark.needs_program("qemu-system-x86_64", "qemu-img", "qemu-nbd", "bwrap")

DISK = 8 * MiB
PASS = DISK // BLOCK
WINDOW = 16


@dataclass(frozen=True, slots=True)
class Writer:
    """A server that overwrites its volume DATA from the first block to the last, again and again."""

    place: QemuPlace

    def windows(self) -> list[Window]:
        return windows(self.place.do(self.place.hypervisor.console("S1", MiB)))

    def written(self) -> int:
        """The number of a block that has been written."""
        return max((window.number for window in self.windows()), default=0)

    def writes(self, passes: int) -> None:
        """Wait until it has overwritten the whole disk that many times."""
        number = self.written() + passes * PASS + WINDOW
        until(lambda: self.written() >= number)

    def point(self) -> Point:
        return self.place.point("DATA")

    def read(self, point: Point) -> bytes:
        async def whole() -> bytes:
            async with self.place.hypervisor.reading(point) as reader:
                return await asyncio.to_thread(read_all, reader)

        return self.place.do(whole())

    def release(self) -> None:
        self.place.do(self.place.hypervisor.release("DATA"))

    def say(self, command: str) -> str:
        """Execute a command of QEMU; return the status of the virtual machine afterwards."""
        self.place.do(self.place.execute("S1", command))
        return str(self.place.do(self.place.execute("S1", "query-status"))["status"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def boot_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("boot") / "boot.qcow2"
    write_boot_disk(path, DISK, WINDOW)
    return path


def launch(place: QemuPlace, boot_disk: Path) -> Writer:
    place.do(place.hypervisor.create_volume(VolumeSpec("BOOT", MiB, boot_disk)))
    place.do(place.hypervisor.create_volume(VolumeSpec("DATA", DISK)))
    place.do(place.hypervisor.launch(spec("S1", "BOOT", "DATA")))
    writer = Writer(place)
    writer.writes(passes=1)
    return writer


@pytest.fixture
def writer(tmp_path: Path, base: Base, boot_disk: Path) -> Iterator[Writer]:
    place = QemuPlace(tmp_path / "host", base)
    try:
        yield launch(place, boot_disk)
    finally:
        place.close()


def test_points_in_a_row_have_all_that_was_written_before_and_nothing_after(
    writer: Writer, record_property: Callable[[str, object], None]
) -> None:
    last = 0
    for _ in range(2):
        before = writer.written()
        point = writer.point()
        # While the guest overwrites the disk, and when it has.
        found = writer.read(point)
        writer.writes(passes=2)
        after = writer.written()

        assert writer.read(point) == found
        writer.release()
        number = newest(found)
        assert found == content(number, DISK)
        assert max(before, last) <= number < after
        last = number
    record_property("longest pause of the guest, in seconds", max(window.longest for window in writer.windows()))


def test_a_point_equals_what_the_files_of_the_disk_had_at_its_moment(writer: Writer, tmp_path: Path) -> None:
    """The reference needs no filter: another process reads the disk's files while the guest stands still."""
    assert writer.say("stop") == "paused"
    reference = tmp_path / "reference.raw"
    disk = writer.place.files.volume("DATA").disk
    qemu_img("convert", "-U", "-f", "qcow2", "-O", "raw", str(disk), str(reference))
    point = writer.point()
    assert writer.say("cont") == "running"
    writer.writes(passes=2)

    assert writer.read(point) == reference.read_bytes()
    assert newest(reference.read_bytes()) > PASS


def test_a_fleece_without_space_loses_the_point_and_leaves_the_guest_alone(
    tmp_path: Path, base: Base, boot_disk: Path
) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small file system")
    place = QemuPlace(folder / "host", base)
    try:
        writer = launch(place, boot_disk)
        writer.say("stop")
        point = writer.point()
        filler = folder / "filler"
        filler.write_bytes(bytes(shutil.disk_usage(folder).free - 2 * MiB))
        writer.say("cont")

        # The volume's file has all of its clusters: only the fleece needs space.
        until(lambda: lost(writer, point))
        assert writer.say("query-status") == "running"
        # Until there is space, its console is not written either.
        filler.unlink()
        writer.writes(passes=2)

        writer.release()
        again = writer.read(writer.point())
        assert again == content(newest(again), DISK)
    finally:
        place.close()
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def lost(writer: Writer, point: Point) -> bool:
    try:
        writer.read(point)
    except PointLost:
        return True
    return False
