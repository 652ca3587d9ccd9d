"""Reads which blocks a dynamic VHD has from its block allocation table. The effort is bounded by the file.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Dynamic Disk Header Format", "Block Allocation
Table and Data Blocks".
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.sizes import MIB
from workers.inspection.claims import Places, check_total
from workers.inspection.numbers import numbers_in
from workers.inspection.refusals import corrupt
from workers.inspection.vhdx import ReadAt

SECTOR = 512
_UNUSED = 0xFFFFFFFF
_PIECE = MIB
_NEXT_AT = 16
# cookie, next structure, place of the table, version, entries of the table, bytes of a block
_HEADER = struct.Struct(">8sQQIII")


def mapped(read_at: ReadAt, size: int, virtual_size: int, tick: Callable[[], None]) -> int:
    """Bytes of the disk in a file of `size` bytes that are mapped to data.

    `tick` is called repeatedly. Raises ImageFailed, and what `read_at` and `tick` raise.
    """
    table = _table(read_at)
    entries = table.entries_of(virtual_size)
    if table.place + 4 * entries > size:
        raise corrupt("The file is cut off: it ends within the block table of its VHD.")
    # A block begins with a bitmap, one bit per sector, padded to whole sectors.
    unit = table.block_size + -(-table.block_size // (8 * SECTOR * SECTOR)) * SECTOR
    blocks = Places(size, max(unit, SECTOR), "block")
    count = 0
    for number, sector in table.taken(read_at, size, 0, tick):
        if number >= entries:
            raise corrupt("This VHD has data past the end of its disk.")
        blocks.take(sector * SECTOR)
        count += 1
    return check_total(count * table.block_size, 0, size, unit)


def reaches(read_at: ReadAt, size: int, virtual_size: int) -> bool:
    """Whether a block past the end of a disk of `virtual_size` bytes is in use. Raises ImageFailed."""
    table = _table(read_at)
    return next(table.taken(read_at, size, table.entries_of(virtual_size), lambda: None), None) is not None


@dataclass(frozen=True, slots=True)
class _Table:
    """A block allocation table: its offset in the file, its number of entries, and the size of a block in bytes."""

    place: int
    entries: int
    block_size: int

    def entries_of(self, virtual_size: int) -> int:
        """The number of its entries that belong to a disk of `virtual_size` bytes."""
        return min(self.entries, -(-virtual_size // self.block_size)) if self.block_size else 0

    def taken(self, read_at: ReadAt, size: int, first: int, tick: Callable[[], None]) -> Iterator[tuple[int, int]]:
        """The blocks in the file, from number `first` on: the number and the sector of each."""
        start, end = self.place + 4 * first, min(self.place + 4 * self.entries, size)
        for place in range(start, end - 3, _PIECE):
            tick()
            sectors = numbers_in("I", read_at(place, min(_PIECE, end - place)), "big")
            for number, sector in enumerate(sectors, (place - self.place) // 4):
                if sector != _UNUSED:
                    yield number, sector


def _table(read_at: ReadAt) -> _Table:
    header = read_at(int.from_bytes(read_at(_NEXT_AT, 8), "big"), _HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(b"cxsparse"):
        raise corrupt("The header of this dynamic VHD is not where its footer says it is.")
    _, _, place, _, entries, block_size = _HEADER.unpack(header)
    return _Table(place, entries, block_size)
