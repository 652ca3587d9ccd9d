"""The data of a qcow2 as its tables describe it: plain runs anywhere in the file, or clusters packed one by one.

Source: QEMU, docs/interop/qcow2.txt, "Cluster mapping", "Compressed Clusters Descriptor". Pure functions, without I/O.
"""

import heapq
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from app.sizes import MIB
from workers.qcow2.extents import Extents

COPIED = 1 << 63
COMPRESSED = 1 << 62
_SECTOR_BITS = 9
_BATCH = 4 * MIB


@dataclass(frozen=True, slots=True)
class Runs:
    """Whole clusters anywhere in the file: from extents that begin at a cluster, on the disk and in the file."""

    extents: Extents
    cluster_size: int

    @property
    def end(self) -> int:
        return max((self._whole(offset + length) for _, length, offset in self.extents), default=0)

    @property
    def size(self) -> int:
        return sum(self._whole(length) for length in self.extents.lengths)

    @property
    def compressed(self) -> bool:
        return False

    def l2_indices(self) -> list[int]:
        span = self.cluster_size * (self.cluster_size // 8)
        touched = ((start // span, (start + length - 1) // span) for start, length, _ in self.extents)
        return sorted({index for first, last in touched for index in range(first, last + 1)})

    def l2_tables(self) -> Iterator["array[int]"]:
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
                        yield table
                    current, table = index, array("Q", bytes(size))
                count = min(last - first, entries - slot)
                table[slot : slot + count] = array("Q", range(host, host + count * size, size))
                first, host = first + count, host + count * size
        if table:
            yield table

    def references(self) -> Iterator[tuple[int, int, int]]:
        runs = sorted(zip(self.extents.offsets, self.extents.lengths, strict=True))
        return ((offset // self.cluster_size, -(-length // self.cluster_size), 1) for offset, length in runs)

    def _whole(self, length: int) -> int:
        return -(-length // self.cluster_size) * self.cluster_size


def clusters_of_batch(cluster_size: int) -> int:
    """The number of clusters of a disk that are packed together: 4 MiB of the disk, but at least one cluster."""
    return max(1, _BATCH // cluster_size)


@dataclass(frozen=True, slots=True)
class PackedRange:
    """A range of a disk whose clusters are stored one after the other in the file, from `data_at` on.

    `first` is its first cluster on the disk, a multiple of the clusters per batch. `sizes` has a number for every
    cluster from there on: 0 for zeros, the cluster size for a plain cluster, fewer bytes for a compressed one. In each
    batch, the plain clusters come first, from a multiple of the cluster size on; then the compressed ones, unaligned.
    4 bytes per cluster, since there can be 16 million clusters.
    """

    first: int
    sizes: "array[int]"
    data_at: int


@dataclass(frozen=True, slots=True)
class PackedBatch:
    """Clusters that were packed together.

    `first` is their first cluster on the disk; `plain_at`, `compressed_at` and `end` are offsets in the file, in bytes.
    """

    first: int
    sizes: "array[int]"
    plain_at: int
    plain_count: int
    compressed_at: int
    end: int

    def compressed_sizes(self, cluster_size: int) -> list[int]:
        """The lengths of the compressed clusters, in bytes, in order."""
        if self.end == self.compressed_at:
            return []
        return [size for size in self.sizes if 0 < size < cluster_size]


@dataclass(frozen=True, slots=True)
class PackedClusters:
    """A disk in packed ranges, ascending on the disk and in the file. `end`: the end of their data (bytes)."""

    ranges: Sequence[PackedRange]
    cluster_size: int
    end: int

    @property
    def size(self) -> int:
        return sum(count for _, count, _ in self.references()) * self.cluster_size

    @property
    def compressed(self) -> bool:
        return any(batch.end != batch.compressed_at for batch in self.batches())

    def batches(self) -> Iterator[PackedBatch]:
        """Every batch that is not all zeros."""
        for packed in self.ranges:
            yield from batches_of(packed, self.cluster_size)

    def l2_indices(self) -> list[int]:
        entries = self.cluster_size // 8
        # A batch of small clusters may span several tables.
        found = {
            (batch.first + place) // entries
            for batch in self.batches()
            for place in range(0, len(batch.sizes), min(entries, len(batch.sizes)))
            if any(batch.sizes[place : place + entries])
        }
        return sorted(found)

    def l2_tables(self) -> Iterator["array[int]"]:
        entries = self.cluster_size // 8
        current, table = -1, array("Q")
        for batch in self.batches():
            numbers = self._entries(batch)
            for place in range(0, len(numbers), entries):
                piece = numbers[place : place + entries]
                index, slot = divmod(batch.first + place, entries)
                if not any(piece):
                    continue
                if index != current:
                    if table:
                        yield table
                    current, table = index, array("Q", bytes(self.cluster_size))
                table[slot : slot + len(piece)] = piece
        if table:
            yield table

    def _entries(self, batch: PackedBatch) -> "array[int]":
        size = self.cluster_size
        shift = 62 - (size.bit_length() - 1 - 8)
        plain, compressed = batch.plain_at | COPIED, batch.compressed_at
        if batch.plain_count == len(batch.sizes):
            return array("Q", range(plain, plain + batch.plain_count * size, size))
        numbers = array("Q", bytes(8 * len(batch.sizes)))
        for place, length in enumerate(batch.sizes):
            if length == size:
                numbers[place] = plain
                plain += size
            elif length:
                more_sectors = (compressed + length - 1 >> _SECTOR_BITS) - (compressed >> _SECTOR_BITS)
                numbers[place] = COMPRESSED | more_sectors << shift | compressed
                compressed += length
        return numbers

    def references(self) -> Iterator[tuple[int, int, int]]:
        size = self.cluster_size
        plain = ((batch.plain_at // size, batch.plain_count, 1) for batch in self.batches() if batch.plain_count)
        return heapq.merge(plain, shared_clusters(self._compressed_places(), size))

    def _compressed_places(self) -> Iterator[tuple[int, int]]:
        for batch in self.batches():
            place = batch.compressed_at
            for length in batch.compressed_sizes(self.cluster_size):
                yield place, place + length
                place += length


def shared_clusters(places: Iterable[tuple[int, int]], cluster_size: int) -> Iterator[tuple[int, int, int]]:
    """The file's clusters that compressed clusters are in: (number, 1, references), ascending.

    `places` are begins and ends of the compressed clusters, in bytes, ascending. Several may share a cluster.
    """
    shared, times = -1, 0
    for begin, end in places:
        first, last = begin // cluster_size, (end - 1) // cluster_size
        if first != shared:
            if times:
                yield shared, 1, times
            times = 0
        times += 1
        if last > first:
            yield first, 1, times
            yield from ((number, 1, 1) for number in range(first + 1, last))
            times = 1
        shared = last
    if times:
        yield shared, 1, times


def batches_of(packed: PackedRange, cluster_size: int) -> Iterator[PackedBatch]:
    """The batches of a range that are not all zeros, with their offsets in the file."""
    count = clusters_of_batch(cluster_size)
    place = packed.data_at
    for start in range(0, len(packed.sizes), count):
        sizes = packed.sizes[start : start + count]
        if not any(sizes):
            continue
        plain_count = sizes.count(cluster_size)
        plain_at = -(-place // cluster_size) * cluster_size if plain_count else place
        compressed_at = plain_at + plain_count * cluster_size
        place = compressed_at + sum(sizes) - plain_count * cluster_size
        yield PackedBatch(packed.first + start, sizes, plain_at, plain_count, compressed_at, place)


def big_endian(table: "array[int]") -> bytes:
    """The bytes of a table of 64-bit numbers. This may change the table, so it must not be used afterwards."""
    if sys.byteorder == "little":
        table.byteswap()
    return table.tobytes()
