"""Disk space in the data folder that is reserved for deletions.

A deletion is a write, and a full disk accepts none: without a reserve, nothing could be deleted to free space. The
reserve is a file whose bytes are allocated, so that no other program can use them. The first deletion that finds the
disk full empties the file and uses the space. Until there is enough space to fill the file again, all other writes that
need space are refused, so that uploads do not use the space that deletions need.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from app.errors import DatabaseFull, StoreFull
from app.sizes import MIB

log = structlog.get_logger()

# Space for the index of the WAL, connection.json, and the first transaction.
_START_BYTES = MIB


@dataclass(frozen=True, slots=True)
class Reserve:
    """The file `path` of `size` bytes. An empty file shows every process that the reserve is in use."""

    path: Path
    size: int

    def keep(self) -> None:
        """Allocate the reserve if twice its size is free; otherwise change nothing. Blocks."""
        if self._allocated() >= self.size:
            return
        try:
            if self._free() >= 2 * self.size:
                self._allocate()
        except OSError as error:
            log.warning("reserve.not_kept", reason=error.strerror)

    def release(self) -> bool:
        """Free the space for deletions. Returns whether there is a reserve, also when it was freed before. Blocks."""
        try:
            spent = self.path.stat().st_size == 0
            if not spent:
                # Needs no space itself, and other processes see it at once.
                os.truncate(self.path, 0)
                log.warning("reserve.released", bytes=self.size)
        except OSError:
            return False
        return True

    def release_to_start(self) -> None:
        """Free the space for a process that starts on a full disk: it has to write a little before it can delete."""
        with suppress(OSError):
            if self._free() < _START_BYTES:
                self.release()

    def require(self) -> None:
        """Raises StoreFull while the reserve is in use: only deletions may write then."""
        if self.is_spent():
            raise StoreFull("the disk of the data folder is full; the remaining space is reserved for deletions")

    def require_for_rows(self) -> None:
        """Like `require`, for writes that add rows. Raises DatabaseFull."""
        if self.is_spent():
            raise DatabaseFull("the disk of the data folder is full; the remaining space is reserved for deletions")

    def is_spent(self) -> bool:
        """Whether the reserve is in use, and there is not enough free space to allocate it again."""
        try:
            if self.path.stat().st_size > 0:
                return False
        except OSError:  # it was never allocated
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
