"""A hypervisor in memory, for tests of what is built on one. It runs nothing; it fails or waits where a test says."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import NamedTemporaryFile

from workers.hypervisor.port import (
    Extent,
    HypervisorError,
    MachineSpec,
    MachineState,
    Point,
    PointExists,
    PointLost,
    PointReader,
    VolumeInUse,
    VolumeMissing,
    VolumeSpec,
)

BLOCK = 64 << 10


class _Base:
    """A base image, which is read when its bytes are wanted."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @cached_property
    def content(self) -> bytes:
        with NamedTemporaryFile() as file:
            command = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(self._path), file.name]
            subprocess.run(command, check=True, timeout=120)
            return Path(file.name).read_bytes()

    @cached_property
    def size(self) -> int:
        with self._path.open("rb") as file:
            return int.from_bytes(file.read(32)[24:32], "big")


@dataclass
class _Point:
    """The blocks of a volume at a moment. `server` is the server that ran then."""

    blocks: dict[int, bytes]
    server: str | None
    lost: bool = False


@dataclass
class _Volume:
    spec: VolumeSpec
    base: _Base | None
    blocks: dict[int, bytes] = field(default_factory=dict)
    point: _Point | None = None

    @property
    def size(self) -> int:
        return self.spec.size

    def block(self, blocks: Mapping[int, bytes], number: int) -> bytes:
        length = min(BLOCK, self.size - number * BLOCK)
        if number in blocks:
            return blocks[number]
        within = b"" if self.base is None else self.base.content[number * BLOCK : number * BLOCK + length]
        return within.ljust(length, b"\0")


@dataclass
class _Server:
    spec: MachineSpec
    running: bool = True
    console: bytes = b""


