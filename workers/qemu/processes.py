"""Runs a confined process to its end: reads its output, enforces its time limit, cancels it; never leaves it behind."""

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from app.sizes import KIB, MIB
from workers.errors import (
    Cancelled,
    QemuError,
    QemuFailed,
    QemuMissing,
    QemuRefused,
    QemuStopped,
    QemuTimedOut,
    program,
)
from workers.limits import Bounds
from workers.qemu.confinement import Sandbox, environment

Sink = Callable[[bytes], None]

_POLL_SECONDS = 0.05
_MOST_OUTPUT = MIB
_MOST_STDERR = 4 * KIB
_WRAPPERS = ("bwrap:", "setpriv:", "prlimit:")


def run(
    sandbox: Sandbox, arguments: Sequence[str], bounds: Bounds, sink: Sink, accepted: Collection[int] = (0,)
) -> None:
    """Run `qemu-img ARGUMENTS` in the sandbox, and pass its standard output to `sink` as it arrives.

    `accepted` are the exit codes that count as success. An exception from `sink` ends the process. Raises Cancelled,
    every QemuError, and the error of the source.
    """
    command = sandbox.confinement.command(arguments, bounds)
    with blaming_source(sandbox):
        stderr, code = wait_for_exit(start(sandbox, command), sandbox, arguments[0], bounds, sink)
        if code not in accepted:
            raise exit_error(arguments[0], code, stderr)


@contextmanager
def blaming_source(sandbox: Sandbox) -> Iterator[None]:
    """If the source itself could not be read, raise its error instead of the process's."""
    try:
        yield
    except QemuError as error:
        if sandbox.source_failure is not None:
            raise sandbox.source_failure from error
        raise
    if sandbox.source_failure is not None:
        raise sandbox.source_failure


def start(sandbox: Sandbox, command: Sequence[str], stdin: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    """Start a confined process in the sandbox's folder, in a group of its own; `stdin` is a descriptor.

    Raises QemuMissing.
    """
    try:
        return subprocess.Popen(  # noqa: S603  # nosec B603 (an argument list of our own)
            command,
            cwd=sandbox.folder,
            env=environment(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise QemuMissing(f"{command[0]} can't be started: {error.strerror}") from error


def wait_for_exit(
    process: "subprocess.Popen[bytes]", sandbox: Sandbox, subcommand: str, bounds: Bounds, sink: Sink
) -> tuple[str, int]:
    """Wait for a process to end; return its standard error and its exit code. It never outlives this call.

    Raises Cancelled, QemuTimedOut, and what `sink` raises.
    """
    with process:
        try:
            stderr = _watch(process, sandbox, subcommand, bounds, sink)
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    return stderr, process.returncode


def run_for_output(
    sandbox: Sandbox, arguments: Sequence[str], bounds: Bounds, accepted: Collection[int] = (0,)
) -> bytes:
    """Like `run`, but return the standard output of the process, at most 1 MiB. Raises QemuFailed if it is longer."""
    output = bytearray()

    def collect(piece: bytes) -> None:
        output.extend(piece)
        if len(output) > _MOST_OUTPUT:
            raise QemuFailed(f"{program(arguments[0])} returned more than 1 MiB")

    run(sandbox, arguments, bounds, collect, accepted)
    return bytes(output)


@dataclass(slots=True)
class _StderrTail:
    """The end of what a process wrote to its standard error."""

    text: bytes = b""

    def add(self, piece: bytes) -> None:
        self.text = (self.text + piece)[-_MOST_STDERR:]


def _watch(process: "subprocess.Popen[bytes]", sandbox: Sandbox, subcommand: str, bounds: Bounds, sink: Sink) -> str:
    """Read both outputs until they and the process end; return the end of its standard error."""
    deadline = time.monotonic() + bounds.wall_seconds
    stderr_tail = _StderrTail()
    with selectors.DefaultSelector() as selector:
        for stream, taker in ((process.stdout, sink), (process.stderr, stderr_tail.add)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, taker)
        while selector.get_map() or process.poll() is None:
            if sandbox.cancelled.is_set():
                raise Cancelled(f"during {program(subcommand)}")
            if time.monotonic() > deadline:
                raise QemuTimedOut(f"{program(subcommand)} took more than {bounds.wall_seconds} s")
            if not selector.get_map():
                _wait_shortly(process)
            for key, _ in selector.select(_POLL_SECONDS) if selector.get_map() else ():
                piece = os.read(key.fd, 64 * KIB)
                if piece:
                    key.data(piece)
                else:
                    selector.unregister(key.fileobj)
    return stderr_tail.text.decode("utf-8", "replace").strip()


def _wait_shortly(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(_POLL_SECONDS)
    except subprocess.TimeoutExpired:
        return


def exit_error(subcommand: str, code: int, stderr: str) -> QemuError:
    """The error for an exit code; a code above 128 is a signal, as reported by the wrapper of the process."""
    if code < 0 or code > 128:
        return QemuStopped(subcommand, -code if code < 0 else code - 128)
    if code >= 125 or stderr.startswith(_WRAPPERS):
        return QemuFailed(f"{program(subcommand)} ended with {code}: {stderr}")
    return QemuRefused(subcommand, code, stderr)
