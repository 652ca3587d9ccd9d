"""qcow2's header and tables: reads a header, and builds a new header and tables around data that has its place.

This module and `clusters`, which knows the entries of the data, are the only ones that know the layout (QEMU,
docs/interop/qcow2.txt). Pure functions: bytes in, bytes out.
"""

import heapq
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.sizes import MIB
from workers.qcow2.clusters import COPIED, Runs, big_endian
from workers.qcow2.extents import Extents

MAGIC = b"QFI\xfb"
SECTOR = 512
ZSTD = 1

DIRTY, CORRUPT, DATA_FILE, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
KNOWN_FEATURES = DIRTY | CORRUPT | DATA_FILE | COMPRESSION_TYPE | EXTENDED_L2

EXTENSION_DATA_FILE = 0x44415441
EXTENSION_ENCRYPTION = 0x0537BE77
EXTENSION_BITMAPS = 0x23852875

# QEMU does not open larger tables: block/qcow2.h, QCOW_MAX_L1_SIZE and QCOW_MAX_REFTABLE_SIZE, in bytes.
MAX_L1_SIZE = 32 * MIB
MAX_REFCOUNT_TABLE_SIZE = 8 * MIB

_V2 = struct.Struct(">4sIQIIQIIQQIIQ")
_V3 = struct.Struct(">QQQII")
_CHUNK = MIB


class MalformedHeader(ValueError):
    """Raised when bytes are not a header of version 2 or 3."""


class TablesTooLarge(ValueError):
    """Raised when a disk needs larger tables than QEMU opens, at this cluster size."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a header of version 2 or 3, with the specification's names. Offsets and sizes are bytes."""

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
    """Read the header in `head`, the first bytes of a file. Raises MalformedHeader."""
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
    """The types of the header extensions, in order, as far as they are within `head`."""
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
    """One sector: the header as version 3, without extensions, backing file, snapshots and optional features."""
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


