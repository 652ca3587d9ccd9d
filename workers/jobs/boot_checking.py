"""Boots an image on a throwaway server, and looks whether it comes up. The guest is hostile.

The server and its disk have the same id, which is that of the job. The next attempt deletes what is left of them,
and so does the host's sweep.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass

import structlog

from app.catalog import findings
from app.catalog.catalogue import Catalogue
from app.catalog.servers import boot_checks
from app.catalog.servers.boot_checks import BootCheck, BootOrder
from app.catalog.servers.console_text import clean
from app.catalog.servers.hosts import CHECK_MEMORY
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import VerifyBoot
from app.lifecycle import BootResult, BootSign, ServerFirmware
from app.models import new_id, now
from app.sizes import KIB
from workers.errors import Cancelled
from workers.hypervisor.port import (
    Hypervisor,
    HypervisorError,
    HypervisorUnavailable,
    MachineSpec,
    MachineState,
    Seed,
    VolumeSpec,
)
from workers.jobs.bases import Provide
from workers.jobs.boot_signs import excerpt, sign_in
from workers.jobs.interrupting import unless
from workers.jobs.turn_clock import set_within

log = structlog.get_logger()

_PREFIX = "chk_"
_HOST_NAME = "boot-check"
# How much of the end of the console is searched, and how often.
_MOST_BYTES = 256 * KIB
_LOOK_SECONDS = 1.0


def name_of(job_id: str) -> str:
    """The id of the server, and of its disk, that a job boots."""
    return _PREFIX + job_id.partition("_")[2]


def is_throwaway(name: str) -> bool:
    """Whether a server or a volume of a host is one that a boot check made."""
    return name.startswith(_PREFIX)


async def remove(hypervisor: Hypervisor, name: str) -> None:
    """Delete a throwaway server and its disk; does nothing if there are none. Raises HypervisorError, OSError."""
    await hypervisor.destroy(name)
    await hypervisor.delete_volume(name)


@dataclass(frozen=True, slots=True)
class BootChecking:
    """Does the boot checks of one host. Every method raises errors that another attempt may resolve.

    `provide` makes the bytes of an image available as a file.
    """

    catalogue: Catalogue
    hypervisor: Hypervisor
    provide: Provide

    async def verify(self, claim: Claim[VerifyBoot], cancelled: asyncio.Event) -> None:
        """Boot an image and record whether it comes up. Leaves no server behind."""
        name = name_of(claim.job_id)
        # An attempt whose process was killed may have left one.
        await remove(self.hypervisor, name)
        if claim.attempt > self.catalogue.settings.job_attempts:
            await self.give_up(claim)
            return
        order = await boot_checks.order_for(self.catalogue, claim)
        if order is None:
            return
        if isinstance(order, BootOrder):
            try:
                check = await self._boot(name, order, cancelled)
            finally:
                await remove(self.hypervisor, name)
        else:
            check = order
        log.info("boot_check.done", image=claim.image_id, result=check.result, seen=check.seen, seconds=check.seconds)
        await findings.keep_boot_check(self.catalogue, claim, check)

    async def give_up(self, claim: Claim[VerifyBoot]) -> None:
        """Record that the check could not be run."""
        await findings.keep_boot_check(self.catalogue, claim, boot_checks.not_run())

    async def _boot(self, name: str, order: BootOrder, cancelled: asyncio.Event) -> BootCheck:
        await unless(cancelled, self._create_disk(name, order))
        machine = MachineSpec(
            id=name,
            vcpus=1,
            memory=CHECK_MEMORY,
            volumes=[name],
            # Each time a new instance, so that cloud-init does all that it does at a first boot.
            seed=Seed(new_id("ins"), _HOST_NAME),
            uefi=order.firmware is ServerFirmware.UEFI,
            network=False,
        )
        await unless(cancelled, self.hypervisor.launch(machine))
        return await self._watch(name, cancelled)

    async def _create_disk(self, name: str, order: BootOrder) -> None:
        async with self.provide(order.base) as path:
            await self.hypervisor.create_volume(VolumeSpec(name, order.size, path))

    async def _watch(self, name: str, cancelled: asyncio.Event) -> BootCheck:
        """Look at the server until it is known whether it comes up. Raises Cancelled, HypervisorError."""
        began, most = time.monotonic(), self.catalogue.settings.boot_check_seconds
        while True:
            # First the state: the console then has all that the server wrote before it ended.
            state = await self.hypervisor.state(name)
            said = clean(await self.hypervisor.console(name, _MOST_BYTES))
            seen = sign_in(said) or (BootSign.GUEST_AGENT if await self._agent_listens(name) else None)
            seconds = time.monotonic() - began
            result = _result(state, seen, late=seconds >= most)
            if result is not None:
                return BootCheck(result, seen, round(seconds, 1), excerpt(said), now())
            if await set_within(cancelled, min(_LOOK_SECONDS, most - seconds)):
                raise Cancelled("the job was released")

    async def _agent_listens(self, name: str) -> bool:
        with suppress(HypervisorUnavailable):  # it may be busy; the next look finds the agent
            return await self.hypervisor.agent_listens(name)
        return False


def _result(state: MachineState, seen: BootSign | None, *, late: bool) -> BootResult | None:
    """What is known about a server; None if it may still come up. Raises HypervisorError if it was destroyed."""
    if seen is not None:
        return BootResult.BOOTED
    if state is MachineState.ABSENT:
        raise HypervisorError("the server was destroyed during its check")
    if state is MachineState.STOPPED:
        return BootResult.ENDED
    return BootResult.NOT_SEEN if late else None
