"""The file that is uploaded: its size, its format, and its bytes, read where they are."""

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.client.errors import UnusableFile
from app.client.generated.enums import DiskFormat

# Also the most that a part that is being sent has in memory.
CHUNK = 1024 * 1024

_BY_ENDING = {f".{format.lower()}": format for format in DiskFormat}
# What the first bytes of the formats are: QEMU's docs/interop/qcow2.rst; VMware's Virtual Disk Format 5.0;
# Microsoft's MS-VHDX, section 2.2.1; Microsoft's Virtual Hard Disk Image Format Specification, "Hard Disk Footer".
_BY_HEAD = {
    b"QFI\xfb": DiskFormat.QCOW2,
    b"KDMV": DiskFormat.VMDK,
    b"vhdxfile": DiskFormat.VHDX,
    b"conectix": DiskFormat.VHD,
}
_FOOTER = 512


@dataclass(frozen=True, slots=True)
class FileState:
    """What a file is recognized by: it differs after every change of its bytes, and after others too (inode(7)).

    `size` is in bytes; `modified` and `changed`, its mtime and ctime, are in ns since the epoch. Programs can set the
    first of them to what it was before a change, as `cp -p` and `rsync -t` do, but not the second.
    """

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> "FileState":
        """The state that the operating system reports."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class DiskFile:
    """An open file. `state` is as it was when it was opened."""

    path: Path
    state: FileState
    descriptor: int

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.state.size

    @property
    def name(self) -> str:
        """What the file is called, as text whatever its bytes are."""
        return os.fsencode(self.path.name).decode(errors="replace")

    def format(self) -> DiskFormat | None:
        """The format by the file's ending, or else by its bytes; None when neither tells, as of a raw disk."""
        return _BY_ENDING.get(self.path.suffix.lower()) or self._detected()

    def _detected(self) -> DiskFormat | None:
        head = os.pread(self.descriptor, 8, 0)
        for signature, name in _BY_HEAD.items():
            if head.startswith(signature):
                return name
        # A fixed VHD begins with the disk's own bytes, and has a footer alone.
        foot = os.pread(self.descriptor, 8, max(0, self.size - _FOOTER))
        return DiskFormat.VHD if foot == b"conectix" else None

    async def chunks(self, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """`length` bytes from `offset` on, a piece at a time. Raises UnusableFile when the file has become shorter."""
        end = offset + length
        while offset < end:
            chunk = await asyncio.to_thread(self._read, min(CHUNK, end - offset), offset)
            offset += len(chunk)
            yield chunk

    def sha256(self, told: Callable[[int], None]) -> str:
        """The SHA-256 in hex; `told` hears how many bytes more are read. Blocks. Raises UnusableFile."""
        digest, offset = hashlib.sha256(), 0
        while offset < self.size:
            chunk = self._read(min(CHUNK, self.size - offset), offset)
            digest.update(chunk)
            offset += len(chunk)
            told(len(chunk))
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        """Raises UnusableFile when the file is not any more what it was when it was opened."""
        if FileState.of(os.fstat(self.descriptor)) != self.state:
            raise self._changed()

    def _read(self, count: int, offset: int) -> bytes:
        try:
            chunk = os.pread(self.descriptor, count, offset)
        except OSError as error:
            raise UnusableFile(f"{self.path} can't be read: {error.strerror}.") from error
        if not chunk:
            raise self._changed()
        return chunk

    def _changed(self) -> UnusableFile:
        return UnusableFile(
            f"{self.path} was changed while it was being uploaded.",
            hint="Stop what writes to it, for example the virtual machine that uses it, and upload it again.",
        )


@contextmanager
def opened(path: Path) -> Iterator[DiskFile]:
    """The file at `path`, open for reading. Raises UnusableFile."""
    try:
        # A pipe would keep open() waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnusableFile(f"{path} can't be opened: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFile(f"{path} is no regular file.", hint="Upload a file that holds a disk image.")
        yield DiskFile(path.resolve(), FileState.of(status), descriptor)
    finally:
        os.close(descriptor)
