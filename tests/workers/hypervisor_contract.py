"""The contract of every hypervisor, whatever runs its servers.

A test module of an adapter subclasses HypervisorContract and provides the fixture `place`.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.workers.images import KiB, MiB, qemu_img, raw_disk
from workers.hypervisor.port import (
    Extent,
    Hypervisor,
    MachineSpec,
    MachineState,
    Point,
    PointExists,
    PointLost,
    PointReader,
    Seed,
    VolumeInUse,
    VolumeMissing,
    VolumeSpec,
)

T = TypeVar("T")
SIZE = 6 * MiB
BASE_SIZE = 4 * MiB
# The first bytes, and some in the middle: between them is a hole, behind them the end of the base.
BASE_DATA = [(0, MiB), (2 * MiB, 512 * KiB)]


class Base:
    """A qcow2 file to put volumes over, and the bytes of its disk."""

    def __init__(self, folder: Path) -> None:
        raw = raw_disk(folder / "base.raw", BASE_SIZE, BASE_DATA)
        self.content = raw.read_bytes()
        self.path = folder / "base.qcow2"
        qemu_img("convert", "-O", "qcow2", str(raw), str(self.path))
        self.path.chmod(0o444)


class HypervisorPlace(ABC):
    """A hypervisor to be tried. `boot_line` is part of what its servers write to their consoles when they start."""

    boot_line: bytes

    def __init__(self, hypervisor: Hypervisor, base: Base) -> None:
        self.hypervisor = hypervisor
        self.base = base
        self.runner = asyncio.Runner()

    @abstractmethod
    def write(self, volume_id: str, offset: int, length: int, byte: int) -> None:
        """Write into a volume as its guest does, or into that of a stopped server."""

    @abstractmethod
    def crash(self, server_id: str) -> None:
        """End a server without warning."""

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def close(self) -> None:
        for server_id in self.do(self.hypervisor.servers()):
            self.do(self.hypervisor.destroy(server_id))
        self.runner.close()

    def create_volume(self, volume_id: str = "V1", *, over_base: bool = True) -> None:
        path = self.base.path if over_base else None
        self.do(self.hypervisor.create_volume(VolumeSpec(volume_id, SIZE, path)))

    def launch(self, server_id: str = "S1", *volumes: str) -> None:
        self.do(self.hypervisor.launch(spec(server_id, *(volumes or ("V1",)))))

    def state(self, server_id: str = "S1") -> MachineState:
        return self.do(self.hypervisor.state(server_id))

    def point(self, volume_id: str = "V1") -> Point:
        return self.do(self.hypervisor.point(volume_id))

    def read(self, point: Point) -> bytes:
        """The bytes of a point, those of its base taken from there; compares them with what a reader reads."""
        return self.do(self._read(point))

    async def _read(self, point: Point) -> bytes:
        async with self.hypervisor.reading(point) as reader:
            assert reader.size == point.size == SIZE
            whole = await asyncio.to_thread(read_all, reader)
            content = b"".join([self._bytes(extent, whole) for extent in await asyncio.to_thread(extents, reader)])
            assert content == whole
            return content

    def _bytes(self, extent: Extent, whole: bytes) -> bytes:
        if not extent.data:
            return bytes(extent.length)
        source = self.base.content if extent.base else whole
        return source[extent.offset : extent.offset + extent.length]


def spec(server_id: str, *volumes: str, user_data: str | None = None) -> MachineSpec:
    seed = Seed(f"instance-{server_id}", server_id.lower(), user_data=user_data)
    return MachineSpec(server_id, 1, 128 * MiB, volumes, seed)


def read_all(reader: PointReader) -> bytes:
    content = bytearray(reader.size)
    reader.read_into(0, memoryview(content))
    return bytes(content)


def extents(reader: PointReader) -> list[Extent]:
    """All extents of a point. Asserts that they are in order, without gaps."""
    found: list[Extent] = []
    place = 0
    while place < reader.size:
        some = reader.extents(place, reader.size - place)
        assert some
        for extent in some:
            assert extent.offset == place
            assert extent.length > 0
            place += extent.length
        found += some
    assert place == reader.size
    return found


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for what another process does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


def overwritten(content: bytes, offset: int, length: int, byte: int) -> bytes:
    return content[:offset] + bytes([byte]) * length + content[offset + length :]


class HypervisorContract:
    """The tests that a hypervisor has to pass."""

    def test_a_server_runs_is_stopped_starts_again_and_is_destroyed(self, place: HypervisorPlace) -> None:
        place.create_volume()
        states = [place.state()]
        place.launch()
        states.append(place.state())
        assert not place.do(place.hypervisor.agent_listens("S1"))
        place.do(place.hypervisor.stop("S1", 0.1))
        states.append(place.state())
        place.launch()
        states.append(place.state())
        place.do(place.hypervisor.destroy("S1"))
        states.append(place.state())

        kinds = MachineState
        assert states == [kinds.ABSENT, kinds.RUNNING, kinds.STOPPED, kinds.RUNNING, kinds.ABSENT]
        assert list(place.do(place.hypervisor.volumes())) == ["V1"]

    def test_every_operation_on_a_server_may_be_repeated(self, place: HypervisorPlace) -> None:
        place.create_volume()
        place.write("V1", 0, 64 * KiB, 7)
        place.create_volume()
        place.launch()
        place.launch()
        assert place.state() is MachineState.RUNNING
        for _ in range(2):
            place.do(place.hypervisor.stop("S1", 0))
            assert place.state() is MachineState.STOPPED
        assert place.read(place.point())[: 64 * KiB] == b"\7" * 64 * KiB
        for _ in range(2):
            place.do(place.hypervisor.release("V1"))
            place.do(place.hypervisor.destroy("S1"))
            place.do(place.hypervisor.delete_volume("V1"))
        assert place.state() is MachineState.ABSENT
        assert place.do(place.hypervisor.volumes()) == {}

    def test_what_does_not_exist_is_absent_and_can_be_deleted(self, place: HypervisorPlace) -> None:
        assert place.state() is MachineState.ABSENT
        assert place.do(place.hypervisor.console("S1", 100)) == b""
        assert not place.do(place.hypervisor.agent_listens("S1"))
        place.do(place.hypervisor.stop("S1", 1))
        place.do(place.hypervisor.destroy("S1"))
        place.do(place.hypervisor.release("V1"))
        place.do(place.hypervisor.delete_volume("V1"))
        with pytest.raises(VolumeMissing):
            place.point()
        with pytest.raises(VolumeMissing):
            place.launch()
        assert place.state() is MachineState.ABSENT

    def test_servers_and_volumes_are_listed(self, place: HypervisorPlace) -> None:
        for name in ("1", "2"):
            place.create_volume(f"V{name}")
            place.launch(f"S{name}", f"V{name}")
        place.do(place.hypervisor.stop("S2", 0))

        assert place.do(place.hypervisor.servers()) == {"S1": MachineState.RUNNING, "S2": MachineState.STOPPED}
        before = place.do(place.hypervisor.volumes())
        assert set(before) == {"V1", "V2"}
        place.write("V1", 0, 2 * MiB, 1)
        assert place.do(place.hypervisor.volumes())["V1"] >= before["V1"] + 2 * MiB - 64 * KiB

    def test_the_console_shows_that_the_server_started(self, place: HypervisorPlace) -> None:
        place.create_volume()
        place.launch()
        until(lambda: place.boot_line in place.do(place.hypervisor.console("S1", 1 << 20)))

        console = place.do(place.hypervisor.console("S1", 1 << 20))
        assert len(place.do(place.hypervisor.console("S1", 5))) == 5
        place.do(place.hypervisor.stop("S1", 0))
        assert console in place.do(place.hypervisor.console("S1", 1 << 20))

    def test_a_point_of_a_running_server_has_the_bytes_of_its_moment(self, place: HypervisorPlace) -> None:
        place.create_volume()
        place.launch()
        wanted = place.base.content.ljust(SIZE, b"\0")
        for offset, byte in ((64 * KiB, 1), (MiB, 2), (5 * MiB, 3)):
            place.write("V1", offset, 64 * KiB, byte)
            wanted = overwritten(wanted, offset, 64 * KiB, byte)

        point = place.point()
        before = place.read(point)
        for offset in (0, 64 * KiB, 2 * MiB, 3 * MiB, 5 * MiB, SIZE - 64 * KiB):
            place.write("V1", offset, 64 * KiB, 9)

        assert before == wanted
        assert place.read(point) == wanted
        assert point == Point("V1", SIZE, quiet=False)
        assert place.state() is MachineState.RUNNING

    @pytest.mark.parametrize("running", [True, False])
    def test_a_point_says_what_is_unchanged_since_its_base(self, place: HypervisorPlace, running: bool) -> None:
        place.create_volume()
        place.launch()
        place.write("V1", 64 * KiB, 64 * KiB, 1)
        if not running:
            place.do(place.hypervisor.stop("S1", 0))

        point = place.point()

        async def found() -> list[Extent]:
            async with place.hypervisor.reading(point) as reader:
                return await asyncio.to_thread(extents, reader)

        def kinds(offset: int) -> tuple[bool, bool]:
            [one] = [extent for extent in all_extents if extent.offset <= offset < extent.offset + extent.length]
            return one.data, one.base

        all_extents = place.do(found())
        assert kinds(0) == (True, True)
        assert kinds(64 * KiB) == (True, False)
        assert kinds(128 * KiB) == (True, True)
        assert kinds(2 * MiB) == (True, True)
        assert kinds(BASE_SIZE) == (False, False)
        assert kinds(SIZE - 1) == (False, False)

    def test_a_point_of_a_volume_without_a_base_is_read(self, place: HypervisorPlace) -> None:
        place.create_volume(over_base=False)
        place.launch()
        place.write("V1", MiB, 64 * KiB, 5)
        wanted = overwritten(bytes(SIZE), MiB, 64 * KiB, 5)

        assert place.read(place.point()) == wanted
        place.do(place.hypervisor.stop("S1", 0))
        place.do(place.hypervisor.release("V1"))
        assert place.read(place.point()) == wanted

    def test_a_point_without_a_running_server_keeps_servers_off(self, place: HypervisorPlace) -> None:
        place.create_volume()
        place.write("V1", 0, 64 * KiB, 4)
        point = place.point()

        assert point == Point("V1", SIZE, quiet=True)
        with pytest.raises(VolumeInUse):
            place.launch()
        assert place.read(point) == overwritten(place.base.content.ljust(SIZE, b"\0"), 0, 64 * KiB, 4)
        place.do(place.hypervisor.release("V1"))
        place.launch()
        assert place.state() is MachineState.RUNNING

    @pytest.mark.parametrize("running", [True, False])
    def test_a_volume_has_one_point_at_a_time(self, place: HypervisorPlace, running: bool) -> None:
        place.create_volume()
        if running:
            place.launch()
        first = place.point()
        with pytest.raises(PointExists):
            place.point()
        place.do(place.hypervisor.release("V1"))
        with pytest.raises(PointLost):
            place.read(first)
        place.write("V1", 0, 64 * KiB, 8)
        assert place.read(place.point())[: 64 * KiB] == b"\10" * 64 * KiB

    def test_volumes_of_one_server_have_points_at_the_same_time(self, place: HypervisorPlace) -> None:
        place.create_volume("V1")
        place.create_volume("V2", over_base=False)
        place.launch("S1", "V1", "V2")
        place.write("V2", 0, 64 * KiB, 6)

        first, second = place.point("V1"), place.point("V2")
        place.write("V2", 0, 64 * KiB, 7)

        assert place.read(first) == place.base.content.ljust(SIZE, b"\0")
        assert place.read(second) == overwritten(bytes(SIZE), 0, 64 * KiB, 6)
        place.do(place.hypervisor.release("V1"))
        assert place.read(second)[:1] == b"\6"

    @pytest.mark.parametrize("end", ["crash", "stop", "destroy"])
    def test_a_point_is_lost_when_its_server_ends_while_it_is_read(self, place: HypervisorPlace, end: str) -> None:
        place.create_volume()
        place.launch()
        place.write("V1", 0, MiB, 3)
        point = place.point()

        async def read_while_it_ends() -> None:
            async with place.hypervisor.reading(point) as reader:
                buffer = memoryview(bytearray(64 * KiB))
                await asyncio.to_thread(reader.read_into, 0, buffer)
                if end == "crash":
                    await asyncio.to_thread(place.crash, "S1")
                elif end == "stop":
                    await place.hypervisor.stop("S1", 0)
                else:
                    await place.hypervisor.destroy("S1")
                with pytest.raises(PointLost):
                    await asyncio.to_thread(reader.read_into, 64 * KiB, buffer)
                with pytest.raises(PointLost):
                    await asyncio.to_thread(reader.extents, 0, SIZE)

        place.do(read_while_it_ends())
        with pytest.raises(PointLost):
            place.read(point)
        place.do(place.hypervisor.release("V1"))
        # What was written stays, and the volume can be used again.
        until(lambda: place.state() is not MachineState.RUNNING)
        place.launch()
        place.point()

    def test_a_reader_of_a_released_point_loses_it(self, place: HypervisorPlace) -> None:
        place.create_volume()
        place.launch()
        point = place.point()

        async def release_while_it_is_read() -> None:
            async with place.hypervisor.reading(point) as reader:
                await place.hypervisor.release("V1")
                await place.hypervisor.point("V1")
                with pytest.raises(PointLost):
                    await asyncio.to_thread(reader.read_into, 0, memoryview(bytearray(4096)))

        place.do(release_while_it_is_read())

    def test_a_volume_in_use_is_neither_deleted_nor_used_twice(self, place: HypervisorPlace) -> None:
        place.create_volume("V1")
        place.create_volume("V2")
        place.launch("S1", "V1")
        with pytest.raises(VolumeInUse):
            place.do(place.hypervisor.delete_volume("V1"))
        with pytest.raises(VolumeInUse):
            place.launch("S2", "V2", "V1")
        assert place.state("S2") is not MachineState.RUNNING
        place.do(place.hypervisor.destroy("S1"))
        place.do(place.hypervisor.destroy("S2"))
        for volume_id in ("V1", "V2"):
            place.do(place.hypervisor.delete_volume(volume_id))
        assert place.do(place.hypervisor.volumes()) == {}

    def test_a_volume_is_deleted_with_its_point(self, place: HypervisorPlace) -> None:
        place.create_volume()
        point = place.point()
        place.do(place.hypervisor.delete_volume("V1"))
        with pytest.raises(PointLost):
            place.read(point)
        place.create_volume()
        place.point()
