"""How long a point of a server's volume takes to become an image in a folder store, against `qemu-img convert`."""

import asyncio
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.adapters.chosen import Storage
from app.adapters.folder.store import FolderStore
from app.catalog.servers.settling import Base
from app.sizes import MIB
from tests.bench.disks import DISKS, flush, run_qemu_img, write_disk
from tests.bench.serving import settle_disk
from workers.capture.capturing import capture
from workers.capture.task import CaptureTask
from workers.hypervisor.files import HostFiles
from workers.hypervisor.port import MachineSpec, Seed, VolumeSpec
from workers.hypervisor.qemu import QemuHypervisor
from workers.hypervisor.settings import HostSettings
from workers.limits import Limits

_SERVER, _VOLUME, _REST = "IDLE", "CAPTURED", "REST"
_BASE, _RESULT = "blobs/base.qcow2", "blobs/result.qcow2"
_MEMORY = 128 * MIB
_RUN = 16 * MIB
_SECRET = b"a secret of thirty-two bytes, or more"
_STEP_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class Captured:
    """Seconds of a capture, and of `qemu-img convert` of the same disk at rest: until it ended, and was flushed."""

    ours: float
    bare: float
    flushed: float


@contextmanager
def folder_storage(folder: Path) -> Iterator[FolderStore]:
    """A folder store that captures are written to."""
    with closing(FolderStore(folder / "store", _SECRET)) as store:
        yield store


async def capture_point(
    hypervisor: QemuHypervisor, store: FolderStore, volume_id: str, base: Base | None = None
) -> float:
    """Take a point of a volume, capture it, and release it; return the seconds until it was captured. It is deleted."""
    began = time.perf_counter()
    point = await hypervisor.point(volume_id)
    async with hypervisor.reading(point) as reader:
        task = CaptureTask(
            reader=reader,
            base=base,
            key=_RESULT,
            workspace="capture-1",
            progress=lambda done, total: None,
            cancelled=threading.Event(),
            require_room=lambda size: None,
        )
        await asyncio.to_thread(capture, Storage(store), task, Limits())
    taken = time.perf_counter() - began
    await hypervisor.release(volume_id)
    store.path(_RESULT).unlink()
    return taken


@dataclass(frozen=True, slots=True)
class IdleServer:
    """A server that does nothing. Its volume has `data` bytes, over an image in the store or without one.

    A second volume with the same bytes is at rest.
    """

    hypervisor: QemuHypervisor
    store: FolderStore
    host: HostFiles
    base: Base | None

    async def capture(self) -> Captured:
        """Capture its volume, and then convert the one at rest."""
        ours = await capture_point(self.hypervisor, self.store, _VOLUME, self.base)
        bare, flushed = await asyncio.to_thread(_converted, self.host.volume(_REST).disk)
        return Captured(ours, bare, flushed)


@asynccontextmanager
async def idle_server(
    hypervisor: QemuHypervisor, settings: HostSettings, store: FolderStore, data: int, *, over_base: bool
) -> AsyncIterator[IdleServer]:
    """A server whose volume has `data` bytes, three quarters of them in its base, if it is over one."""
    disk = DISKS["sparse qcow2"]
    size = disk.virtual_size(data)
    host = HostFiles(settings.folder.absolute())
    base = await asyncio.to_thread(_put_base, store, data * 3 // 4) if over_base else None
    path = None if base is None else store.path(base.key)
    for volume_id in (_VOLUME, _REST):
        await hypervisor.create_volume(VolumeSpec(volume_id, size, path))
        own = data // 4 if over_base else data
        # Behind the base's data, where it has nothing.
        await asyncio.to_thread(_fill, host.volume(volume_id).disk, size - own, own)
    await hypervisor.launch(MachineSpec(_SERVER, 1, _MEMORY, [_VOLUME], Seed("instance", "idle")))
    try:
        yield IdleServer(hypervisor, store, host, base)
    finally:
        await hypervisor.destroy(_SERVER)
        for volume_id in (_VOLUME, _REST):
            await hypervisor.delete_volume(volume_id)


def _put_base(store: FolderStore, data: int) -> Base:
    path = store.path(_BASE)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_disk(DISKS["sparse qcow2"], path.parent, data).rename(path)
    path.chmod(0o444)
    return Base("base", _BASE, path.stat().st_size, None)


def _fill(disk: Path, start: int, length: int) -> None:
    writes = [
        f"write -q -P {1 + number % 255} {start + offset} {min(_RUN, length - offset)}\n"
        for number, offset in enumerate(range(0, length, _RUN))
    ]
    subprocess.run(
        ["qemu-io", "-f", "qcow2", "-t", "unsafe", str(disk)],
        input="".join(writes).encode(),
        check=True,
        capture_output=True,
        timeout=_STEP_SECONDS,
    )
    flush(disk)


def _converted(disk: Path) -> tuple[float, float]:
    """Seconds until qemu-img ended, and until what it wrote was on the disk, which it does not wait for."""
    result = disk.with_name("converted.qcow2")
    settle_disk(disk)
    began = time.perf_counter()
    run_qemu_img("convert", "-W", "-m", "16", "-f", "qcow2", "-O", "qcow2", disk, result)
    ended = time.perf_counter()
    flush(result)
    flushed = time.perf_counter()
    result.unlink()
    return ended - began, flushed - began
