"""What the workers of a host need from its hypervisor. The terms fit QEMU, libvirt and OpenStack alike.

Ids are those of the catalogue's rows: unique, at most 31 characters of letters, digits and underscores. Sizes, offsets
and lengths are in bytes. Every operation may be repeated: what an earlier call has done is kept, also if its process
was killed during the call.

HypervisorError
├── HypervisorUnavailable   this machine can't run servers, or its hypervisor does not answer
├── VolumeMissing           the host has no disk for the volume
├── VolumeInUse             a running server or a point uses the volume
├── PointExists             the volume already has a point
└── PointLost               the point can no longer be read
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from app.errors import GatewayError


class HypervisorError(GatewayError):
    """Base of the errors of a hypervisor. The text is for the log."""


class HypervisorUnavailable(HypervisorError):
    """Raised when the hypervisor can't be used on this machine, or does not answer. The message says what to do."""


class VolumeMissing(HypervisorError):
    """Raised when the host has no disk for the volume."""


class VolumeInUse(HypervisorError):
    """Raised when a volume can't be changed now: a running server, or a point, uses it."""


class PointLost(HypervisorError):
    """Raised when a point in time can no longer be read. The server and its volume are unharmed."""


class PointExists(HypervisorError):
    """Raised when the volume has a point that has not been released: there is one at a time."""


class MachineState(StrEnum):
    """The state of a server on this host. ABSENT: the host does not know it."""

    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    ABSENT = "ABSENT"


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """A volume to create: an overlay over `base`, a read-only qcow2 file, or an empty disk without one."""

    id: str
    size: int
    base: Path | None = None


@dataclass(frozen=True, slots=True)
class Seed:
    """What cloud-init reads when a server boots for the first time. `instance_id` is new for each server."""

    instance_id: str
    host_name: str
    ssh_keys: Sequence[str] = ()
    user_data: str | None = None


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """A server to run. It boots from the first of its volumes, which exist already.

    `uefi` selects the firmware: UEFI instead of BIOS. Without `network`, it has no network card.
    """

    id: str
    vcpus: int
    memory: int
    volumes: Sequence[str]
    seed: Seed
    uefi: bool = False
    network: bool = True


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of a point. `data` is false where it reads as zeros.

    `base` is true where the bytes are those of the volume's base at the same offset: they need not be read. `data` is
    then true, although the base itself may hold zeros there.
    """

    offset: int
    length: int
    data: bool
    base: bool


@dataclass(frozen=True, slots=True)
class Point:
    """A point in time of a volume, which has `size` bytes.

    `quiet` is true when the file systems of the guest were frozen at that moment, or when no guest was running.
    """

    volume: str
    size: int
    quiet: bool


class PointReader(Protocol):
    """Reads a point. Blocking; used by one thread at a time. Every method raises PointLost."""

    @property
    def size(self) -> int:
        """The size of the volume, in bytes."""

    def extents(self, offset: int, length: int) -> Sequence[Extent]:
        """What a range consists of, in order and without gaps; possibly less than the whole range, never nothing."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of the point from `offset` on."""


class Hypervisor(Protocol):
    """The virtual machines of one host. Every operation may raise HypervisorUnavailable and OSError."""

    async def create_volume(self, volume: VolumeSpec) -> None:
        """Create the disk of a volume. Keeps one that exists."""

    async def delete_volume(self, volume_id: str) -> None:
        """Delete the disk of a volume, with its point. Raises VolumeInUse while a server runs from it."""

    async def volumes(self) -> Mapping[str, int]:
        """The volumes of this host, each with the bytes that its disk takes here."""

    async def launch(self, machine: MachineSpec) -> None:
        """Start a server; does nothing if it runs. Starts a stopped one again, with the same spec.

        Raises VolumeMissing, and VolumeInUse while another server runs from one of its volumes, or while one has a
        point that was taken when no server ran.
        """

    async def state(self, server_id: str) -> MachineState:
        """The state of a server now."""

    async def stop(self, server_id: str, grace_seconds: float) -> None:
        """Press the power button of a server, and end it if it still runs after `grace_seconds`."""

    async def destroy(self, server_id: str) -> None:
        """End a server at once, and delete everything of it except its volumes."""

    async def servers(self) -> Mapping[str, MachineState]:
        """The servers that this host knows."""

    async def console(self, server_id: str, most: int) -> bytes:
        """The end of what a server wrote to its serial console: at most `most` bytes. Empty if it wrote nothing."""

    async def agent_listens(self, server_id: str) -> bool:
        """Whether a guest agent listens in a server. False if it does not run."""

    async def point(self, volume_id: str) -> Point:
        """Take a point in time of a volume, whether its server runs or not. Raises PointExists, VolumeMissing."""

    def reading(self, point: Point) -> AbstractAsyncContextManager[PointReader]:
        """A reader of a point, until the end of the block. Works in another process than the one that took the point.

        Raises PointLost.
        """

    async def release(self, volume_id: str) -> None:
        """Discard the point of a volume. Does nothing if there is none."""
