"""The file to upload: its size, its format, and its bytes, read directly from the disk."""

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
from app.sizes import MIB

# In bytes; also the maximum that a part being sent holds in memory.
CHUNK = MIB

_BY_ENDING = {f".{format.lower()}": format for format in DiskFormat}
# The first bytes of each format: QEMU's docs/interop/qcow2.rst; VMware's Virtual Disk Format 5.0;
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
    """Identifies the content of a file: it differs after every change of its bytes, and after others too (inode(7)).

    `size` is in bytes; `modified` and `changed`, its mtime and ctime, are in ns since the epoch. Programs can restore
    the mtime after a change, as `cp -p` and `rsync -t` do, but not the ctime.
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
    """An open file. `state` is its state when it was opened."""

    path: Path
    state: FileState
    descriptor: int

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self.state.size

    @property
    def name(self) -> str:
        """The file's name; bytes that are not valid text are replaced."""
        return os.fsencode(self.path.name).decode(errors="replace")

    def format(self) -> DiskFormat | None:
        """The format by the file's extension or its bytes; None if neither shows it, as for a raw disk."""
        return _BY_ENDING.get(self.path.suffix.lower()) or self._detected()

    def _detected(self) -> DiskFormat | None:
        head = os.pread(self.descriptor, 8, 0)
        for signature, name in _BY_HEAD.items():
            if head.startswith(signature):
                return name
        # A fixed VHD begins with the disk's own bytes, and has only a footer.
        foot = os.pread(self.descriptor, 8, max(0, self.size - _FOOTER))
        return DiskFormat.VHD if foot == b"conectix" else None

    async def chunks(self, offset: int, length: int) -> AsyncGenerator[bytes, None]:
        """`length` bytes from `offset` on, in chunks. Raises UnusableFile if the file has become shorter."""
        end = offset + length
        while offset < end:
            chunk = await asyncio.to_thread(self._read, min(CHUNK, end - offset), offset)
            offset += len(chunk)
            yield chunk

    def sha256(self, advance: Callable[[int], None]) -> str:
        """The SHA-256 in hex. Calls `advance` with the size of each chunk. Blocks. Raises UnusableFile."""
        digest, offset = hashlib.sha256(), 0
        while offset < self.size:
            chunk = self._read(min(CHUNK, self.size - offset), offset)
            digest.update(chunk)
            offset += len(chunk)
            advance(len(chunk))
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        """Raises UnusableFile if the file has changed since it was opened."""
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
            f"{self.path} changed during the upload.",
            hint="Stop the program that writes to it, for example a virtual machine, and upload it again.",
        )


@contextmanager
def opened(path: Path) -> Iterator[DiskFile]:
    """The file at `path`, open for reading. Raises UnusableFile."""
    try:
        # Otherwise open() would wait for the writer of a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnusableFile(f"{path} can't be opened: {error.strerror}.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableFile(f"{path} is not a regular file.", hint="Upload a file that contains a disk image.")
        yield DiskFile(path.resolve(), FileState.of(status), descriptor)
    finally:
        os.close(descriptor)
