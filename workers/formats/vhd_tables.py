"""Which blocks a dynamic VHD has, by its block allocation table, bounded by the file.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Dynamic Disk Header Format", "Block Allocation
Table and Data Blocks".
"""

import struct
import sys
from array import array
from collections.abc import Callable

from workers.formats.claims import Places, check_total
from workers.formats.refusals import corrupt
from workers.formats.vhdx import ReadAt

SECTOR = 512
_UNUSED = 0xFFFFFFFF
_PIECE = 1 << 20
_NEXT_AT = 16
# cookie, next structure, place of the table, version, entries of the table, bytes of a block
_HEADER = struct.Struct(">8sQQIII")


def mapped(read_at: ReadAt, size: int, virtual_size: int, tick: Callable[[], None]) -> int:
    """How many bytes of the disk in a file of `size` bytes are mapped to data.

    Raises ImageFailed, and what `read_at` and `tick`, which is called now and then, raise.
    """
    header = read_at(int.from_bytes(read_at(_NEXT_AT, 8), "big"), _HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(b"cxsparse"):
        raise corrupt("The header of this dynamic VHD is not where its footer says.")
    _, _, table_at, _, entries, block_size = _HEADER.unpack(header)
    entries = min(entries, -(-virtual_size // block_size)) if block_size else 0
    if table_at + 4 * entries > size:
        raise corrupt("The file ends within the block table of its VHD: it is cut off.")
    # A block begins with a bit for each of its sectors, in whole sectors.
    unit = block_size + -(-block_size // (8 * SECTOR * SECTOR)) * SECTOR
    blocks = Places(size, max(unit, SECTOR), "block")
    count = 0
    for place in range(table_at, table_at + 4 * entries, _PIECE):
        tick()
        table = array("I", read_at(place, min(_PIECE, table_at + 4 * entries - place)))
        if sys.byteorder == "little":
            table.byteswap()
        for sector in table:
            if sector != _UNUSED:
                blocks.take(sector * SECTOR)
                count += 1
    return check_total(count * block_size, 0, size, unit)
