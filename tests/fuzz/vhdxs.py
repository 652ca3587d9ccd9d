"""Made-up VHDX images. Source: Microsoft, [MS-VHDX] 2.5 "BAT". Headers are QEMU's own, the blocks are ours."""

import random
import struct
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from uuid import UUID

from hypothesis import strategies as st

from app.lifecycle import DiskFormat
from tests.fuzz.built import Built, File, KiB, MiB, Unit, layouts, round_up, unit_of
from workers.inspection.vhdx import BAT, FULLY_PRESENT, METADATA, REGIONS_AT, TABLE_SIZE, VIRTUAL_DISK_SIZE

_NOT_PRESENT, _UNDEFINED, _ZERO, _UNMAPPED = range(4)


@st.composite
def vhdxs(draw: st.DrawFn) -> Built:
    """A dynamic VHDX, its blocks in any order and in every state that a whole disk may have."""
    unit = draw(st.sampled_from([1 * MiB, 1 * MiB, 2 * MiB]))
    disk, units = draw(layouts(unit, 3, [Unit.HOLE, Unit.ZERO, Unit.PLAIN]))
    shuffled = random.Random(draw(st.integers(0, 1 << 16)))
    empty, bat_at, size_at = _empty(unit)
    file = File()
    file.put(0, empty)
    file.put_structure(size_at, struct.pack("<Q", len(disk)))
    table = [_ZERO if kind is Unit.ZERO else shuffled.choice([_NOT_PRESENT, _UNDEFINED, _UNMAPPED]) for kind in units]
    for number in shuffled.sample(range(len(units)), len(units)):
        if units[number] is Unit.PLAIN:
            place = round_up(file.end, MiB)
            table[number] = place | FULLY_PRESENT
            file.put(place, unit_of(disk, unit, number))
    file.put_structure(bat_at, struct.pack(f"<{len(table)}Q", *table))
    structures = [*file.structures, (64 * KiB, 4 * KiB), (128 * KiB, 4 * KiB), (REGIONS_AT, 112), (size_at, 8)]
    return Built(DiskFormat.VHDX, file.bytes(), disk, f"blocks of {unit}", structures)


@cache
def _empty(unit: int) -> tuple[bytes, int, int]:
    """A VHDX without blocks, and the offsets of its block table and of the size of its disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty"
        options = ["-f", "vhdx", "-o", f"block_size={unit}", str(path), "8M"]
        subprocess.run(["qemu-img", "create", "-q", *options], check=True, capture_output=True, timeout=60)
        raw = path.read_bytes()
    bat_at = _named(raw, REGIONS_AT, BAT, "<Q")
    metadata_at = _named(raw, REGIONS_AT, METADATA, "<Q")
    return raw, bat_at, metadata_at + _named(raw, metadata_at, VIRTUAL_DISK_SIZE, "<I")


def _named(raw: bytes, table_at: int, guid: UUID, layout: str) -> int:
    """The number behind a GUID in a table."""
    place = raw.index(guid.bytes_le, table_at, table_at + TABLE_SIZE) + 16
    (number,) = struct.unpack_from(layout, raw, place)
    return int(number)
