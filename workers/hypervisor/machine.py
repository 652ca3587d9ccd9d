"""Builds the command that runs a server: bubblewrap around QEMU, with all of its devices.

In the sandbox, /vm has the server's files, and /vm/N the folder of its volume number N. The names of nodes and devices
count, too: a disk's are `disk0`, `disk1`, …
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.sizes import GIB, MIB
from workers.hypervisor.accelerators import KVM_DEVICE, Accelerator
from workers.hypervisor.files import ServerFiles, VolumeFiles
from workers.hypervisor.port import MachineSpec
from workers.hypervisor.settings import HostSettings
from workers.qemu.namespaces import identity, namespaces
from workers.qemu.programs import resolved

MONITORS = 2
AGENT = "agent"
_VM = "/vm"
# What QEMU needs besides the memory of the guest: its program, libraries and threads, and translated code.
_OVERHEAD = 4 * GIB
_SECCOMP = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True, slots=True)
class Disk:
    """A volume of a server: its files, and its base, if it has one."""

    files: VolumeFiles
    base: Path | None


@dataclass(frozen=True, slots=True)
class Machine:
    """A server to start, with everything that its command depends on.

    `user` is the user that QEMU runs as, None if it runs as ourselves; `monitors` and `agent` are descriptors of
    listening sockets.
    """

    settings: HostSettings
    spec: MachineSpec
    uuid: str
    accelerator: Accelerator
    files: ServerFiles
    disks: Sequence[Disk]
    user: int | None
    monitors: Sequence[int]
    agent: int


def disk_name(number: int) -> str:
    """The name of the node, and of the device, of a server's volume."""
    return f"disk{number}"


def device_path(number: int) -> str:
    """The path, among QEMU's objects, of what connects a volume's device with its node."""
    return f"/machine/peripheral/{disk_name(number)}/virtio-backend"


def fleece_path(number: int, volume: VolumeFiles) -> str:
    """The path of a volume's fleece as QEMU sees it."""
    return f"{_VM}/{number}/{volume.fleece.name}"


def points_path(server: ServerFiles) -> str:
    """The path of the socket on which QEMU serves points, as QEMU sees it."""
    return f"{_VM}/run/{server.points.name}"


def command(machine: Machine) -> list[str]:
    """The command that runs a server, confined."""
    return [*_confinement(machine), *_qemu(machine)]


def _confinement(machine: Machine) -> list[str]:
    files = machine.files
    # Machines outlive us: nothing here ends with its parent.
    sandbox = [*namespaces(resolved("bwrap"), machine.user), "--perms", "0755", "--dir", _VM]
    sandbox += ["--bind", str(files.run), f"{_VM}/run", "--bind", str(files.console), f"{_VM}/{files.console.name}"]
    sandbox += ["--ro-bind", str(files.seed), f"{_VM}/{files.seed.name}"]
    if machine.spec.uefi:
        sandbox += ["--bind", str(files.uefi_variables), f"{_VM}/{files.uefi_variables.name}"]
    for number, disk in enumerate(machine.disks):
        sandbox += ["--bind", str(disk.files.disk_folder), f"{_VM}/{number}"]
        if disk.base is not None:
            sandbox += ["--ro-bind", str(disk.base), _base_path(number)]
    groups: list[int] = []
    if machine.accelerator is Accelerator.KVM:
        sandbox += ["--dev-bind", str(KVM_DEVICE), str(KVM_DEVICE)]
        groups = [KVM_DEVICE.stat().st_gid]
    limits = [resolved("prlimit"), f"--as={machine.spec.memory + _OVERHEAD}", "--core=0", "--"]
    return [*sandbox, "--chdir", _VM, *identity(machine.user, groups), *limits]


