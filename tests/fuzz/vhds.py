"""Made-up VHD images. Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0."""

import random
import struct
from collections.abc import Sequence

from hypothesis import strategies as st

from app.lifecycle import DiskFormat
from tests.fuzz.built import SECTOR, Built, File, KiB, MiB, Unit, layouts, round_up, unit_of

_FIXED, _DYNAMIC = 2, 3
_UNUSED = 0xFFFFFFFF
_NO_OFFSET = (1 << 64) - 1
# Virtual PC and QEMU say by their geometry how large a disk is; all others by its size.
_BY_GEOMETRY = [b"vpc ", b"qemu"]
_CREATORS = [*_BY_GEOMETRY, b"win ", b"qem2", b"d2v ", b"tap\0", b"CTXS", b"vbox", b"wa\0\0", b"vs  ", b"\0\0\0\0"]
_FOOTER_CHECKSUM_AT, _HEADER_CHECKSUM_AT = 64, 36


@st.composite
def vhds(draw: st.DrawFn) -> Built:
    """A fixed or dynamic VHD of any creator, whose geometry fits its size, is too small or too large, or is nothing."""
    fixed = draw(st.booleans())
    unit = SECTOR if fixed else draw(st.sampled_from([4 * KiB, 64 * KiB, 512 * KiB, 2 * MiB]))
    disk, units = draw(layouts(unit, 600 if fixed else min(24, 8 * MiB // unit), [Unit.HOLE, Unit.PLAIN]))
    creator = draw(st.sampled_from(_CREATORS))
    sectors = len(disk) // SECTOR
    # Of one head and one sector each.
    cylinders = draw(st.sampled_from([0, sectors, max(1, sectors - 100), sectors + 100]))
    shuffled = random.Random(draw(st.integers(0, 1 << 16)))
    file = File()
    footer = _footer(creator, len(disk), cylinders, fixed)
    if fixed:
        file.put(0, disk)
    else:
        reach = max(len(disk), cylinders * SECTOR)
        _put_blocks(file, disk, units, unit, -(-reach // unit) + draw(st.integers(0, 2)), shuffled)
        file.put_structure(0, footer)
        if creator in _BY_GEOMETRY and not _reach_beyond(units, unit, cylinders * SECTOR):
            disk = disk[: cylinders * SECTOR].ljust(cylinders * SECTOR, b"\0")
    file.put_structure(round_up(file.end, SECTOR), footer)
    about = f"{'fixed' if fixed else f'blocks of {unit}'}, by {creator!r}, {cylinders} cylinders for {sectors}"
    return Built(DiskFormat.VHD, file.bytes(), disk, about, file.structures)


def _reach_beyond(units: Sequence[Unit], unit: int, size: int) -> bool:
    """Whether a block begins at or after `size` bytes, or `size` is 0."""
    return size == 0 or any(kind is Unit.PLAIN and number * unit >= size for number, kind in enumerate(units))


def _put_blocks(
    file: File, disk: bytes, units: Sequence[Unit], unit: int, entries: int, shuffled: random.Random
) -> None:
    table_at = 3 * SECTOR
    header = struct.pack(">8sQQIIII", b"cxsparse", _NO_OFFSET, table_at, 0x10000, entries, unit, 0)
    file.put_structure(SECTOR, _sealed(header.ljust(2 * SECTOR, b"\0"), _HEADER_CHECKSUM_AT))
    table = [_UNUSED] * entries
    # The bitmap of a block says which of its sectors were written.
    bitmap = b"\xff" * round_up(-(-unit // (8 * SECTOR)), SECTOR)
    place = round_up(table_at + 4 * entries, SECTOR)
    for number in shuffled.sample(range(len(units)), len(units)):
        if units[number] is Unit.PLAIN:
            table[number] = place // SECTOR
            file.put(place, bitmap + unit_of(disk, unit, number))
            place = file.end
    raw = struct.pack(f">{entries}I", *table)
    file.put_structure(table_at, raw.ljust(round_up(len(raw), SECTOR), b"\xff"))


def _footer(creator: bytes, size: int, cylinders: int, fixed: bool) -> bytes:
    footer = struct.pack(
        ">8sIIQI4sI4sQQHBBII16sB",
        b"conectix",
        2,
        0x10000,
        _NO_OFFSET if fixed else SECTOR,
        0,
        creator,
        0x10000,
        b"Wi2k",
        size,
        size,
        cylinders,
        1 if cylinders else 0,
        1 if cylinders else 0,
        _FIXED if fixed else _DYNAMIC,
        0,
        bytes(range(16)),
        0,
    )
    return _sealed(footer.ljust(SECTOR, b"\0"), _FOOTER_CHECKSUM_AT)


def _sealed(block: bytes, checksum_at: int) -> bytes:
    """With the one's complement of the sum of its bytes."""
    checksum = ~sum(block) & 0xFFFFFFFF
    return block[:checksum_at] + checksum.to_bytes(4, "big") + block[checksum_at + 4 :]
