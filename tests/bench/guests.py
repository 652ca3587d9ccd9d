"""A server whose guest overwrites its second disk without a pause, and says how fast it is and what stopped it."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from app.sizes import MIB
from tests.bench.serving import MeasurementFailed
from tests.support.block_writer import BLOCK, Window, windows, write_boot_disk
from workers.hypervisor.monitor import Monitor
from workers.hypervisor.port import MachineSpec, Seed, VolumeSpec
from workers.hypervisor.qemu import QemuHypervisor

DATA = "DATA"
_BOOT, _SERVER = "BOOT", "WRITER"
_MEMORY = 128 * MIB
_CONSOLE = 64 << 10
# The blocks after which the guest reports.
_WINDOW = 16
_POLL_SECONDS = 0.005
_LONGEST_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class WritingGuest:
    """A server that runs, and overwrites the volume DATA of `size` bytes."""

    hypervisor: QemuHypervisor
    size: int

    async def number(self) -> int:
        """The number of a block that has been written."""
        return max((window.number for window in await self._windows()), default=0)

    async def since(self, number: int) -> Sequence[Window]:
        """The windows after a block, up to one that ends after this call; at least one."""
        reached = await self.number()
        await self._wait_for(reached + 1)
        return [window for window in await self._windows() if window.number > number]

    async def overwrite(self) -> None:
        """Wait until the whole disk has been overwritten once more."""
        await self._wait_for(await self.number() + self.size // BLOCK)

    async def _wait_for(self, number: int) -> None:
        give_up = time.monotonic() + _LONGEST_SECONDS
        while await self.number() < number:
            if time.monotonic() > give_up:
                raise MeasurementFailed(f"the guest wrote no block {number} in {_LONGEST_SECONDS:g} s")
            await asyncio.sleep(_POLL_SECONDS)

    async def _windows(self) -> Sequence[Window]:
        return windows(await self.hypervisor.console(_SERVER, _CONSOLE))


@asynccontextmanager
async def writing_guest(hypervisor: QemuHypervisor, folder: Path, size: int) -> AsyncIterator[WritingGuest]:
    """A server that overwrites a volume of `size` bytes, and has done so once."""
    boot = folder / "writer.qcow2"
    write_boot_disk(boot, size, _WINDOW)
    await hypervisor.create_volume(VolumeSpec(_BOOT, MIB, boot))
    await hypervisor.create_volume(VolumeSpec(DATA, size))
    await hypervisor.launch(MachineSpec(_SERVER, 1, _MEMORY, [_BOOT, DATA], Seed("instance", "writer")))
    try:
        guest = WritingGuest(hypervisor, size)
        await guest.overwrite()
        yield guest
    finally:
        await hypervisor.destroy(_SERVER)
        for volume_id in (_BOOT, DATA):
            await hypervisor.delete_volume(volume_id)
        boot.unlink()


def longest(found: Sequence[Window]) -> float:
    """The longest time, in seconds, between two blocks."""
    return max(window.longest for window in found)


def rate(found: Sequence[Window]) -> float:
    """Bytes per second."""
    return len(found) * _WINDOW * BLOCK / sum(each.seconds for each in found)


@contextmanager
def timed_commands() -> Iterator[list[tuple[str, float]]]:
    """The commands that QEMU is sent during the block, each with the seconds until it is answered."""
    found: list[tuple[str, float]] = []
    execute = Monitor.execute

    async def timed(self: Monitor, command: str, **arguments: object) -> object:
        began = time.perf_counter()
        try:
            return await execute(self, command, **arguments)
        finally:
            found.append((command, time.perf_counter() - began))

    with patch.object(Monitor, "execute", timed):
        yield found
