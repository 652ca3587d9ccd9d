"""The disk, read over NBD through a small cache, and ranges of it as the file objects that libyal's readers expect."""

import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Protocol

from app.sizes import KIB
from workers.errors import QemuError
from workers.qemu.nbd_client import NbdClient

BLOCK = 64 * KIB
_KEPT_BLOCKS = 512
# A read of this many bytes or more is a request of its own, and is not kept.
_LARGE = 4 * BLOCK


class DiskLost(OSError):
    """Raised when the disk can't be read any longer. libyal's readers turn it into an OSError of their own."""


class Readable(Protocol):
    """A disk, or a logical volume, of `size` bytes."""

    size: int

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on: fewer at the end, none past it."""


class Disk:
    """The disk behind an NBD connection. `lost`: whether a read has failed; then nothing that was found counts."""

    def __init__(self, client: NbdClient) -> None:
        self.size = client.size
        self.lost = False
        self._client = client
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def read_at(self, offset: int, length: int) -> bytes:
        """As the protocol says. Raises DiskLost."""
        length = min(length, self.size - offset)
        if length <= 0:
            return b""
        if length >= _LARGE:
            return self._fetch(offset, length)
        first, end = offset // BLOCK, -(-(offset + length) // BLOCK)
        kept = b"".join(self._block(number) for number in range(first, end))
        skip = offset - first * BLOCK
        return kept[skip : skip + length]

    def _block(self, number: int) -> bytes:
        block = self._blocks.get(number)
        if block is None:
            block = self._fetch(number * BLOCK, min(BLOCK, self.size - number * BLOCK))
            self._blocks[number] = block
            if len(self._blocks) > _KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(number)
        return block

    def _fetch(self, offset: int, length: int) -> bytes:
        if self.lost:
            raise DiskLost
        buffer = bytearray(length)
        try:
            self._client.read_into(offset, memoryview(buffer))
        except QemuError as error:
            self.lost = True
            raise DiskLost from error
        return bytes(buffer)


class FileObject(ABC):
    """What libyal's readers expect of a file: `read`, `seek`, `tell` and `get_size`, over `read_at`."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._place = 0

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """As Readable says."""

    def read(self, length: int = -1) -> bytes:
        """The next bytes, all of them if `length` is negative. Raises OSError."""
        data = self.read_at(self._place, self.size - self._place if length < 0 else length)
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As that of files."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self.size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        """As that of files."""
        return self._place

    def get_size(self) -> int:
        """The size in bytes."""
        return self.size


class Part(FileObject):
    """A range of a disk."""

    def __init__(self, disk: Readable, offset: int, size: int) -> None:
        super().__init__(max(0, min(size, disk.size - offset)))
        self._disk = disk
        self._offset = offset

    def read_at(self, offset: int, length: int) -> bytes:
        """As Readable says."""
        length = min(length, self.size - offset)
        return self._disk.read_at(self._offset + offset, length) if length > 0 else b""
