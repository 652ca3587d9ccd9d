"""An open upload in a folder: one file that its parts are written into in place, and a file of marks.

    data    as long as the whole upload from the start, with holes where nothing was written; its time of
            change is when the last byte came, and the epoch while none has
    marks   byte N tells of part N: 1 when all of it has arrived and is on the disk, 0 otherwise

A lock on byte N of `marks` is held while part N arrives, on all of them while the upload is sealed. The locks
belong to an open file and end with it, so they work between threads and processes and outlive no kill -9
(fcntl(2), "Open file description locks"). Bytes of `data` are written under such a lock only, and only after
`data` was opened at its place: whoever seals takes it away from there while holding every lock.
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
_SEALING = 0  # byte 0 of `marks` is no part's: its lock makes those who seal wait for one another


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """The folder of one upload. Every method blocks, and raises OSError besides what it names."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def marks(self) -> Path:
        return self.folder / "marks"

    def create(self, size: int, part_count: int) -> None:
        """Make room for `size` bytes in `part_count` parts. What an earlier call made stays as it is."""
        self.folder.mkdir(exist_ok=True)
        if self.data.exists():
            return
        with open(self.marks, "wb") as marks:
            marks.write(bytes(part_count + 1))
            marks.flush()
            os.fsync(marks.fileno())
        # Under its own name it appears complete, or not at all.
        draft = self.folder / "draft"
        with open(draft, "wb") as data:
            data.truncate(size)
            os.utime(data.fileno(), (0, 0))
            os.fsync(data.fileno())
        draft.rename(self.data)
        sync_folder(self.folder)
        sync_folder(self.folder.parent)

    def arrived(self) -> list[int]:
        """Numbers of the parts that are here, ascending. Raises UploadClosed."""
        try:
            marks = self.marks.read_bytes()
            os.stat(self.data)
        except FileNotFoundError:
            raise UploadClosed("the upload is not open") from None
        return [number for number in range(1, len(marks)) if marks[number] == _ARRIVED[0]]

    def last_byte_at(self) -> datetime | None:
        """When the newest byte came; None while none has. Raises UploadClosed."""
        try:
            changed = os.stat(self.data).st_mtime
        except FileNotFoundError:
            raise UploadClosed("the upload is not open") from None
        return datetime.fromtimestamp(changed, UTC) if changed else None

    def last_change(self) -> float:
        """When anything of it changed, in seconds since the epoch."""
        times = [0.0]
        for path in (self.folder, self.data, self.marks):
            try:
                times.append(path.stat().st_mtime)
            except FileNotFoundError:
                continue
        return max(times)

    def seal(self, target: Path) -> None:
        """Move the bytes to `target`, safe on the disk. Harmless when it was done before.

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
            _let_go(marks)

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
        """Drop the upload and free its room at once, even while a part arrives. Harmless when it is gone."""
        try:
            with open(self.data, "r+b") as data:
                # Once it is away from its place nobody can seal it; whoever still writes finds it unlinked.
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
    """A part on its way in. Its methods block, and may be called from any thread.

    They wait for one another, so that a descriptor is never closed (and its number given to another file)
    under a call that still uses it, even when whoever started that call has given up waiting for it.
    """

    def __init__(self, upload: OpenUpload, part: PartAddress) -> None:
        self._upload = upload
        self._part = part
        self._marks = -1
        self._data = -1
        self._closed = False
        self._guard = threading.Lock()

    def open(self) -> None:
        """Claim the part and drop what came of it before. Raises UploadClosed, PartsArriving, OSError."""
        with self._guard:
            if self._closed:
                raise UploadClosed("the part was given up")
            try:
                self._marks = os.open(self._upload.marks, os.O_RDWR)
                if not _lock(self._marks, self._part.number, 1):
                    raise PartsArriving("this part is arriving already, or the upload is being completed")
                self._data = os.open(self._upload.data, os.O_RDWR)
            except FileNotFoundError:
                raise UploadClosed("the upload is not open") from None
            self._forget_earlier()
            self._sparse = SparseWriter(self._data, self._part.offset)

    def write(self, chunks: Sequence[bytes]) -> None:
        """Append to the part. Raises UploadClosed when it was aborted, OSError."""
        with self._guard:
            self._check_open()
            start = self._sparse.offset
            for chunk in chunks:
                self._sparse.write(chunk)
            start_write_back(self._data, start, self._sparse.offset - start)
            os.utime(self._data)  # zeros arrive too, but leave no trace

    def finish(self) -> None:
        """Mark the part as arrived, once it is safe on the disk. Raises UploadClosed, OSError.

        Its pages are on their way since they were written, so that there is little left to wait for. To mark
        first and note under which boot that was would save even that, and would cost every part of every open
        upload when the machine stops: with hours of uploading behind them, their owners would rather wait.
        """
        with self._guard:
            self._check_open()
            sync_or_forget(self._data, self._marks)
            self._check_open()
            os.pwrite(self._marks, _ARRIVED, self._part.number)

    def close(self) -> None:
        """Let go of the part. Harmless when it is done twice."""
        with self._guard:
            self._closed = True
            if self._data >= 0:
                os.close(self._data)
            if self._marks >= 0:
                _let_go(self._marks)
            self._data = self._marks = -1

    def _forget_earlier(self) -> None:
        if os.pread(self._marks, 1, self._part.number) != _MISSING:
            os.pwrite(self._marks, _MISSING, self._part.number)
            os.fdatasync(self._marks)  # no power cut may leave the mark and take the bytes
        clear_range(self._data, self._part.offset, self._part.length)

    def _check_open(self) -> None:
        if self._closed or os.fstat(self._data).st_nlink == 0:
            raise UploadClosed("the upload was aborted")


def sync_or_forget(data: int, marks: int) -> None:
    """Wait until `data` is safe on the disk; when it can't be, no part of it is believed to be here any more.

    The kernel tells of a failed write once, and may have dropped any of the pages by then. Raises OSError.
    """
    try:
        os.fdatasync(data)
    except OSError:
        os.pwrite(marks, bytes(os.fstat(marks).st_size), 0)
        raise


def _lock(descriptor: int, start: int, length: int, *, wait: bool = False) -> bool:
    """Lock bytes of a file for this open file alone. False when another one has a lock on any of them."""
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    try:
        fcntl.fcntl(descriptor, command, _request(fcntl.F_WRLCK, start, length))
    except (BlockingIOError, PermissionError):
        return False
    return True


def _let_go(descriptor: int) -> None:
    """Close a file on which there may be locks, and end these at once.

    A process that is being started has the descriptor too until it becomes another program, and with it the locks.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _request(fcntl.F_UNLCK, 0, 0))
    finally:
        os.close(descriptor)


def _request(kind: int, start: int, length: int) -> bytes:
    """A `struct flock`; a length of 0 reaches to the end, wherever that is."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)