def _qemu(machine: Machine) -> list[str]:
    spec = machine.spec
    options = [resolved(machine.settings.qemu_system), "-name", f"guest={spec.id}", "-uuid", machine.uuid]
    options += ["-nodefaults", "-no-user-config", "-display", "none", "-sandbox", _SECCOMP]
    # Without graphics, SeaBIOS writes to the serial port as well.
    board = "q35,graphics=off" + (",pflash0=uefi-code,pflash1=uefi-variables" if spec.uefi else "")
    cpu = "host" if machine.accelerator is Accelerator.KVM else "max"
    options += ["-machine", board, "-accel", machine.accelerator.value, "-cpu", cpu]
    options += ["-smp", str(spec.vcpus), "-m", f"size={spec.memory // MIB}M"]
    return [*options, *_sockets(machine), *_storage(machine), *_devices(machine)]


def _sockets(machine: Machine) -> list[str]:
    options: list[str] = []
    for number, fd in enumerate(machine.monitors):
        options += ["-chardev", f"socket,id=monitor{number},fd={fd},server=on,wait=off"]
        options += ["-mon", f"chardev=monitor{number},mode=control"]
    options += ["-chardev", f"socket,id={AGENT},fd={machine.agent},server=on,wait=off"]
    options += ["-device", "virtio-serial-pci"]
    options += ["-device", f"virtserialport,chardev={AGENT},name=org.qemu.guest_agent.0"]
    # A log, and no client: one that did not read would stop the guest's console, and with it the guest.
    log = f"{_VM}/{machine.files.console.name}"
    return [*options, "-chardev", f"null,id=console,logfile={log},logappend=on", "-serial", "chardev:console"]


def _storage(machine: Machine) -> list[str]:
    options: list[str] = []
    if machine.spec.uefi:
        variables = f"{_VM}/{machine.files.uefi_variables.name}"
        options += _blockdev(_raw("uefi-code", str(machine.settings.uefi_code), read_only=True))
        options += _blockdev(_raw("uefi-variables", variables, read_only=False))
    for number, disk in enumerate(machine.disks):
        first = ",bootindex=0" if number == 0 else ""
        options += _blockdev(_overlay(number, disk))
        # Without an iothread: with one, QEMU 7.2 aborts when a client of a point disconnects.
        options += ["-device", f"virtio-blk-pci,id={disk_name(number)},drive={disk_name(number)}{first}"]
    options += _blockdev(_raw("seed", f"{_VM}/{machine.files.seed.name}", read_only=True))
    return [*options, "-device", "virtio-blk-pci,id=seed,drive=seed"]


def _devices(machine: Machine) -> list[str]:
    options: list[str] = []
    if machine.spec.network:
        tail = uuid.UUID(machine.uuid).bytes[-3:]
        address = "52:54:00:" + ":".join(f"{byte:02x}" for byte in tail)
        # `restrict`: the guest gets an address and reaches nothing, neither the host's loopback nor other guests.
        options += ["-netdev", "user,id=net,restrict=on"]
        options += ["-device", f"virtio-net-pci,netdev=net,mac={address},romfile="]
    return [*options, "-object", "rng-builtin,id=random", "-device", "virtio-rng-pci,rng=random"]


def _overlay(number: int, disk: Disk) -> dict[str, Any]:
    """The whole chain of files of a volume, so that QEMU follows no reference in a file and guesses no format."""
    name = disk_name(number)
    base: dict[str, Any] | None = None
    if disk.base is not None:
        file = {"driver": "file", "filename": _base_path(number), "read-only": True}
        base = {"driver": "qcow2", "node-name": f"base{number}", "read-only": True, "file": file, "backing": None}
    file = {"driver": "file", "filename": f"{_VM}/{number}/{disk.files.disk.name}", "discard": "unmap"}
    return {"driver": "qcow2", "node-name": name, "discard": "unmap", "file": file, "backing": base}


def _raw(name: str, path: str, *, read_only: bool) -> dict[str, Any]:
    file = {"driver": "file", "filename": path, "read-only": read_only}
    return {"driver": "raw", "node-name": name, "read-only": read_only, "file": file}


def _blockdev(node: dict[str, Any]) -> list[str]:
    return ["-blockdev", json.dumps(node)]


def _base_path(number: int) -> str:
    return f"{_VM}/base{number}"
