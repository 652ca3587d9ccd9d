"""Turn a source into its result where it lies, so that it is whole at every moment.

Everything new is appended. What makes the file a qcow2 is its first sector alone, which is written last, in one
write, after the receipt that holds its old and new bytes. A source is therefore always one of two: the uploaded
bytes with something behind them that can be cut off, or the finished qcow2.
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
    """Open the source for reading and writing, for this attempt alone; gives the file descriptor.

    Gives None when `unless` exists: an attempt that held the lock before us has finished, and moved the source.
    Raises SourceBusy when another attempt has it, SourceDamaged when it is not there.
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
    """Keep other attempts from the source, whatever else there is. Raises SourceBusy, FileNotFoundError."""
    with _alone(_opened(source)):
        yield


def _opened(source: Path) -> int:
    return os.open(source, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


@contextmanager
def _alone(fd: int) -> Iterator[None]:
    """Have the lock of an open file, which is closed at the end. Raises SourceBusy."""
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SourceBusy("another attempt works on this source") from error
        yield
    finally:
        # A qemu that is just being started still has the descriptor too, and with it the lock.
        fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


@dataclass(frozen=True, slots=True)
class Rewriting:
    """One source, of `source_size` uploaded bytes, that becomes `result` in place."""

    fd: int
    source_size: int
    result: Path

    def recover(self) -> Outcome | None:
        """Pick up after an attempt that was cut off.

        Gives what was converted when the new header is in place, so that only the end is left to do; otherwise
        makes the source what was uploaded, and gives None. Raises SourceDamaged.
        """
        receipt = receipts.read(self.result)
        if receipt is not None and receipt.first_sector is not None and self._committed(receipt):
            return receipt.outcome
        if os.fstat(self.fd).st_size < self.source_size:
            raise SourceDamaged("the source is shorter than it was")
        self.roll_back()
        return None

    def append(self, layout: Layout, copies: list[Relocation], progress: Callable[[int], None]) -> None:
        """Write what can't stay where it is, and the tables, behind the source; tells the bytes written."""
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
        """Write the receipt, then the first sector: from here on the file is a qcow2."""
        before = os.pread(self.fd, SECTOR, 0)
        receipts.write(self.result, Receipt(outcome, FirstSector(before, header)))
        os.pwrite(self.fd, header, 0)
        os.fsync(self.fd)

    def roll_back(self) -> None:
        """Make the source what was uploaded, whether or not the new header was written."""
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
