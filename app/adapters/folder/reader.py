"""Reads an object in a folder, from any thread."""

import hashlib
import os
import threading
from pathlib import Path

from app.errors import ObjectMissing


class ObjectReader:
    """An open object. Its methods block, and are thread-safe.

    A lock keeps the descriptor from being closed during a read whose caller no longer waits. An object that is deleted
    in the meantime can still be read to its end.
    """

    def __init__(self, path: Path) -> None:
        """Raises ObjectMissing, OSError."""
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing("no such object") from None
        self._guard = threading.Lock()
        stat = os.fstat(self._descriptor)
        self.size = stat.st_size
        self.etag = _etag(stat)

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from `offset`; empty at the end and after `close`. Holes are zeros."""
        with self._guard:
            return os.pread(self._descriptor, count, offset) if self._descriptor >= 0 else b""

    def close(self) -> None:
        """Close the object. Idempotent."""
        with self._guard:
            if self._descriptor >= 0:
                os.close(self._descriptor)
            self._descriptor = -1


def _etag(stat: os.stat_result) -> str:
    """A strong validator (RFC 9110, section 8.8): different bytes have a different size or time of change."""
    return f'"{hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:32]}"'
