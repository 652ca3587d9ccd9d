"""qcow2's header and tables: read a header, and build all of them anew from a map of extents.

The only place that knows the layout (QEMU, docs/interop/qcow2.txt). Pure: bytes in, bytes out.
"""

import struct
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.extents import Extents

MAGIC = b"QFI\xfb"
SECTOR = 512
COPIED = 1 << 63

DIRTY, CORRUPT, DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
KNOWN_FEATURES = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2

EXTENSION_DATA_FILE = 0x44415441
EXTENSION_ENCRYPTION = 0x0537BE77
EXTENSION_BITMAPS = 0x23852875

# What QEMU refuses to open: block/qcow2.h, QCOW_MAX_L1_SIZE and QCOW_MAX_REFTABLE_SIZE, in bytes.
MAX_L1_SIZE = 32 << 20
MAX_REFCOUNT_TABLE_SIZE = 8 << 20

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_CHUNK = 1 << 20


class MalformedHeader(ValueError):
    """Raised when bytes are no header of version 2 or 3 at all."""


class TablesTooLarge(ValueError):
    """Raised when a disk needs bigger tables than QEMU opens, at this cluster size."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header of version 2 or 3, by the specification's names. Offsets and sizes are bytes."""

    version: int
    backing_file_offset: int
    backing_file_size: int
    cluster_bits: int
    size: int
    crypt_method: int
    l1_size: int
    l1_table_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    nb_snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    compatible: int = 0
    autoclear: int = 0
    refcount_order: int = 4
    header_length: int = 72
    compression_type: int = 0

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits


def read_version(head: bytes) -> int:
    """The version that follows the magic number. Raises MalformedHeader."""
    if len(head) < 8 or not head.startswith(MAGIC):
        raise MalformedHeader("no qcow2 magic")
    return int.from_bytes(head[4:8], "big")


def read_header(head: bytes) -> Header:
    """The header that `head`, the first bytes of a file, begins with. Raises MalformedHeader."""
    version = read_version(head)
    if version not in (2, 3):
        raise MalformedHeader(f"version {version}")
    if len(head) < 112:
        raise MalformedHeader("cut off")
    fields = _V2.unpack_from(head)[2:]
    if version == 2:
        return Header(version, *fields)
    more = _V3.unpack_from(head, _V2.size)
    compression_type = head[104] if more[4] > 104 else 0
    return Header(*(version, *fields, *more, compression_type))


def extension_types(head: bytes, header: Header) -> list[int]:
    """The types of the header extensions, in order, as far as they lie in `head`."""
    found: list[int] = []
    place = header.header_length
    end = min(len(head), header.cluster_size, header.backing_file_offset or header.cluster_size)
    while place + 8 <= end:
        kind, length = struct.unpack_from(">II", head, place)
        if kind == 0:
            break
        found.append(kind)
        place += 8 + (length + 7) // 8 * 8
    return found


