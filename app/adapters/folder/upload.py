"""An open upload in a folder: one file into which its parts are written in place, and a file of marks.

    data    has the size of the whole upload from the start, with holes where nothing was written; its time of change is
            when the last byte arrived, or the epoch before the first
    marks   byte N is 1 when all of part N has arrived and is on the disk, otherwise 0

A lock on byte N of `marks` is held while part N arrives, and locks on all bytes while the upload is sealed. The locks
belong to an open file and end with it, so they work between threads and processes, and a kill -9 releases them
(fcntl(2), "Open file description locks"). `data` is written only under such a lock, and only after it was opened under
its own name: sealing moves it away while holding every lock.
"""

import fcntl
import os
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.adapters.folder.addresses import PartAddress
from app.adapters.folder.sparse import SparseWriter, clear_range, make_folder, start_write_back, sync_folder
from app.errors import PartsArriving, PartsMissing, UploadClosed

_ARRIVED = b"\x01"
_MISSING = b"\x00"
_SEALING = 0  # byte 0 of `marks` belongs to no part: its lock allows only one seal at a time


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """The folder of one upload. Every method blocks, and may raise OSError in addition to the errors it names."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def marks(self) -> Path:
        return self.folder / "marks"

    def create(self, size: int, part_count: int) -> None:
        """Create the files for `size` bytes in `part_count` parts. What an earlier call created is kept."""
        self.folder.mkdir(exist_ok=True)
        if self.data.exists():
            return
        with open(self.marks, "wb") as marks:
            marks.write(bytes(part_count + 1))
            marks.flush()
            os.fsync(marks.fileno())
        # Renamed when complete, so that `data` never exists incomplete.
        draft = self.folder / "draft"
        with open(draft, "wb") as data:
            data.truncate(size)
            os.utime(data.fileno(), (0, 0))
            os.fsync(data.fileno())
        draft.rename(self.data)
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def arrived(self) -> list[int]:
        """The numbers of the parts that have arrived, ascending. Raises UploadClosed."""
        try:
            marks = self.marks.read_bytes()
            os.stat(self.data)
        except FileNotFoundError:
            raise UploadClosed("the upload is not open") from None
        return [number for number in range(1, len(marks)) if marks[number] == _ARRIVED[0]]

    def last_byte_at(self) -> datetime | None:
        """When the last byte arrived; None before the first. Raises UploadClosed."""
        try:
            changed = os.stat(self.data).st_mtime
        except FileNotFoundError:
            raise UploadClosed("the upload is not open") from None
        return datetime.fromtimestamp(changed, UTC) if changed else None

    def last_change(self) -> float:
        """When the upload last changed, in seconds since the epoch."""
        times = [0.0]
        for path in (self.folder, self.data, self.marks):
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:
                continue
        return max(times)

    def seal(self, target: Path) -> None:
        """Move the bytes to `target`, safe on the disk. Idempotent.

        Raises UploadClosed, PartsArriving, PartsMissing.
        """
        try:
            marks = os.open(self.marks, os.O_RDWR)
        except FileNotFoundError:
            if target.exists():
                return
            raise UploadClosed("the upload is not open") from None
        try:
            _lock(marks, _SEALING, 1, wait=True)
            self._seal_locked(marks, target)
        finally:
            _unlock_and_close(marks)

    def _seal_locked(self, marks: int, target: Path) -> None:
        count = os.fstat(marks).st_size - 1
        if not _lock(marks, 1, count):
            raise PartsArriving("a part is arriving")
        if self.data.exists():
            missing = [n for n, mark in enumerate(os.pread(marks, count, 1), 1) if mark != _ARRIVED[0]]
            if missing:
                raise PartsMissing(missing)
            self._move_to(target, marks)
        elif not target.exists():
            raise UploadClosed("the upload is not open")
        self.remove()

    def _move_to(self, target: Path, marks: int) -> None:
        make_folder(target.parent)
        try:
            with open(self.data, "rb") as data:
                sync_or_forget(data.fileno(), marks)
            self.data.rename(target)
        except FileNotFoundError:  # aborted just now
            raise UploadClosed("the upload is not open") from None
        sync_folder(target.parent)

    def remove(self) -> None:
        """Discard the upload and free its space at once, even while a part arrives. Idempotent."""
        try:
            with open(self.data, "r+b") as data:
                # After this, the upload can't be sealed, and a writer finds its file unlinked.
                self.data.unlink()
                data.truncate(0)
        except FileNotFoundError:
            pass
        for path in (self.folder / "draft", self.marks):
            path.unlink(missing_ok=True)
        try:
            self.folder.rmdir()
        except FileNotFoundError:
            pass


class PartWriter:
    """A part that is arriving. Its methods block, and are thread-safe.

    A lock keeps a descriptor from being closed (and its number reused for another file) while another call uses it,
    even when the caller of that call no longer waits for it.
    """

    def __init__(self, upload: OpenUpload, part: PartAddress) -> None:
        self._upload = upload
        self._part = part
        self._marks = -1
        self._data = -1
        self._closed = False
        self._guard = threading.Lock()

    def open(self) -> None:
        """Claim the part, and discard what arrived of it before. Raises UploadClosed, PartsArriving, OSError."""
        with self._guard:
            if self._closed:
                raise UploadClosed("the part was abandoned")
            try:
                self._marks = os.open(self._upload.marks, os.O_RDWR)
                if not _lock(self._marks, self._part.number, 1):
                    raise PartsArriving("this part is already arriving, or the upload is being completed")
                self._data = os.open(self._upload.data, os.O_RDWR)
            except FileNotFoundError:
                raise UploadClosed("the upload is not open") from None
            self._forget_earlier()
            self._sparse = SparseWriter(self._data, self._part.offset)

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append to the part. Raises UploadClosed when the upload was aborted, OSError."""
        with self._guard:
            self._check_open()
            start = self._sparse.offset
            for chunk in chunks:
                self._sparse.write(chunk)
            start_write_back(self._data, start, self._sparse.offset - start)
            os.utime(self._data)  # a block of zeros is not written, but counts as arrived

    def finish(self) -> None:
        """Mark the part as arrived, once it is safe on the disk, and close it. Raises UploadClosed, OSError.

        The kernel has been writing its pages since they arrived, so there is little left to wait for. Marking first,
        together with an id of the boot, would avoid even that wait, but would lose every part of every open upload when
        the machine crashes. After hours of uploading, users would rather wait.
        """
        with self._guard:
            self._check_open()
            sync_or_forget(self._data, self._marks)
            self._check_open()
            os.pwrite(self._marks, _ARRIVED, self._part.number)
            self._close()

    def close(self) -> None:
        """Close the part, and release its lock. Idempotent."""
        with self._guard:
            self._close()

    def _close(self) -> None:
        self._closed = True
        if self._data >= 0:
            os.close(self._data)
        if self._marks >= 0:
            _unlock_and_close(self._marks)
        self._data = self._marks = -1

    def _forget_earlier(self) -> None:
        if os.pread(self._marks, 1, self._part.number) != _MISSING:
            os.pwrite(self._marks, _MISSING, self._part.number)
            os.fdatasync(self._marks)  # so that a power cut can't leave the mark without the bytes
        clear_range(self._data, self._part.offset, self._part.length)

    def _check_open(self) -> None:
        if self._closed or os.fstat(self._data).st_nlink == 0:
            raise UploadClosed("the upload was aborted")


def sync_or_forget(data: int, marks: int) -> None:
    """Wait until `data` is safe on the disk. If that fails, mark all parts as missing. Raises OSError.

    The kernel reports a failed write only once, and may have dropped any of the pages by then.
    """
    try:
        os.fdatasync(data)
    except OSError:
        os.pwrite(marks, bytes(os.fstat(marks).st_size), 0)
        raise


def _lock(descriptor: int, start: int, length: int, *, wait: bool = False) -> bool:
    """Lock bytes of a file for this open file. False when another open file has a lock on any of them."""
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        fcntl.fcntl(descriptor, command, _request(fcntl.F_WRLCK, start, length))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _unlock_and_close(descriptor: int) -> None:
    """Close a file, and release its locks at once.

    A child process that is being started has the descriptor, and so the locks, until it executes another program.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, 0, 0))
    finally:
        os.close(descriptor)


def _request(kind: int, start: int, length: int) -> bytes:
    """A `struct flock`; a length of 0 means to the end of the file."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
