"""How soon a server runs whose image is cached on its host, against a bare QEMU with the same arguments."""

import asyncio
import hashlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from qemu.qmp import QMPClient

from app.sizes import MIB
from tests.bench.disks import DISKS, write_disk
from tests.bench.serving import MeasurementFailed
from workers.hypervisor.files import HostFiles, ServerFiles, VolumeFiles
from workers.hypervisor.port import MachineSpec, Seed, VolumeSpec
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.records import machine_uuid
from workers.hypervisor.settings import HostSettings
from workers.qemu.sockets import connect, listen

_SERVER, _VOLUME = "LAUNCHED", "ROOT"
_MEMORY = 128 * MIB
_STEP_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Launch:
    """Seconds until a server ran, and until a bare QEMU did; the bytes that were copied, and those of tables."""

    ours: float
    bare: float
    copied: int
    tables: int


@dataclass
class Launcher:
    """Launches servers from one image of `data` bytes, which is in the cache of the host."""

    hypervisor: QemuHypervisor
    settings: HostSettings
    folder: Path
    data: int
    _fetched: int = field(default=0, init=False)

    async def prepare(self) -> None:
        """Write the image, and fetch it into the cache."""
        disk = DISKS["sparse qcow2"]
        self._image = write_disk(disk, self.folder, self.data)
        self._size = disk.virtual_size(self.data)
        with self._image.open("rb") as file:
            self._sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        async with self._base():
            """It is fetched now."""

    async def launch(self) -> Launch:
        """Launch a server, and then QEMU alone with the server's arguments and files."""
        fetched = self._fetched
        began = time.perf_counter()
        async with self._base() as base:
            await self.hypervisor.create_volume(VolumeSpec(_VOLUME, self._size, base))
            await self.hypervisor.launch(MachineSpec(_SERVER, 1, _MEMORY, [_VOLUME], Seed("instance", "launched")))
        ours = time.perf_counter() - began
        host = HostFiles(self.settings.folder.absolute())
        server, volume = host.server(_SERVER), host.volume(_VOLUME)
        command = _command(server, volume, base)
        await self.hypervisor.stop(_SERVER, 0)
        copied = self._fetched - fetched + _own_data(volume.disk)
        tables = volume.disk.stat().st_blocks * 512
        bare = await _start_bare(command, server)
        await self.hypervisor.destroy(_SERVER)
        await self.hypervisor.delete_volume(_VOLUME)
        return Launch(ours, bare, copied, tables - copied)

    def _base(self) -> AbstractAsyncContextManager[Path]:
        return self.hypervisor.bases(0).base(self._sha256, self._image.stat().st_size, self._fetch)

    async def _fetch(self, path: Path) -> None:
        self._fetched += self._image.stat().st_size
        await asyncio.to_thread(shutil.copyfile, self._image, path)


def _command(server: ServerFiles, volume: VolumeFiles, base: Path) -> list[str]:
    """The arguments of a server's QEMU, with the paths that they have outside of its sandbox."""
    uuid = machine_uuid(server)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            command = process.cmdline()
            if uuid in command and "qemu-system" in process.name():
                break
    else:
        raise MeasurementFailed("the server that was launched has no process")
    places = {
        "/vm/0/": f"{volume.disk_folder}/",
        "/vm/base0": str(base),
        f"/vm/{server.console.name}": str(server.console),
        f"/vm/{server.seed.name}": str(server.seed),
    }
    for inside, outside in places.items():
        command = [argument.replace(inside, outside) for argument in command]
    return command


async def _start_bare(command: Sequence[str], server: ServerFiles) -> float:
    """Seconds from the start of a command until its processors run, which its first monitor says. Ends it."""
    with ExitStack() as stack:
        began = time.perf_counter()
        process = _started(command, server, stack)
        try:
            client = QMPClient()
            with connect(server.run / "bare0.sock") as connection:
                await client.connect(connection.dup())
            status = await client.execute("query-status")
            taken = time.perf_counter() - began
            if not isinstance(status, dict) or status.get("status") != "running":
                raise MeasurementFailed(f"a bare QEMU did not start: {status}")
            await client.disconnect()
        finally:
            process.kill()
            process.wait(_STEP_SECONDS)
    return taken


def _started(command: Sequence[str], server: ServerFiles, stack: ExitStack) -> subprocess.Popen[bytes]:
    """Start a command with listening sockets, which `stack` closes, in place of those that its `fd=…` mean."""
    listeners: list[socket.socket] = []

    def listening(_: re.Match[str]) -> str:
        listeners.append(stack.enter_context(listen(server.run / f"bare{len(listeners)}.sock")))
        return f"fd={listeners[-1].fileno()}"

    arguments = [re.sub(r"\bfd=\d+", listening, argument) for argument in command]
    return subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=[each.fileno() for each in listeners],
    )


def _own_data(disk: Path) -> int:
    """The bytes of data in a disk itself, without its base."""
    command = ["qemu-img", "map", "--output=json", "-f", "qcow2", str(disk)]
    done = subprocess.run(command, check=True, capture_output=True, timeout=_STEP_SECONDS)
    return sum(part["length"] for part in json.loads(done.stdout) if part["data"] and part["depth"] == 0)
