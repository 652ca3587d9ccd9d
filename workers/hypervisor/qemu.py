"""The hypervisor of a host that runs QEMU itself, without a daemon: everything is in a folder and in QEMU's processes.

Several processes may use one folder at a time. Servers outlive all of them, and are found again by the locks that their
processes hold.
"""

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace

from workers.hypervisor import agent, points, processes, servers, volumes
from workers.hypervisor.accelerators import Accelerator, detect
from workers.hypervisor.bases import BaseCache
from workers.hypervisor.files import HostFiles, ServerFiles, VolumeFiles, allocated, tail
from workers.hypervisor.locks import held, is_locked, released
from workers.hypervisor.monitor import NotRunning, connected
from workers.hypervisor.port import (
    HypervisorUnavailable,
    MachineSpec,
    MachineState,
    Point,
    PointReader,
    VolumeInUse,
    VolumeSpec,
)
from workers.hypervisor.settings import HostSettings

# Longer than any operation under a lock takes.
_LOCK_SECONDS = 120.0


class QemuHypervisor:
    """Runs QEMU on this host. Implements Hypervisor."""

    def __init__(self, settings: HostSettings) -> None:
        user = settings.limits.unprivileged_id if os.geteuid() == 0 else None
        self._settings = replace(settings, folder=settings.folder.absolute())
        self._host = HostFiles(self._settings.folder, user)
        self._accelerator: Accelerator | None = None

    async def check(self) -> Accelerator:
        """What guests run on here. Raises HypervisorUnavailable if this machine can't run servers."""
        if self._accelerator is None:
            accelerator = self._settings.accelerator or detect()
            await asyncio.to_thread(processes.check, self._settings, self._host.owner, accelerator)
            self._accelerator = accelerator
        return self._accelerator

    def bases(self, spare: int) -> BaseCache:
        """The base images of this host, which leave `spare` bytes of its disk free."""
        return BaseCache(self._host, spare)

    async def create_volume(self, volume: VolumeSpec) -> None:
        """See Hypervisor."""
        self._host.create()
        files = self._host.volume(volume.id)
        async with _alone(files):
            await asyncio.to_thread(volumes.create, self._host, files, volume, self._settings.limits)

    async def delete_volume(self, volume_id: str) -> None:
        """See Hypervisor."""
        self._host.create()
        files = self._host.volume(volume_id)
        async with _alone(files):
            if is_locked(files.used):
                raise VolumeInUse(f"a server runs from volume {volume_id}")
            await asyncio.to_thread(volumes.delete, files)
            files.lock.unlink(missing_ok=True)

    async def volumes(self) -> Mapping[str, int]:
        """See Hypervisor."""
        found = await asyncio.to_thread(lambda: list(self._host.all_volumes()))
        return {volume.id: allocated(volume.disk) + allocated(volume.fleece) for volume in found}

    async def launch(self, machine: MachineSpec) -> None:
        """See Hypervisor."""
        accelerator = await self.check()
        self._host.create()
        server = self._host.server(machine.id)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(_alone(server))
            if is_locked(server.alive):
                return
            # In one order, so that two launches never wait for each other.
            for volume_id in sorted(set(machine.volumes)):
                await stack.enter_async_context(_alone(self._host.volume(volume_id)))
            await servers.start(self._host, self._settings, accelerator, machine)

    async def state(self, server_id: str) -> MachineState:
        """See Hypervisor."""
        return _state(self._host.server(server_id))

    async def stop(self, server_id: str, grace_seconds: float) -> None:
        """See Hypervisor."""
        server = self._host.server(server_id)
        if _state(server) is not MachineState.RUNNING:
            return
        until = time.monotonic() + grace_seconds
        if grace_seconds > 0:
            with suppress(HypervisorUnavailable):
                await servers.press_power_button(server, min(grace_seconds, self._settings.answer_seconds))
        if not await released(server.alive, until - time.monotonic()):
            async with _alone(server):
                await servers.end(server)

    async def destroy(self, server_id: str) -> None:
        """See Hypervisor."""
        self._host.create()
        server = self._host.server(server_id)
        async with _alone(server):
            await servers.end(server)
            await asyncio.to_thread(servers.delete, server)
            server.lock.unlink(missing_ok=True)

    async def servers(self) -> Mapping[str, MachineState]:
        """See Hypervisor. Also frees the space of what is old in their consoles."""
        found = await asyncio.to_thread(lambda: list(self._host.all_servers()))
        for server in found:
            servers.keep_short(server, self._settings)
        return {server.id: _state(server) for server in found}

    async def console(self, server_id: str, most: int) -> bytes:
        """See Hypervisor. At most `HostSettings.console_bytes` are kept."""
        server = self._host.server(server_id)
        servers.keep_short(server, self._settings)
        return await asyncio.to_thread(tail, server.console, min(most, self._settings.console_bytes))

    async def agent_listens(self, server_id: str) -> bool:
        """See Hypervisor."""
        try:
            async with connected(self._host.server(server_id), self._settings.answer_seconds) as monitor:
                return await agent.listens(monitor)
        except NotRunning:
            return False

    async def point(self, volume_id: str) -> Point:
        """See Hypervisor."""
        self._host.create()
        files = self._host.volume(volume_id)
        async with _alone(files):
            return await points.take(self._host, self._settings, files)

    def reading(self, point: Point) -> AbstractAsyncContextManager[PointReader]:
        """See Hypervisor."""
        return points.reading(self._host, self._settings, point)

    async def release(self, volume_id: str) -> None:
        """See Hypervisor."""
        self._host.create()
        files = self._host.volume(volume_id)
        if files.description.exists():
            async with _alone(files):
                await points.release(self._host, self._settings, files)


def _state(server: ServerFiles) -> MachineState:
    if not server.description.exists():
        return MachineState.ABSENT
    return MachineState.RUNNING if is_locked(server.alive) else MachineState.STOPPED


def _alone(files: ServerFiles | VolumeFiles) -> AbstractAsyncContextManager[None]:
    """No other process, and no other task, works on this server or volume during the block."""
    return held(files.lock, _LOCK_SECONDS)
