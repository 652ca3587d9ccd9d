"""The jobs of a host: compare what a server should be with the hypervisor, and act. Every step may be repeated."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog

from app.catalog.catalogue import Catalogue
from app.catalog.servers import consoles, settling
from app.catalog.servers.settling import Disk, ServerOrder
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CaptureVolume, ReadConsole, SettleServer, SettleVolume, VerifyBoot, every_kind
from app.lifecycle import OF_HOSTS, JobKind, ServerFirmware, ServerGoal
from app.models import now
from workers.hypervisor.port import Hypervisor, MachineSpec, Seed, VolumeSpec
from workers.jobs.bases import Provide
from workers.jobs.boot_checking import BootChecking
from workers.jobs.capturing import Capturing
from workers.jobs.host_failures import failure_of
from workers.jobs.interrupting import unless

log = structlog.get_logger()

# How long a server may wait to be started, for what costs no attempt: a SHA-256, or a volume that is being read.
_PATIENCE = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Hosting:
    """Does the jobs of one host. Lives in one event loop. Every method raises errors that another attempt may resolve.

    `provide` makes the base of a volume available as a file. `capturing` does the captures of volumes.
    """

    catalogue: Catalogue
    hypervisor: Hypervisor
    provide: Provide
    capturing: Capturing
    # A job whose lease was lost may still be acting on its server or volume when the job is claimed again.
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def settle_server(self, claim: Claim[SettleServer], cancelled: asyncio.Event) -> None:
        """Make a server what its users want it to be, and again if they change their mind meanwhile."""
        async with self._alone(claim.detail.server):
            while True:
                order = await settling.order_for(self.catalogue, claim)
                log.info("server.settling", server=order.server_id, goal=order.goal)
                for step in self._steps(order):
                    await unless(cancelled, step())
                if await settling.settled(self.catalogue, claim, order):
                    return

    def _steps(self, order: ServerOrder) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What to do for an order, one after the other. Each step does nothing if it has been done."""
        match order.goal:
            case ServerGoal.RUNNING:
                creating = [partial(self._create, disk) for disk in order.disks]
                return [*creating, partial(self.hypervisor.launch, _machine(order))]
            case ServerGoal.STOPPED:
                return [partial(self.hypervisor.stop, order.server_id, self.catalogue.settings.stop_seconds)]
            case ServerGoal.ABSENT:
                deleting = [partial(self.hypervisor.delete_volume, disk.id) for disk in order.disks if disk.deleted]
                return [partial(self.hypervisor.destroy, order.server_id), *deleting]

    async def _create(self, disk: Disk) -> None:
        if disk.base is None:
            await self.hypervisor.create_volume(VolumeSpec(disk.id, disk.size))
            return
        async with self.provide(disk.base) as path:
            await self.hypervisor.create_volume(VolumeSpec(disk.id, disk.size, path))

    async def settle_volume(self, claim: Claim[SettleVolume], cancelled: asyncio.Event) -> None:
        """Delete the disk of a deleted volume."""
        await unless(cancelled, self.hypervisor.delete_volume(claim.detail.volume))
        await settling.volume_erased(self.catalogue, claim)

    async def verify_boot(self, claim: Claim[VerifyBoot], cancelled: asyncio.Event) -> None:
        """Boot an image to see whether it comes up."""
        async with self._alone(claim.job_id):
            await self._boot_checking.verify(claim, cancelled)

    @property
    def _boot_checking(self) -> BootChecking:
        return BootChecking(self.catalogue, self.hypervisor, self.provide)

    async def capture(self, claim: Claim[CaptureVolume], cancelled: asyncio.Event) -> None:
        """Capture a volume, one capture of it after the other."""
        async with self._alone(claim.detail.volume):
            await self.capturing.capture(claim, cancelled)

    async def read_console(self, claim: Claim[ReadConsole], cancelled: asyncio.Event) -> None:
        """Read the end of a server's console. Needs no lock: a server that is being stopped is still writing."""
        reading = self.hypervisor.console(claim.detail.server, consoles.WANTED_BYTES)
        await consoles.keep(self.catalogue, claim, await unless(cancelled, reading))

    async def give_up(self, claim: Claim[Any], error: Exception) -> bool:
        """Set what could not be started or captured to ERROR, or end a boot check or the reading of a console.

        Returns False for other jobs, which are retried forever.
        """
        if claim.kind is JobKind.VERIFY_BOOT:
            await self._boot_checking.give_up(claim)
            return True
        if claim.kind is JobKind.READ_CONSOLE:
            await consoles.keep(self.catalogue, claim, None)
            return True
        if claim.kind is JobKind.CAPTURE:
            return await self.capturing.give_up(claim, error)
        if claim.kind is not JobKind.SETTLE_SERVER:
            return False
        order = await settling.order_for(self.catalogue, claim)
        if order.goal != ServerGoal.RUNNING:
            return False
        return await settling.failed(self.catalogue, claim, order, failure_of(error))

    async def give_up_waiting(self, claim: Claim[Any], error: Exception) -> bool:
        """As `give_up`, for a server that has waited too long. Returns False for one that has not."""
        if claim.kind is not JobKind.SETTLE_SERVER:
            return False
        order = await settling.order_for(self.catalogue, claim)
        return now() - order.changed_at > _PATIENCE and await self.give_up(claim, error)

    def _alone(self, of: str) -> asyncio.Lock:
        lock = self._locks.get(of) or asyncio.Lock()
        self._locks[of] = lock
        return lock


def _machine(order: ServerOrder) -> MachineSpec:
    return MachineSpec(
        id=order.server_id,
        vcpus=order.vcpus,
        memory=order.memory,
        volumes=[disk.id for disk in order.disks],
        seed=Seed(order.instance_id, order.host_name, order.ssh_keys, order.user_data),
        uefi=order.firmware is ServerFirmware.UEFI,
    )


Duty = Callable[[Claim[Any], asyncio.Event], Coroutine[Any, Any, None]]

# The method that does each kind of job.
DUTIES: Mapping[JobKind, Callable[[Hosting], Duty]] = every_kind(
    {
        JobKind.SETTLE_SERVER: lambda hosting: hosting.settle_server,
        JobKind.SETTLE_VOLUME: lambda hosting: hosting.settle_volume,
        JobKind.VERIFY_BOOT: lambda hosting: hosting.verify_boot,
        JobKind.READ_CONSOLE: lambda hosting: hosting.read_console,
        JobKind.CAPTURE: lambda hosting: hosting.capture,
    },
    OF_HOSTS,
)
