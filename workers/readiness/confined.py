"""Runs the reader in bubblewrap: it has one connected socket, the system's programs, Python and its modules, no more.

It has no network, sees no other process, can't start one, and can't write a file. Its memory and time are limited.
"""

import importlib.util
import os
import socket
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from app.sizes import GIB
from workers.errors import QemuError, QemuFailed
from workers.limits import Bounds
from workers.qemu import processes
from workers.qemu.confinement import Sandbox
from workers.qemu.namespaces import WRAPPERS, identity, namespaces
from workers.qemu.programs import outside_system, resolved, within_system
from workers.readiness.reader.exits import DISK_LOST
from workers.readiness.validation import MOST_OUTPUT

BOUNDS = Bounds(memory=1 * GIB, cpu_seconds=20, wall_seconds=120)
_MOST_OPEN_FILES = 32
_SHOWN_AT = "/reader"
PROGRAM = "from workers.readiness.reader.main import main; raise SystemExit(main())"
_MODULES = (
    *("app.boot_readiness.report", "app.errors", "app.lifecycle", "app.sizes"),
    *("workers.errors", "workers.qemu.nbd_client", "workers.qemu.nbd_protocol", "workers.readiness.reader"),
    *("pyfsext", "pyfsfat", "pyfsntfs", "pyfsxfs", "pyregf", "pyvslvm", "lz4", "zstandard"),
)


class ReaderFailed(QemuError):
    """Raised when the reader printed too much, or can't be started."""


def read_confined(
    sandbox: Sandbox, bubblewrap: str, connection: socket.socket, *, bounds: Bounds = BOUNDS, program: str = PROGRAM
) -> bytes:
    """Run the reader on a connected NBD socket; return what it printed, at most 64 KiB.

    `program` is Python code. Raises QemuFailed if the server of the disk failed it; every other QemuError; Cancelled.
    """
    output = bytearray()

    def collect(piece: bytes) -> None:
        output.extend(piece)
        if len(output) > MOST_OUTPUT:
            raise ReaderFailed("the reader printed more than 64 KiB")

    user = sandbox.limits.unprivileged_id if os.geteuid() == 0 else None
    process = processes.start(sandbox, _command(bubblewrap, user, bounds, program), stdin=connection.fileno())
    stderr, code = processes.wait_for_exit(process, sandbox, "reader", bounds, collect)
    if code == DISK_LOST:
        raise QemuFailed("the reader lost its disk")
    if code:
        raise processes.exit_error("reader", code, stderr)
    return bytes(output)


def _command(bubblewrap: str, user: int | None, bounds: Bounds, program: str) -> list[str]:
    python = resolved(os.path.realpath(sys.executable))
    command = namespaces(bubblewrap, user, (*outside_system((python, *WRAPPERS)), *_libraries()))
    command += ["--die-with-parent", "--new-session"]
    for source, target in _modules():
        for folder in reversed(Path(target).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(folder)]
        command += ["--ro-bind", source, target]
    command += ["--chdir", "/", *identity(user)]
    command += [resolved("prlimit"), f"--as={bounds.memory}", f"--cpu={bounds.cpu_seconds}:{bounds.cpu_seconds + 5}"]
    command += ["--fsize=0", f"--nofile={_MOST_OPEN_FILES}", "--nproc=1", "--core=0", "--"]
    # Without the environment, the site packages and files of the current folder; and no .pyc is written.
    return [*command, python, "-I", "-S", "-B", "-c", f"import sys\nsys.path.insert(0, {_SHOWN_AT!r})\n{program}"]


@cache
def _libraries() -> tuple[str, ...]:
    """The folders of Python's own modules that are not among the system's."""
    # A virtual environment has none of its own, and says otherwise.
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    folders = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    return tuple(folder for folder in sorted(folders) if not within_system(folder))


@cache
def _modules() -> tuple[tuple[str, str], ...]:
    """The files and folders of the reader's modules, each with the place where the reader sees it."""
    return tuple(_shown())


def _shown() -> Iterator[tuple[str, str]]:
    for name in _MODULES:
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise ReaderFailed(f"the module {name} is not installed")
        path = Path(found.origin)
        folder = f"{_SHOWN_AT}/{'/'.join(name.split('.')[:-1])}".rstrip("/")
        if found.submodule_search_locations:
            path = path.parent
        yield str(path), f"{folder}/{path.name}"
