"""Room on the disk of the data folder that is kept for deletions.

A full disk takes no writes, and a deletion is one: without a reserve, nothing could be deleted to make room. The
reserve is a file whose bytes are allocated, so that no other program can use them, however it fills the disk. The
first deletion that finds no room empties the file and goes on with what that has freed. Until there is enough room to
fill the file again, what grows is refused, so that uploads do not take the room from the deletions.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.errors import DatabaseFull, StoreFull

log = structlog.get_logger()

# The index of the WAL, connection.json, and what the first transaction writes.
_START_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Reserve:
    """The file `path` of `size` bytes. Emptied, it says that the reserve is in use; every process sees the same."""

    path: Path
    size: int

    def keep(self) -> None:
        """Allocate the reserve where there is room for it and for as much again. Otherwise changes nothing. Blocks."""
        if self._allocated() >= self.size:
            return
        try:
            if self._free() >= 2 * self.size:
                self._allocate()
        except OSError as error:
            log.warning("reserve.not_kept", reason=error.strerror)

    def release(self) -> bool:
        """Give the room to those who delete; whether there is or was any to give. Blocks."""
        try:
            spent = self.path.stat().st_size == 0
            if not spent:
                # Takes no room itself, and what other processes see changes at once.
                os.truncate(self.path, 0)
                log.warning("reserve.released", bytes=self.size)
        except OSError:
            return False
        return True

    def release_to_start(self) -> None:
        """Give the room to a process that starts on a full disk: it writes a little before it can delete."""
        with suppress(OSError):
            if self._free() < _START_BYTES:
                self.release()

    def require(self) -> None:
        """Raises StoreFull while the reserve is in use: then only deletions may write."""
        if self.is_spent():
            raise StoreFull("the disk of the data folder is full: what is left is for deletions")

    def require_for_rows(self) -> None:
        """Raises DatabaseFull as `require` raises StoreFull, for what adds rows."""
        if self.is_spent():
            raise DatabaseFull("the disk of the data folder is full: what is left is for deletions")

    def is_spent(self) -> bool:
        """Whether the reserve is in use, and there is not enough room again to keep one."""
        try:
            if self.path.stat().st_size > 0:
                return False
        except OSError:  # none was ever kept
            return False
        self.keep()
        return self._allocated() < self.size

    def _allocate(self) -> None:
        descriptor = os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self.size)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            raise
        finally:
            os.close(descriptor)

    def _allocated(self) -> int:
        try:
            return self.path.stat().st_blocks * 512
        except OSError:
            return 0

    def _free(self) -> int:
        room = os.statvfs(self.path.parent)
        return room.f_bavail * room.f_frsize
