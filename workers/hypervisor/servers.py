"""Starts and ends the servers of a host."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack

from workers.hypervisor import machine as machines
from workers.hypervisor import processes
from workers.hypervisor.accelerators import Accelerator
from workers.hypervisor.files import HostFiles, ServerFiles, trim
from workers.hypervisor.locks import is_locked, released, try_lock
from workers.hypervisor.machine import Disk, Machine
from workers.hypervisor.monitor import NotRunning, connected
from workers.hypervisor.port import HypervisorError, HypervisorUnavailable, MachineSpec, VolumeInUse
from workers.hypervisor.records import Use, machine_uuid, point_of, write_server, write_use
from workers.hypervisor.seed import write_seed
from workers.hypervisor.settings import HostSettings
from workers.hypervisor.volumes import describe
from workers.qemu.confinement import remove_tree
from workers.qemu.sockets import listen

_WRITE_LOCK_REFUSED = 'Failed to get "write" lock'
# How long QEMU may take to write what it holds, when asked to end, and to be gone after a SIGKILL.
_QUIT_SECONDS = 10.0
_KILL_SECONDS = 10.0
# How long the locks of a process may outlive its connections.
_BRIEF = 2.0


async def start(host: HostFiles, settings: HostSettings, accelerator: Accelerator, spec: MachineSpec) -> None:
    """Start a server that does not run, and wait until its processors run.

    The caller holds the locks of the server and its volumes. Raises VolumeMissing, VolumeInUse, HypervisorError,
    HypervisorUnavailable, OSError.
    """
    server = host.server(spec.id)
    try:
        await asyncio.to_thread(_start_process, host, settings, accelerator, spec)
        async with connected(server, settings.answer_seconds) as monitor:
            await monitor.execute("query-status")
    except NotRunning as error:
        await _give_up(server)
        said = processes.last_words(server)
        kind = VolumeInUse if _WRITE_LOCK_REFUSED in said else HypervisorError
        raise kind(f"server {spec.id} did not start: {said or error}") from error
    except BaseException:
        await _give_up(server)
        raise


def _start_process(host: HostFiles, settings: HostSettings, accelerator: Accelerator, spec: MachineSpec) -> None:
    server = host.server(spec.id)
    volumes = [host.volume(volume_id) for volume_id in spec.volumes]
    disks = [Disk(files, describe(files).base) for files in volumes]
    for volume in volumes:
        point = point_of(volume)
        if point is not None and point.server is None:
            raise VolumeInUse(f"volume {volume.id} has a point that was taken when no server ran")
    uuid = _lay_files(host, settings, spec, server)
    with ExitStack() as stack:
        descriptors = _lock(server, disks, stack)
        listeners = [stack.enter_context(listen(server.monitor(number))) for number in range(machines.MONITORS)]
        agent = stack.enter_context(listen(server.agent))
        command = machines.command(
            Machine(
                settings=settings,
                spec=spec,
                uuid=uuid,
                accelerator=accelerator,
                files=server,
                disks=disks,
                user=host.owner,
                monitors=[listener.fileno() for listener in listeners],
                agent=agent.fileno(),
            )
        )
        descriptors += [*(listener.fileno() for listener in listeners), agent.fileno()]
        processes.start(server, command, descriptors)


def _lay_files(host: HostFiles, settings: HostSettings, spec: MachineSpec, server: ServerFiles) -> str:
    """Write the files that QEMU needs; return the UUID. What the server has written before is kept."""
    server.folder.mkdir(exist_ok=True)
    host.make_folder(server.run, writable=True)
    if not server.console.exists():
        server.console.touch()
    host.give(server.console)
    if spec.uefi and not server.uefi_variables.exists():
        new = server.uefi_variables.with_suffix(".new")
        try:
            shutil.copyfile(settings.uefi_variables, new)
        except FileNotFoundError as error:
            raise HypervisorUnavailable(f"{settings.uefi_variables} not found; install ovmf") from error
        host.give(new)
        new.replace(server.uefi_variables)
    write_seed(server.seed, spec.seed)
    host.give(server.seed)
    return write_server(server, spec)


def _lock(server: ServerFiles, disks: Sequence[Disk], stack: ExitStack) -> list[int]:
    """Take the locks that QEMU is to inherit; they are closed here with `stack`."""
    locks: list[int] = []
    for path in (server.alive, *(disk.files.used for disk in disks)):
        lock = try_lock(path)
        if lock is None:
            raise VolumeInUse(f"another server runs from a volume of server {server.id}")
        stack.callback(os.close, lock)
        locks.append(lock)
    for number, disk in enumerate(disks):
        write_use(disk.files, Use(server.id, number))
    return locks


async def press_power_button(server: ServerFiles, seconds: float) -> None:
    """Ask the guest to shut down; does nothing if the server does not run. Raises HypervisorUnavailable."""
    try:
        async with connected(server, seconds) as monitor:
            await monitor.execute("system_powerdown")
    except NotRunning:
        return


async def end(server: ServerFiles) -> None:
    """End a server: QEMU writes what it holds to its disks, if it still can. Does nothing if the server does not run.

    Raises HypervisorUnavailable if its process can't be killed.
    """
    if not is_locked(server.alive):
        # A QEMU that was taken over could have given up its locks.
        return _kill(server)
    try:
        async with connected(server, _QUIT_SECONDS) as monitor:
            await monitor.attempt("quit")
        ended = await released(server.alive, _QUIT_SECONDS)
    except NotRunning:
        ended = await released(server.alive, _BRIEF)
    except HypervisorUnavailable:
        ended = False
    if not ended:
        _kill(server)
        if not await released(server.alive, _KILL_SECONDS):
            raise HypervisorUnavailable(f"the process of server {server.id} does not end")


def delete(server: ServerFiles) -> None:
    """Delete the files of a server that does not run; does nothing if there are none."""
    # First what makes it a server: what is left of an interrupted deletion is not one.
    server.description.unlink(missing_ok=True)
    remove_tree(server.folder)


def keep_short(server: ServerFiles, settings: HostSettings) -> None:
    """Free the space of what is old in the console's log, and in that of QEMU."""
    trim(server.console, settings.console_bytes)
    trim(server.log, settings.console_bytes)


async def _give_up(server: ServerFiles) -> None:
    _kill(server)
    await released(server.alive, _BRIEF)


def _kill(server: ServerFiles) -> None:
    uuid = machine_uuid(server)
    if uuid is not None:
        processes.kill(uuid)