class Clusters(Protocol):
    """The data of a disk as its tables describe it: which clusters exist, and where each is stored in the file."""

    @property
    def end(self) -> int:
        """The end of the last cluster of data in the file, in bytes."""

    @property
    def size(self) -> int:
        """The total size of the file's clusters that hold data, in bytes."""

    @property
    def compressed(self) -> bool:
        """Whether some clusters are compressed with zstd."""

    def l2_indices(self) -> list[int]:
        """The indices of the L2 tables that have an entry, ascending."""

    def l2_tables(self) -> Iterator["array[int]"]:
        """Those tables, in the same order."""

    def references(self) -> Iterator[tuple[int, int, int]]:
        """Runs of the file's clusters, ascending: the first, their number, and the references to each."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The layout of a qcow2 file whose data has its place, made by `lay_out`. Sizes are bytes.

    The tables are one block at `tables_at`: L1, the needed L2 tables, the refcount table and its blocks.
    """

    virtual_size: int
    cluster_size: int
    clusters: Clusters
    tables_at: int
    l2_indices: Sequence[int]
    refcount_blocks: int

    @property
    def file_size(self) -> int:
        """The size of the file: up to the end of the data or of the tables, in whole clusters."""
        return max(self.clusters.end, self.tables_at + self.tables_size)

    @property
    def stored_size(self) -> int:
        """The size of the clusters in use: header, tables and data."""
        return self.cluster_size + self.tables_size + self.clusters.size

    @property
    def tables_size(self) -> int:
        return tables_size(self.virtual_size, self.cluster_size, len(self.l2_indices), self.refcount_blocks)

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
                l1_size=_l1_entries(self.virtual_size, self.cluster_size),
                l1_table_offset=self.tables_at,
                refcount_table_offset=self._refcount_table_at,
                refcount_table_clusters=_clusters_of(8 * self.refcount_blocks, self.cluster_size),
                nb_snapshots=0,
                snapshots_offset=0,
                incompatible=COMPRESSION_TYPE if self.clusters.compressed else 0,
                compression_type=ZSTD if self.clusters.compressed else 0,
            )
        )

    def tables(self) -> Iterator[bytes]:
        """All tables, in their order from `tables_at` on; `tables_size` bytes in total."""
        yield self._l1_table()
        for table in self.clusters.l2_tables():
            yield big_endian(table)
        table_size = _clusters_of(8 * self.refcount_blocks, self.cluster_size) * self.cluster_size
        blocks_at = self._refcount_table_at + table_size
        addresses = range(blocks_at, blocks_at + self.refcount_blocks * self.cluster_size, self.cluster_size)
        yield big_endian(array("Q", addresses)).ljust(table_size, b"\0")
        yield from self._refcounts()

    @property
    def _l2_at(self) -> int:
        entries = _l1_entries(self.virtual_size, self.cluster_size)
        return self.tables_at + _clusters_of(8 * entries, self.cluster_size) * self.cluster_size

    @property
    def _refcount_table_at(self) -> int:
        return self._l2_at + len(self.l2_indices) * self.cluster_size

    def _l1_table(self) -> bytes:
        table = array("Q", bytes(self._l2_at - self.tables_at))
        for place, index in enumerate(self.l2_indices):
            table[index] = (self._l2_at + place * self.cluster_size) | COPIED
        return big_endian(table)

    def _refcounts(self) -> Iterator[bytes]:
        """The reference count of every cluster of the file, 16 bits each, in whole refcount blocks."""
        size = self.cluster_size
        ours = [(0, 1, 1), (self.tables_at // size, self.tables_size // size, 1)]
        place = 0
        for first, count, references in heapq.merge(ours, self.clusters.references()):
            yield from _repeat(b"\0\0", first - place)
            yield from _repeat(references.to_bytes(2, "big"), count)
            place = first + count
        yield from _repeat(b"\0\0", self.refcount_blocks * size // 2 - place)


def lay_out(virtual_size: int, cluster_size: int, data: Extents | Clusters, tables_at: int) -> Layout:
    """Plan a qcow2 of `virtual_size` bytes around data that has its place in the file.

    Starts, offsets and lengths of extents must be multiples of the cluster size, except the length of an extent that
    ends with the disk. The first cluster and the place of the tables must be free; `tables_at` must be a multiple of
    the cluster size too. Raises TablesTooLarge.
    """
    clusters: Clusters = Runs(data, cluster_size) if isinstance(data, Extents) else data
    needed = clusters.l2_indices()
    blocks = 1
    while True:
        layout = Layout(virtual_size, cluster_size, clusters, tables_at, needed, blocks)
        enough = _blocks_for(layout.file_size, cluster_size)
        if enough <= blocks:
            break
        blocks = enough
    _check_tables(virtual_size, cluster_size, blocks)
    return layout


def tables_size(virtual_size: int, cluster_size: int, l2_tables: int, refcount_blocks: int) -> int:
    """The size of all tables, in bytes, in whole clusters."""
    l1 = _clusters_of(8 * _l1_entries(virtual_size, cluster_size), cluster_size)
    refcount_table = _clusters_of(8 * refcount_blocks, cluster_size)
    return (l1 + l2_tables + refcount_table + refcount_blocks) * cluster_size


def tables_touched(data: Extents | Clusters, cluster_size: int) -> int:
    """The number of L2 tables that the data needs, wherever it will be in the file."""
    clusters: Clusters = Runs(data, cluster_size) if isinstance(data, Extents) else data
    return len(clusters.l2_indices())


def front_size(
    virtual_size: int, cluster_size: int, l2_tables: int, room: int = 0, following: int = 0, least: int = 0
) -> int:
    """The size in bytes of header, tables and `room` bytes at the beginning of a file; `following` bytes come next.

    It is a multiple of the cluster size, as is `room`, and at least `least`. Raises TablesTooLarge.
    """
    blocks = 1
    while True:
        front = cluster_size + tables_size(virtual_size, cluster_size, l2_tables, blocks) + room
        front = max(front, _clusters_of(least, cluster_size) * cluster_size)
        enough = _blocks_for(front + following, cluster_size)
        if enough <= blocks:
            break
        blocks = enough
    _check_tables(virtual_size, cluster_size, blocks)
    return front


def _check_tables(virtual_size: int, cluster_size: int, blocks: int) -> None:
    too_long = 8 * _l1_entries(virtual_size, cluster_size) > MAX_L1_SIZE
    if too_long or 8 * blocks > MAX_REFCOUNT_TABLE_SIZE:
        raise TablesTooLarge(f"a disk of {virtual_size} bytes in clusters of {cluster_size} bytes")


def _l1_entries(virtual_size: int, cluster_size: int) -> int:
    """The number of L1 entries: one for every possible L2 table."""
    return -(-virtual_size // (cluster_size * (cluster_size // 8)))


def _blocks_for(file_size: int, cluster_size: int) -> int:
    """The number of refcount blocks that a file of this size needs."""
    return -(-file_size // (cluster_size * cluster_size // 2))


def _clusters_of(length: int, cluster_size: int) -> int:
    return -(-length // cluster_size)


def _repeat(entry: bytes, count: int) -> Iterator[bytes]:
    most = _CHUNK // len(entry)
    for done in range(0, count, most):
        yield entry * min(most, count - done)
