"""Runs qemu-nbd confined: it reads the sandbox's image and serves its disk on a socket."""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from workers.errors import Cancelled, QemuError, QemuFailed, QemuTimedOut
from workers.limits import Bounds
from workers.qemu import processes
from workers.qemu.confinement import OUTPUT, Sandbox
from workers.qemu.img import Image
from workers.qemu.nbd_client import NbdClient
from workers.qemu.nbd_protocol import ALLOCATION_DEPTH, BASE_ALLOCATION
from workers.qemu.sockets import connect

SOCKET = "disk.sock"
_BETWEEN_TRIES = 0.005
_LONGEST_START = 30.0
# A dying process closes its connections first; its exit code is available a moment later.
_LAST_WORDS = 5.0


class Export:
    """A disk that a qemu-nbd in a sandbox serves."""

    def __init__(self, sandbox: Sandbox, process: "subprocess.Popen[bytes]", bounds: Bounds) -> None:
        self._sandbox = sandbox
        self._process = process
        self._bounds = bounds
        self._ended_by: BaseException | None = None
        self._attending = threading.Thread(target=self._attend, name="qemu-nbd", daemon=True)
        self._attending.start()

    def connect(self, context: bytes = BASE_ALLOCATION) -> NbdClient:
        """Open another connection, which the caller has to close, for the block status of `context`.

        Raises QemuFailed.
        """
        try:
            return NbdClient(self.dial(), context=context)
        except OSError as error:
            raise QemuFailed(f"qemu-nbd can't be connected to: {error}") from error

    def wait_until_ready(self) -> None:
        """Wait until the process answers. Raises the error it ended with if it ends before; QemuTimedOut."""
        deadline = time.monotonic() + _LONGEST_START
        while True:
            with suppress(OSError):
                # It listens before it opens the image, and answers only afterwards.
                return NbdClient(self.dial()).close()
            self._attending.join(_BETWEEN_TRIES)
            if self._ended_by is not None:
                raise self._ended_by
            if time.monotonic() > deadline:
                raise QemuTimedOut(f"qemu-nbd did not answer within {_LONGEST_START:g} s")

    def exit_error(self) -> BaseException | None:
        """The error that ended the process, if it has ended or ends within a few seconds."""
        self._attending.join(_LAST_WORDS)
        return self._ended_by

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        with suppress(ProcessLookupError):
            if self._attending.is_alive():
                os.killpg(self._process.pid, 9)
        self._attending.join()

    def dial(self) -> socket.socket:
        """Open another connection, without the handshake, which the caller has to close. Raises OSError."""
        return connect(self._sandbox.folder / OUTPUT / SOCKET)

    def _attend(self) -> None:
        try:
            stderr, code = processes.wait_for_exit(
                self._process, self._sandbox, "nbd", self._bounds, lambda piece: None
            )
            self._ended_by = processes.exit_error("nbd", code, stderr)
        except BaseException as error:
            self._ended_by = error


@contextmanager
def export(
    sandbox: Sandbox, image: Image, bounds: Bounds, connections: int = 4, contexts: Collection[bytes] = ()
) -> Iterator[Export]:
    """Run a qemu-nbd that serves the disk in `image`, read-only, to up to `connections` connections at a time.

    `contexts` are those of the block status besides base:allocation; qemu:allocation-depth is supported.
    If the process fails during the block, raises the error that it ended with: QemuRefused, QemuStopped, QemuTimedOut
    after the wall-clock time of `bounds`, Cancelled; or the error of the source.
    """
    (sandbox.folder / OUTPUT / SOCKET).unlink(missing_ok=True)
    # It accepts no relative path, and no address of more than 107 characters.
    address = f"{sandbox.confinement.folder}/{OUTPUT}/{SOCKET}"
    arguments = ["--read-only", "--persistent", f"--shared={connections}", f"--socket={address}"]
    if ALLOCATION_DEPTH in contexts:
        arguments.append("--allocation-depth")
    bounds = replace(bounds, file_size=0)
    command = sandbox.confinement.command([*arguments, *image.arguments], bounds, sandbox.limits.qemu_nbd)
    with processes.blaming_source(sandbox):
        running = Export(sandbox, processes.start(sandbox, command), bounds)
        try:
            running.wait_until_ready()
            yield running
        except QemuFailed as error:
            reason = running.exit_error()
            if isinstance(reason, QemuError | Cancelled):
                raise reason from error
            raise
        finally:
            running.end()
