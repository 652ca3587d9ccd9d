"""Locks on files that end with the last process that holds them.

These are the locks of open file descriptions (fcntl(2), F_OFD_SETLK). A child process that inherits the descriptor
holds the lock too, and whether a file is locked can be asked without locking it.
"""

import asyncio
import fcntl
import os
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from workers.hypervisor.port import HypervisorUnavailable

# struct flock of Linux on 64-bit machines: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("hhqqi4x")
_BETWEEN_TRIES = 0.02


def try_lock(path: Path, *, shared: bool = False) -> int | None:
    """Lock a file, which is created if it is missing. The lock lasts until the descriptor is closed everywhere.

    Returns None if the file is locked. Raises OSError.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_RDLCK if shared else fcntl.F_WRLCK))
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        # The process that held it may have deleted the file: then the lock is on a file that no one else finds.
        if _is_at(fd, path):
            return fd
        os.close(fd)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file; False if there is no file. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK)))[0]
    finally:
        os.close(fd)
    return kind != fcntl.F_UNLCK


@asynccontextmanager
async def held(path: Path, seconds: float, *, shared: bool = False) -> AsyncIterator[None]:
    """Hold the lock on a file during the block.

    Raises HypervisorUnavailable if another process, or another task, keeps it for `seconds`.
    """
    deadline = time.monotonic() + seconds
    while (fd := try_lock(path, shared=shared)) is None:
        if time.monotonic() > deadline:
            raise HypervisorUnavailable(f"{path.name} has been locked for {seconds:g} s: is a process hung?")
        await asyncio.sleep(_BETWEEN_TRIES)
    try:
        yield
    finally:
        os.close(fd)


async def released(path: Path, seconds: float) -> bool:
    """Wait until no process holds a lock on a file, at most `seconds`; return whether it is so."""
    deadline = time.monotonic() + seconds
    while is_locked(path):
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_BETWEEN_TRIES)
    return True


def _flock(kind: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0)


def _is_at(fd: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(fd))
