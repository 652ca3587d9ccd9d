"""The partitions of a disk.

Sources: UEFI specification 2.10, chapter 5 (MBR and GPT); for logical partitions, Linux's block/partitions/msdos.c.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from workers.readiness.reader.disk import Part, Readable

BIOS_BOOT = UUID("21686148-6449-6e6f-744e-656564454649")
_MOST_PARTITIONS = 128
_MOST_LOGICAL = 64
_SECTOR = 512
_SECTORS = (512, 4096)
_EXTENDED = (0x05, 0x0F, 0x85)
_PROTECTIVE = 0xEE
# Bit 2 of a GPT entry's attributes: "legacy BIOS bootable".
_LEGACY_BOOT = 1 << 2


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition. `kind` is the type in a GPT, None in an MBR; `active`: whether a BIOS may boot it."""

    part: Part
    kind: UUID | None
    active: bool


@dataclass(frozen=True, slots=True)
class Table:
    """The partition table of a disk. `code`: the boot code in front of it. A disk without a table has no partitions."""

    partitions: tuple[Partition, ...]
    is_gpt: bool
    code: bytes


def read_table(disk: Readable) -> Table:
    """The partition table of a disk: GPT if it has one, otherwise MBR. Invalid entries are left out."""
    code = disk.read_at(0, 440)
    for sector in _SECTORS:
        header = disk.read_at(sector, 92)
        if header[:8] == b"EFI PART" and len(header) == 92:
            return Table(tuple(_gpt(disk, header, sector)), is_gpt=True, code=code)
    return Table(tuple(_mbr(disk)), is_gpt=False, code=code)


def _gpt(disk: Readable, header: bytes, sector: int) -> Iterator[Partition]:
    place, count, size = struct.unpack_from("<QII", header, 72)
    if not 128 <= size <= 4096:
        return
    table = disk.read_at(place * sector, min(count, _MOST_PARTITIONS) * size)
    for start in range(0, len(table) - size + 1, size):
        kind = UUID(bytes_le=table[start : start + 16])
        first, last, attributes = struct.unpack_from("<QQQ", table, start + 32)
        if kind.int and first <= last and first * sector < disk.size:
            part = Part(disk, first * sector, (last - first + 1) * sector)
            yield Partition(part, kind, bool(attributes & _LEGACY_BOOT))


def _mbr(disk: Readable) -> Iterator[Partition]:
    for kind, active, first, count in _entries(disk, 0):
        if kind in _EXTENDED:
            yield from _logical(disk, first)
        elif kind != _PROTECTIVE:
            yield from _partition(disk, active, first, count)


def _logical(disk: Readable, extended: int) -> Iterator[Partition]:
    """The logical partitions, each described by a table that also names the next table, from `extended` on."""
    table = extended
    for _ in range(_MOST_LOGICAL):
        following = None
        for kind, active, first, count in _entries(disk, table):
            if kind in _EXTENDED:
                following = extended + first
            else:
                yield from _partition(disk, active, table + first, count)
        if following is None:
            return
        table = following


def _entries(disk: Readable, sector: int) -> Iterator[tuple[int, bool, int, int]]:
    """The used entries of the table in a sector: type, whether it is active, first sector, number of sectors."""
    table = disk.read_at(sector * _SECTOR, _SECTOR)
    if table[510:] != b"\x55\xaa":
        return
    entries = [
        (table[place], table[place + 4], *struct.unpack_from("<II", table, place + 8)) for place in range(446, 510, 16)
    ]
    # The first sector of a file system without partitions ends like a table, too; what is there is not a status.
    if all(status in (0, 0x80) for status, _, _, _ in entries):
        for status, kind, first, count in entries:
            if kind and first and count:
                yield kind, status == 0x80, first, count


def _partition(disk: Readable, active: bool, first: int, count: int) -> Iterator[Partition]:
    if first * _SECTOR < disk.size:
        yield Partition(Part(disk, first * _SECTOR, count * _SECTOR), None, active)
