"""qemu-nbd, confined: reads the sandbox's image and offers the disk in it on a socket, as long as it is wanted."""

import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from workers.errors import Cancelled, QemuError, QemuFailed, QemuTimedOut
from workers.limits import Bounds
from workers.qemu import processes
from workers.qemu.confinement import OUTPUT, Sandbox
from workers.qemu.img import Image
from workers.qemu.nbd_client import NbdClient

SOCKET = "disk.sock"
_BETWEEN_TRIES = 0.005
_LONGEST_START = 30.0
# A process that dies hangs up first, and can be asked why a moment later.
_LAST_WORDS = 5.0


class Export:
    """A disk that is being offered by a qemu-nbd in a sandbox."""

    def __init__(self, sandbox: Sandbox, process: "subprocess.Popen[bytes]", bounds: Bounds) -> None:
        self._sandbox = sandbox
        self._process = process
        self._bounds = bounds
        self._ended_by: BaseException | None = None
        self._attending = threading.Thread(target=self._attend, name="qemu-nbd", daemon=True)
        self._attending.start()

    def connect(self) -> NbdClient:
        """One more connection, to be closed by the caller. Raises QemuFailed."""
        try:
            return NbdClient(_connected(self._sandbox))
        except OSError as error:
            raise QemuFailed(f"qemu-nbd can't be connected to: {error}") from error

    def wait_until_ready(self) -> None:
        """Raises what the process ended with, if it ends before it answers; QemuTimedOut."""
        deadline = time.monotonic() + _LONGEST_START
        while True:
            with suppress(OSError):
                # It listens before it has opened the image, and answers afterwards.
                return NbdClient(_connected(self._sandbox)).close()
            self._attending.join(_BETWEEN_TRIES)
            if self._ended_by is not None:
                raise self._ended_by
            if time.monotonic() > deadline:
                raise QemuTimedOut("qemu-nbd does not begin to listen")

    def why_it_ended(self) -> BaseException | None:
        """What made the process end, if it has ended or does so in a moment."""
        self._attending.join(_LAST_WORDS)
        return self._ended_by

    def end(self) -> None:
        """End the process; nothing of it is left."""
        with suppress(ProcessLookupError):
            if self._attending.is_alive():
                os.killpg(self._process.pid, 9)
        self._attending.join()

    def _attend(self) -> None:
        try:
            stderr, code = processes.attend(self._process, self._sandbox, "nbd", self._bounds, lambda piece: None)
            self._ended_by = processes.named("nbd", code, stderr)
        except BaseException as error:
            self._ended_by = error


@contextmanager
def export(sandbox: Sandbox, image: Image, bounds: Bounds, connections: int = 4) -> Iterator[Export]:
    """Run a qemu-nbd that offers the disk in `image`, read-only, to so many connections at a time.

    What goes wrong within the block because of the process is raised as what the process ended by: QemuRefused,
    QemuStopped, QemuTimedOut after the wall-clock time of `bounds`, Cancelled; or as what the source failed with.
    """
    (sandbox.folder / OUTPUT / SOCKET).unlink(missing_ok=True)
    # It takes no relative path, and no address of more than 107 characters.
    address = f"{sandbox.confinement.folder}/{OUTPUT}/{SOCKET}"
    arguments = ["--read-only", "--persistent", f"--shared={connections}", f"--socket={address}"]
    bounds = replace(bounds, file_size=0)
    command = sandbox.confinement.command([*arguments, *image.arguments], bounds, sandbox.limits.qemu_nbd)
    with processes.blaming_source(sandbox):
        running = Export(sandbox, processes.start(sandbox, command), bounds)
        try:
            running.wait_until_ready()
            yield running
        except QemuFailed as error:
            reason = running.why_it_ended()
            if isinstance(reason, QemuError | Cancelled):
                raise reason from error
            raise
        finally:
            running.end()


def _connected(sandbox: Sandbox) -> socket.socket:
    """A connection to the socket in the sandbox, whatever a hostile process put in its place. Raises OSError."""
    path = sandbox.folder / OUTPUT / SOCKET
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError("what is there is no socket")
        # The path itself may be too long for an address.
        connection.connect(f"/proc/self/fd/{place}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(place)
    return connection
