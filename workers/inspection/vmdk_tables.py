"""Locates the grains of a VMDK from its directory and tables. The effort is bounded by the file.

QEMU's own map walks the disk grain by grain, even where it is empty: 16 TiB take minutes.
Source: VMware, Virtual Disk Format 5.0, "Grain Directories and Grain Tables"; block/vmdk.c, vmdk_open_vmdk4.
"""

import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.sizes import MIB
from workers.inspection.claims import Places, check_total
from workers.inspection.numbers import numbers_in
from workers.inspection.refusals import corrupt
from workers.inspection.vhdx import ReadAt
from workers.qcow2.extents import Extents, TooManyExtents

SECTOR = 512
_GD_AT_END = (1 << 64) - 1
_HAS_ZERO_GRAINS = 1 << 2
_DEFLATE = 1
# magic, version, flags, capacity, grain, descriptor's offset and length, entries per table, both directories
_HEADER = struct.Struct("<4sIIQQQQIQQ")
_ALGORITHM_AT = 77
_FOOTER_FROM_END = 1024
_PIECE = MIB

# The number of a table and its entries.
Table = tuple[int, "array[int]"]


@dataclass(frozen=True, slots=True)
class VmdkTables:
    """The directory of a VMDK of `size` bytes. `grain` and `directory_at` are in bytes, `entries` is per table."""

    read_at: ReadAt
    size: int
    grain: int
    entries: int
    directory_at: int
    count: int
    zero_grains: bool
    compressed: bool

    def mapped(self, tick: Callable[[], None]) -> int:
        """Bytes of the disk that are mapped to data. Raises ImageFailed, and what reading and `tick` raise."""
        grains = Places(self.size, SECTOR if self.compressed else self.grain, "grain")
        count = 0
        for _, table in self.tables(tick):
            for sector in table:
                if self.is_data(sector):
                    grains.take(sector * SECTOR)
                    count += 1
        data = count * self.grain
        return check_total(0, data, self.size, 0) if self.compressed else check_total(data, 0, self.size, self.grain)

    def extents(self, virtual_size: int, most: int, tick: Callable[[], None]) -> Extents:
        """Where the data of an uncompressed disk is stored. Raises TooManyExtents, and what `mapped` raises."""
        found = Extents()
        for number, table in self.tables(tick):
            start = number * self.entries * self.grain
            for sector in table:
                if start < virtual_size and self.is_data(sector):
                    found.add(start, min(self.grain, virtual_size - start), sector * SECTOR)
                start += self.grain
            if len(found) > most:
                raise TooManyExtents(f"more than {most}")
        return found

    def is_data(self, sector: int) -> bool:
        """Whether a table entry points to a grain, not to zeros."""
        return sector != 0 and not (sector == 1 and self.zero_grains)

    def tables(self, tick: Callable[[], None]) -> Iterator[Table]:
        """Every table that has an entry. Raises ImageFailed if a table is shared or outside the file."""
        length = 4 * self.entries
        places = Places(self.size, length, "table")
        for first, offset, count in self._runs(_PIECE // length):
            places.take(offset, count)
            tick()
            raw = self.read_at(offset, count * length)
            if len(raw) < count * length:
                raise _cut_off()
            if raw.count(0) == len(raw):
                continue
            for index in range(count):
                yield first + index, numbers_in("I", raw[index * length : (index + 1) * length], "little")

    def _runs(self, most: int) -> Iterator[tuple[int, int, int]]:
        """Runs of consecutive tables in the file: the number of the first, its offset in bytes, and their count."""
        length = 4 * self.entries
        first = offset = count = 0
        for number, sector in enumerate(self._directory()):
            if count and sector * SECTOR == offset + count * length and count < most:
                count += 1
                continue
            if count:
                yield first, offset, count
            first, offset, count = number, sector * SECTOR, 1 if sector else 0
        if count:
            yield first, offset, count

    def _directory(self) -> Iterator[int]:
        end = self.directory_at + 4 * self.count
        for place in range(self.directory_at, end, _PIECE):
            length = min(_PIECE, end - place)
            raw = self.read_at(place, length)
            if len(raw) < length:
                raise _cut_off()
            yield from numbers_in("I", raw, "little")


def open_tables(read_at: ReadAt, size: int, virtual_size: int) -> VmdkTables:
    """The tables of a VMDK that passed inspection and that QEMU can open. Raises ImageFailed."""
    header = read_at(0, SECTOR)
    if _HEADER.unpack_from(header)[9] == _GD_AT_END:
        header = read_at(size - _FOOTER_FROM_END, SECTOR)
    _, _, flags, _, grain, _, _, entries, _, directory = _HEADER.unpack_from(header)
    if not grain or not 0 < entries <= 512 or directory * SECTOR >= size:
        raise corrupt("The VMDK header contains invalid places or sizes of its tables.")
    return VmdkTables(
        read_at=read_at,
        size=size,
        grain=grain * SECTOR,
        entries=entries,
        directory_at=directory * SECTOR,
        count=-(-virtual_size // (grain * SECTOR * entries)),
        zero_grains=bool(flags & _HAS_ZERO_GRAINS),
        compressed=int.from_bytes(header[_ALGORITHM_AT : _ALGORITHM_AT + 2], "little") == _DEFLATE,
    )


def _cut_off() -> Exception:
    return corrupt("The file is cut off: it ends within its VMDK tables.")
