"""A hypervisor of nothing but names: it remembers what it was asked for, and fails or waits where a test says so."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from workers.hypervisor.port import (
    HypervisorError,
    MachineSpec,
    MachineState,
    Point,
    PointReader,
    VolumeInUse,
    VolumeSpec,
)


@dataclass
class ScriptedHypervisor:
    """`port.Hypervisor` without points. `disks` and `machines` are what there is, `done` what was called.

    `consoles` is what servers have written.

    An operation in `failing` raises its error, before it does anything. One in `held` waits there until its event is
    set, and `reached` has the event that says so.
    """

    disks: dict[str, VolumeSpec] = field(default_factory=dict)
    machines: dict[str, MachineSpec] = field(default_factory=dict)
    running: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)
    failing: dict[str, Exception] = field(default_factory=dict)
    held: dict[str, asyncio.Event] = field(default_factory=dict)
    reached: dict[str, asyncio.Event] = field(default_factory=dict)
    consoles: dict[str, bytes] = field(default_factory=dict)
    console_of_all: bytes = b""
    agents: bool = False

    def hold(self, operation: str) -> None:
        """Make an operation wait."""
        self.held[operation], self.reached[operation] = asyncio.Event(), asyncio.Event()

    async def _begin(self, operation: str, of: str) -> None:
        if operation in self.failing:
            raise self.failing[operation]
        if operation in self.held:
            self.reached[operation].set()
            await self.held[operation].wait()
        self.done.append(f"{operation} {of}")

    async def create_volume(self, volume: VolumeSpec) -> None:
        await self._begin("create_volume", volume.id)
        if volume.base is not None and not volume.base.is_file():
            raise HypervisorError(f"there is no {volume.base}")
        self.disks.setdefault(volume.id, volume)

    async def delete_volume(self, volume_id: str) -> None:
        await self._begin("delete_volume", volume_id)
        if any(volume_id in self.machines[id_].volumes for id_ in self.running):
            raise VolumeInUse("a server runs from it")
        self.disks.pop(volume_id, None)

    async def volumes(self) -> Mapping[str, int]:
        return dict.fromkeys(self.disks, 0)

    async def launch(self, machine: MachineSpec) -> None:
        await self._begin("launch", machine.id)
        missing = [id_ for id_ in machine.volumes if id_ not in self.disks]
        if missing:
            raise HypervisorError(f"there are no disks {missing}")
        self.machines[machine.id] = machine
        self.running.add(machine.id)

    async def state(self, server_id: str) -> MachineState:
        if server_id not in self.machines:
            return MachineState.ABSENT
        return MachineState.RUNNING if server_id in self.running else MachineState.STOPPED

    async def stop(self, server_id: str, grace_seconds: float) -> None:
        await self._begin("stop", server_id)
        self.running.discard(server_id)

    async def destroy(self, server_id: str) -> None:
        await self._begin("destroy", server_id)
        self.running.discard(server_id)
        self.machines.pop(server_id, None)

    async def servers(self) -> Mapping[str, MachineState]:
        await self._begin("servers", "")
        return {server_id: await self.state(server_id) for server_id in self.machines}

    async def console(self, server_id: str, most: int) -> bytes:
        await self._begin("console", server_id)
        return self.consoles.get(server_id, self.console_of_all)[-most:]

    async def agent_listens(self, server_id: str) -> bool:
        return self.agents

    async def point(self, volume_id: str) -> Point:
        raise NotImplementedError

    def reading(self, point: Point) -> AbstractAsyncContextManager[PointReader]:
        raise NotImplementedError

    async def release(self, volume_id: str) -> None:
        raise NotImplementedError
