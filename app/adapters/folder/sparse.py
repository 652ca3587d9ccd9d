"""Sparse files on Linux: zeros need no space, and written bytes go to the disk immediately."""

import ctypes
import errno
import os
from pathlib import Path

from app.sizes import KIB

# Aligned blocks of zeros of this size are left as holes. 64 KiB is the size of a cluster in the resulting qcow2 files;
# smaller holes would save little and fragment the file's map.
HOLE_BLOCK = 64 * KIB
_ZEROS = bytes(HOLE_BLOCK)

# linux/falloc.h and linux/fs.h
_FALLOC_FL_KEEP_SIZE = 0x01
_FALLOC_FL_PUNCH_HOLE = 0x02
_SYNC_FILE_RANGE_WRITE = 2

# Python's os module has neither of these two calls. ctypes releases the interpreter lock while they run.
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_LIBC.sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


class SparseWriter:
    """Writes bytes sequentially into a range that reads as zeros, and skips blocks of zeros.

    Chunks are written separately: joining them first would cost as much as writing them.
    """

    def __init__(self, descriptor: int, offset: int) -> None:
        """The first byte is written at `offset`, which advances with every write."""
        self._descriptor = descriptor
        self.offset = offset
        # State of the incomplete block: how many zeros were skipped, or whether data was written.
        self._held_zeros = 0
        self._block_has_data = False

    def write(self, chunk: bytes) -> None:
        """Append a chunk. Raises OSError, in which case part of the chunk may be written."""
        run_start = start = 0
        while start < len(chunk):
            place = self.offset + start
            if place % HOLE_BLOCK == 0:
                self._block_has_data, self._held_zeros = False, 0
            end = min(len(chunk), start + HOLE_BLOCK - place % HOLE_BLOCK)
            if not self._block_has_data and _is_zero(chunk, start, end):
                self._write_run(chunk, run_start, start)
                self._held_zeros += end - start
                run_start = end
            elif not self._block_has_data:
                self._write_held_zeros(place)
            start = end
        self._write_run(chunk, run_start, start)
        self.offset += len(chunk)

    def _write_held_zeros(self, end: int) -> None:
        """Write the skipped zeros of a block that has data: a smaller hole would only fragment the file's map."""
        write_fully(self._descriptor, memoryview(_ZEROS)[: self._held_zeros], end - self._held_zeros)
        self._block_has_data, self._held_zeros = True, 0

    def _write_run(self, chunk: bytes, start: int, end: int) -> None:
        write_fully(self._descriptor, memoryview(chunk)[start:end], self.offset + start)


def write_fully(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all of `data` at `offset`: a single pwrite may write only some of it. Raises OSError."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data = data[written:]
        offset += written


def _is_zero(data: bytes, start: int, end: int) -> bool:
    # A memcmp that copies nothing and ends at the first byte that differs.
    length = end - start
    return data.startswith(_ZEROS if length == HOLE_BLOCK else bytes(length), start, end)


def clear_range(descriptor: int, offset: int, length: int) -> None:
    """Make a range read as zeros, and free its space where the file system can. Raises OSError.

    A range without data is left alone, so that the file's time of change stays the same.
    """
    if not _has_data(descriptor, offset, offset + length):
        return
    mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
    if _LIBC.fallocate(descriptor, mode, offset, length) == 0:
        return
    code = ctypes.get_errno()
    if code not in (errno.EOPNOTSUPP, errno.ENOSYS):
        raise OSError(code, os.strerror(code))
    _overwrite(descriptor, offset, offset + length)


def _has_data(descriptor: int, start: int, end: int) -> bool:
    try:
        return os.lseek(descriptor, start, os.SEEK_DATA) < end
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data from there to the end of the file
            return False
        raise


def _overwrite(descriptor: int, start: int, end: int) -> None:
    while start < end:
        step = min(HOLE_BLOCK, end - start)
        write_fully(descriptor, memoryview(_ZEROS)[:step], start)
        start += step


def start_write_back(descriptor: int, offset: int, length: int) -> None:
    """Make the kernel start to write a range to the disk, without waiting for it.

    Does not report failures: only fdatasync confirms that the bytes are on the disk.
    """
    _LIBC.sync_file_range(descriptor, offset, length, _SYNC_FILE_RANGE_WRITE)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, if missing, so that they survive a power cut. Raises OSError."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
