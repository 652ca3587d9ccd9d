"""Starts and ends the processes of servers, which outlive the process that started them."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise

from app.sizes import KIB
from workers.hypervisor.accelerators import KVM_DEVICE, Accelerator
from workers.hypervisor.files import ServerFiles, tail
from workers.hypervisor.port import HypervisorUnavailable
from workers.hypervisor.settings import HostSettings
from workers.qemu.confinement import environment
from workers.qemu.namespaces import identity, namespaces
from workers.qemu.programs import resolved

_PACKAGES = {"bwrap": "bubblewrap", "qemu-img": "qemu-utils", "qemu-nbd": "qemu-utils", "setpriv": "util-linux"}
_TEST_SECONDS = 30
_LOG_BYTES = 2 * KIB


def check(settings: HostSettings, user: int | None, accelerator: Accelerator) -> None:
    """Test whether QEMU can be started confined on this machine. Raises HypervisorUnavailable."""
    programs = (settings.qemu_system, settings.limits.qemu_img, settings.limits.qemu_nbd, "bwrap", "setpriv", "prlimit")
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(sorted({_package(program) for program in missing}))
        raise HypervisorUnavailable(f"{', '.join(missing)} not found; install {packages}")
    if accelerator is Accelerator.KVM and not KVM_DEVICE.exists():
        raise HypervisorUnavailable(f"{KVM_DEVICE} does not exist; set the accelerator to {Accelerator.TCG}")
    command = [*namespaces(resolved("bwrap"), user), *identity(user), resolved(settings.qemu_system), "--version"]
    try:
        done = subprocess.run(  # noqa: S603  # nosec B603 (an argument list of our own)
            command, env=environment(), capture_output=True, text=True, timeout=_TEST_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise HypervisorUnavailable(f"{settings.qemu_system} can't be started: {error}") from error
    if done.returncode:
        raise HypervisorUnavailable(f"{settings.qemu_system} can't be confined: {done.stderr.strip()}")


def start(server: ServerFiles, command: Sequence[str], descriptors: Sequence[int]) -> None:
    """Start the process of a server, which inherits the descriptors. Raises OSError."""
    with server.log.open("wb") as log:
        process = subprocess.Popen(  # noqa: S603  # nosec B603 (an argument list of our own)
            command,
            cwd="/",
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=descriptors,
        )
    # It may end at any time, and would then remain as a zombie.
    threading.Thread(target=process.wait, name=f"server-{server.id}", daemon=True).start()


def last_words(server: ServerFiles) -> str:
    """The end of what the process of a server wrote to its standard error."""
    return tail(server.log, _LOG_BYTES).decode("utf-8", "replace").strip()


def kill(uuid: str) -> None:
    """Kill all processes of the virtual machine with a UUID."""
    for name in os.listdir("/proc"):
        pid = int(name) if name.isdigit() else 0
        with suppress(OSError):
            if not pid or not _runs(pid, uuid):
                continue
            # The descriptor stays with this process, even if its number is used again after the second look.
            fd = os.pidfd_open(pid)
            try:
                if _runs(pid, uuid):
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            finally:
                os.close(fd)


def _runs(pid: int, uuid: str) -> bool:
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        arguments = file.read().split(b"\0")
    return any(pair == (b"-uuid", uuid.encode()) for pair in pairwise(arguments))


def _package(program: str) -> str:
    name = os.path.basename(program)
    return "qemu-system-x86" if name.startswith("qemu-system") else _PACKAGES.get(name, name)