class MemoryHypervisor:
    """Implements Hypervisor. `write` is what a guest does, `crash` what happens to it.

    `done` is what was called. An operation in `failing` raises its error, before it does anything. One in `held` waits
    there until its event is set, and `reached` has the event that says so. `consoles` is what servers wrote, and
    `console_of_all` what the others did, if not None; `agents` is whether guest agents listen.
    """

    def __init__(self) -> None:
        self.done: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.held: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = {}
        self.consoles: dict[str, bytes] = {}
        self.console_of_all: bytes | None = None
        self.agents = False
        self._volumes: dict[str, _Volume] = {}
        self._servers: dict[str, _Server] = {}

    def hold(self, operation: str) -> None:
        """Make an operation wait."""
        self.held[operation], self.reached[operation] = asyncio.Event(), asyncio.Event()

    async def _begin(self, operation: str, of: str = "") -> None:
        if operation in self.failing:
            raise self.failing[operation]
        if operation in self.held:
            self.reached[operation].set()
            await self.held[operation].wait()
        self.done.append(f"{operation} {of}".strip())

    @property
    def disks(self) -> dict[str, VolumeSpec]:
        """The volumes that there are."""
        return {volume_id: volume.spec for volume_id, volume in self._volumes.items()}

    @property
    def machines(self) -> dict[str, MachineSpec]:
        """The servers that there are."""
        return {server_id: server.spec for server_id, server in self._servers.items()}

    @property
    def running(self) -> set[str]:
        """The servers that run."""
        return {server_id for server_id, server in self._servers.items() if server.running}

    @property
    def points(self) -> set[str]:
        """The volumes that have a point."""
        return {volume_id for volume_id, volume in self._volumes.items() if volume.point is not None}

    def restart(self) -> None:
        """End all servers, and forget them, as when their machine is restarted."""
        for server_id in list(self._servers):
            self.crash(server_id)
        self._servers.clear()

    def write(self, volume_id: str, offset: int, data: bytes) -> None:
        """Write into a volume."""
        volume = self._volumes[volume_id]
        while data:
            number, within = divmod(offset, BLOCK)
            whole = within == 0 and len(data) >= BLOCK
            content = bytearray(BLOCK if whole else volume.block(volume.blocks, number))
            piece = data[: len(content) - within]
            content[within : within + len(piece)] = piece
            volume.blocks[number] = bytes(content)
            offset, data = offset + len(piece), data[len(piece) :]

    def crash(self, server_id: str) -> None:
        """End a server without warning."""
        self._servers[server_id].running = False
        self._lose_points(server_id)

    def lose_point(self, volume_id: str) -> None:
        """Lose the point of a volume, as when there is no space for what its guest overwrites."""
        point = self._volumes[volume_id].point
        assert point is not None
        point.lost = True

    async def create_volume(self, volume: VolumeSpec) -> None:
        await self._begin("create_volume", volume.id)
        if volume.base is not None and not volume.base.is_file():
            raise HypervisorError(f"there is no {volume.base}")
        base = None if volume.base is None else _Base(volume.base)
        self._volumes.setdefault(volume.id, _Volume(volume, base))

    async def delete_volume(self, volume_id: str) -> None:
        await self._begin("delete_volume", volume_id)
        if self._user(volume_id) is not None:
            raise VolumeInUse(volume_id)
        await self._release(volume_id)
        self._volumes.pop(volume_id, None)

    async def volumes(self) -> Mapping[str, int]:
        return {volume_id: sum(map(len, volume.blocks.values())) for volume_id, volume in self._volumes.items()}

    async def launch(self, machine: MachineSpec) -> None:
        await self._begin("launch", machine.id)
        if await self.state(machine.id) is MachineState.RUNNING:
            return
        for volume_id in machine.volumes:
            point = self._volume(volume_id).point
            if self._user(volume_id) is not None or (point is not None and point.server is None):
                raise VolumeInUse(volume_id)
        said = self._servers[machine.id].console if machine.id in self._servers else b""
        console = said + f"memory: {machine.seed.host_name} is up\n".encode()
        self._servers[machine.id] = _Server(machine, console=console)

    async def state(self, server_id: str) -> MachineState:
        server = self._servers.get(server_id)
        if server is None:
            return MachineState.ABSENT
        return MachineState.RUNNING if server.running else MachineState.STOPPED

    async def stop(self, server_id: str, grace_seconds: float) -> None:
        await self._begin("stop", server_id)
        if server_id in self._servers:
            self.crash(server_id)

    async def destroy(self, server_id: str) -> None:
        await self._begin("destroy", server_id)
        if server_id in self._servers:
            self.crash(server_id)
        self._servers.pop(server_id, None)

    async def servers(self) -> Mapping[str, MachineState]:
        await self._begin("servers")
        return {server_id: await self.state(server_id) for server_id in self._servers}

    async def console(self, server_id: str, most: int) -> bytes:
        await self._begin("console", server_id)
        if server_id in self.consoles:
            return self.consoles[server_id][-most:]
        server = self._servers.get(server_id)
        said = b"" if server is None else server.console
        return (said if self.console_of_all is None else self.console_of_all)[-most:]

    async def agent_listens(self, server_id: str) -> bool:
        return self.agents

    async def point(self, volume_id: str) -> Point:
        await self._begin("point", volume_id)
        volume = self._volume(volume_id)
        if volume.point is not None:
            raise PointExists(volume_id)
        server = self._user(volume_id)
        volume.point = _Point(dict(volume.blocks), server)
        return Point(volume_id, volume.size, quiet=server is None)

    @asynccontextmanager
    async def reading(self, point: Point) -> AsyncIterator[PointReader]:
        await self._begin("reading", point.volume)
        volume = self._volumes.get(point.volume)
        if volume is None or volume.point is None or volume.point.lost:
            raise PointLost(point.volume)
        yield _Reader(volume, volume.point)

    async def release(self, volume_id: str) -> None:
        await self._begin("release", volume_id)
        await self._release(volume_id)

    async def _release(self, volume_id: str) -> None:
        volume = self._volumes.get(volume_id)
        if volume is not None and volume.point is not None:
            volume.point.lost = True
            volume.point = None

    def _volume(self, volume_id: str) -> _Volume:
        if volume_id not in self._volumes:
            raise VolumeMissing(volume_id)
        return self._volumes[volume_id]

    def _user(self, volume_id: str) -> str | None:
        users = [id for id, server in self._servers.items() if server.running and volume_id in server.spec.volumes]
        return users[0] if users else None

    def _lose_points(self, server_id: str) -> None:
        for volume in self._volumes.values():
            if volume.point is not None and volume.point.server == server_id:
                volume.point.lost = True


class _Reader:
    def __init__(self, volume: _Volume, point: _Point) -> None:
        self.size = volume.size
        self._volume = volume
        self._point = point

    def extents(self, offset: int, length: int) -> Sequence[Extent]:
        self._require()
        # One block at a time, so that callers have to ask again.
        number = offset // BLOCK
        length = min(length, (number + 1) * BLOCK - offset)
        if number in self._point.blocks:
            return [Extent(offset, length, data=True, base=False)]
        left = 0 if self._volume.base is None else max(0, self._volume.base.size - offset)
        within = left > 0
        return [Extent(offset, min(length, left) if within else length, data=within, base=within)]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self._require()
        done = 0
        while done < len(buffer):
            number, within = divmod(offset + done, BLOCK)
            piece = self._volume.block(self._point.blocks, number)[within : within + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def _require(self) -> None:
        if self._point.lost:
            raise PointLost("lost")