def write_header(header: Header) -> bytes:
    """One sector: the header as version 3, without extensions, backing file, snapshots, optional features."""
    incompatible = header.incompatible & COMPRESSION_TYPE
    length = 112 if incompatible else 104
    fields = _V2.pack(
        MAGIC,
        3,
        0,
        0,
        header.cluster_bits,
        header.size,
        0,
        header.l1_size,
        header.l1_table_offset,
        header.refcount_table_offset,
        header.refcount_table_clusters,
        0,
        0,
    )
    fields += _V3.pack(incompatible, 0, 0, header.refcount_order, length)
    if incompatible:
        fields += bytes([header.compression_type])
    return fields.ljust(SECTOR, b"\0")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything lies in a qcow2 file whose data is already there, made by `lay_out`. Sizes are bytes.

    The tables are one block at `tables_at`: L1, those L2 tables that are needed, refcount table, its blocks.
    """

    virtual_size: int
    cluster_size: int
    extents: Extents
    tables_at: int
    l2_indices: Sequence[int]
    refcount_blocks: int

    @property
    def file_size(self) -> int:
        """How long the file becomes: to the end of what lies last, in whole clusters."""
        return max(self._data_end, self.tables_at + self.tables_size)

    @property
    def stored_size(self) -> int:
        """The clusters that are in use: header, tables and data."""
        data = sum(_round_up(length, self.cluster_size) for length in self.extents.lengths)
        return self.cluster_size + self.tables_size + data

    @property
    def tables_size(self) -> int:
        l2_end = self._l1_clusters + len(self.l2_indices)
        return (l2_end + self._refcount_table_clusters + self.refcount_blocks) * self.cluster_size

    def header(self) -> bytes:
        """The file's first sector."""
        return write_header(
            Header(
                version=3,
                backing_file_offset=0,
                backing_file_size=0,
                cluster_bits=self.cluster_size.bit_length() - 1,
                size=self.virtual_size,
                crypt_method=0,
                l1_size=self._l1_entries,
                l1_table_offset=self.tables_at,
                refcount_table_offset=self._refcount_table_at,
                refcount_table_clusters=self._refcount_table_clusters,
                nb_snapshots=0,
                snapshots_offset=0,
            )
        )

    def tables(self) -> Iterator[bytes]:
        """All the tables, in the order in which they lie from `tables_at` on; `tables_size` bytes in all."""
        yield self._l1_table()
        yield from self._l2_tables()
        blocks_at = self._refcount_table_at + self._refcount_table_clusters * self.cluster_size
        addresses = range(blocks_at, blocks_at + self.refcount_blocks * self.cluster_size, self.cluster_size)
        yield _big_endian(array("Q", addresses)).ljust(self._refcount_table_clusters * self.cluster_size, b"\0")
        yield from self._refcounts()

    @property
    def _data_end(self) -> int:
        return max((_round_up(o + n, self.cluster_size) for _, n, o in self.extents), default=0)

    @property
    def _l1_entries(self) -> int:
        return -(-self.virtual_size // _span(self.cluster_size))

    @property
    def _l1_clusters(self) -> int:
        return -(-8 * self._l1_entries // self.cluster_size)

    @property
    def _l2_at(self) -> int:
        return self.tables_at + self._l1_clusters * self.cluster_size

    @property
    def _refcount_table_at(self) -> int:
        return self._l2_at + len(self.l2_indices) * self.cluster_size

    @property
    def _refcount_table_clusters(self) -> int:
        return -(-8 * self.refcount_blocks // self.cluster_size)

    def _l1_table(self) -> bytes:
        table = array("Q", bytes(self._l1_clusters * self.cluster_size))
        for place, index in enumerate(self.l2_indices):
            table[index] = (self._l2_at + place * self.cluster_size) | COPIED
        return _big_endian(table)

    def _l2_tables(self) -> Iterator[bytes]:
        size = self.cluster_size
        entries = size // 8
        current, table = -1, array("Q")
        for start, length, offset in self.extents:
            first, last = start // size, -(-(start + length) // size)
            host = offset | COPIED
            while first < last:
                index, slot = divmod(first, entries)
                if index != current:
                    if table:
                        yield _big_endian(table)
                    current, table = index, array("Q", bytes(size))
                count = min(last - first, entries - slot)
                table[slot : slot + count] = array("Q", range(host, host + count * size, size))
                first, host = first + count, host + count * size
        if table:
            yield _big_endian(table)

    def _refcounts(self) -> Iterator[bytes]:
        """A 16-bit 1 for every cluster in use, 0 for every other, in whole refcount blocks."""
        size = self.cluster_size
        used = [(0, 1), (self.tables_at // size, self.tables_size // size)]
        used += [(offset // size, -(-length // size)) for _, length, offset in self.extents]
        place = 0
        for first, count in sorted(used):
            yield from _repeat(b"\0\0", first - place)
            yield from _repeat(b"\0\1", count)
            place = first + count
        yield from _repeat(b"\0\0", self.refcount_blocks * size // 2 - place)


def lay_out(virtual_size: int, cluster_size: int, extents: Extents, tables_at: int) -> Layout:
    """Plan a qcow2 of `virtual_size` bytes around data that already lies in its file at the extents' offsets.

    Starts and offsets have to be multiples of the cluster size, and so have the lengths, but for an extent
    that ends with the disk. No extent may lie in the first cluster, nor where the tables will be; `tables_at`
    is a multiple of the cluster size too. Raises TablesTooLarge.
    """
    span = _span(cluster_size)
    needed = sorted(
        {index for start, length, _ in extents for index in range(start // span, (start + length - 1) // span + 1)}
    )
    blocks = 1
    while True:
        layout = Layout(virtual_size, cluster_size, extents, tables_at, needed, blocks)
        enough = -(-layout.file_size // (cluster_size * cluster_size // 2))
        if enough <= blocks:
            break
        blocks = enough
    l1_bytes = 8 * -(-virtual_size // span)
    if l1_bytes > MAX_L1_SIZE or 8 * blocks > MAX_REFCOUNT_TABLE_SIZE:
        raise TablesTooLarge(f"{virtual_size} bytes in clusters of {cluster_size}")
    return layout


def _span(cluster_size: int) -> int:
    """How much of a disk one L2 table describes, in bytes."""
    return cluster_size * (cluster_size // 8)


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _big_endian(table: "array[int]") -> bytes:
    if sys.byteorder == "little":
        table.byteswap()
    return table.tobytes()


def _repeat(entry: bytes, count: int) -> Iterator[bytes]:
    most = _CHUNK // len(entry)
    for done in range(0, count, most):
        yield entry * min(most, count - done)
