"""Turns a source into its result in place, so that the file is intact at every moment.

All new data is appended. Only the first sector makes the file a qcow2; it is written last, in one write, after the
receipt that holds its old and new bytes. A source is therefore always either the uploaded bytes, followed by data that
can be cut off, or the finished qcow2.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.catalog.outcome import Outcome
from workers.errors import SourceBusy, SourceDamaged
from workers.folder import receipts
from workers.folder.receipts import FirstSector, Receipt
from workers.qcow2.extents import Relocation
from workers.qcow2.metadata import SECTOR, Layout


@contextmanager
def locked(source: Path, *, unless: Path) -> Iterator[int | None]:
    """Open and lock the source for reading and writing; yield the file descriptor.

    Yields None if `unless` exists: an earlier holder of the lock has finished and moved the source. Raises SourceBusy
    if another attempt holds the source, SourceDamaged if it is missing.
    """
    try:
        fd = _opened(source)
    except FileNotFoundError as error:
        if not unless.exists():
            raise SourceDamaged("the source is missing") from error
        yield None
        return
    with _alone(fd):
        yield None if unless.exists() else fd


@contextmanager
def held(source: Path) -> Iterator[None]:
    """Lock the source against other attempts, unconditionally. Raises SourceBusy, FileNotFoundError."""
    with _alone(_opened(source)):
        yield


def _opened(source: Path) -> int:
    return os.open(source, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


@contextmanager
def _alone(fd: int) -> Iterator[None]:
    """Hold the lock of an open file, and close the file at the end. Raises SourceBusy."""
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SourceBusy("another attempt is working on this source") from error
        yield
    finally:
        # A qemu process that is just starting still holds the descriptor too, and with it the lock.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """The rewriting of a source of `source_size` uploaded bytes into `result`, in place."""

    fd: int
    source_size: int
    result: Path

    def recover(self) -> Outcome | None:
        """Recover from an interrupted attempt.

        Return its outcome if the new header is in place, so that only the last step is left; otherwise restore the
        uploaded bytes and return None. Raises SourceDamaged.
        """
        receipt = receipts.read(self.result)
        if receipt is not None and receipt.first_sector is not None and self._committed(receipt):
            return receipt.outcome
        if os.fstat(self.fd).st_size < self.source_size:
            raise SourceDamaged("the source is shorter than recorded")
        self.roll_back()
        return None

    def append(self, layout: Layout, copies: list[Relocation], progress: Callable[[int], None]) -> None:
        """Append the data that can't stay in place, and the tables; `progress` gets the bytes of tables written."""
        os.ftruncate(self.fd, layout.file_size)
        for copy in copies:
            receipts.write_all(self.fd, os.pread(self.fd, copy.length, copy.source), copy.target)
        place = layout.tables_at
        for piece in layout.tables():
            receipts.write_all(self.fd, piece, place)
            place += len(piece)
            progress(place - layout.tables_at)
        os.fsync(self.fd)

    def commit(self, header: bytes, outcome: Outcome) -> None:
        """Write the receipt, then the first sector, which makes the file a qcow2."""
        before = os.pread(self.fd, SECTOR, 0)
        receipts.write(self.result, Receipt(outcome, FirstSector(before, header)))
        os.pwrite(self.fd, header, 0)
        os.fsync(self.fd)

    def roll_back(self) -> None:
        """Restore the uploaded bytes, whether or not the new header was written."""
        receipt = receipts.read(self.result)
        sector = receipt and receipt.first_sector
        if sector and os.pread(self.fd, SECTOR, 0) != sector.before:
            os.pwrite(self.fd, sector.before, 0)
            os.fsync(self.fd)
        if os.fstat(self.fd).st_size != self.source_size:
            os.ftruncate(self.fd, self.source_size)
        receipts.remove(self.result)

    def _committed(self, receipt: Receipt) -> bool:
        sector = receipt.first_sector
        whole = os.fstat(self.fd).st_size == receipt.outcome.file_size
        return sector is not None and whole and os.pread(self.fd, SECTOR, 0) == sector.after
