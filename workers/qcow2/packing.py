"""Packs the data of a disk into clusters of a qcow2, batch by batch: omits zeros, and compresses the rest if asked to.

Packing a batch always produces the same bytes.
"""

from array import array
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import NamedTuple

import zstandard

from app.sizes import KIB, MIB
from workers.qcow2.clusters import clusters_of_batch
from workers.qcow2.extents import Extents

# Reads data into a buffer, from an offset in the extents. Its exceptions end the conversion.
ReadInto = Callable[[int, memoryview], None]

# Ranges at most `_CLOSE` bytes apart in the source are read together, up to `_AT_ONCE` bytes.
_CLOSE, _AT_ONCE = 64 * KIB, 4 * MIB
_LEVEL = 1


class _Run(NamedTuple):
    """Data of a batch: its place in a buffer, its length, its offset in the source."""

    place: int
    length: int
    offset: int


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk to pack: its extents of data, and `read_into`, which reads them by their offsets. `size` is in bytes."""

    size: int
    extents: Extents
    read_into: ReadInto


@dataclass(frozen=True, slots=True)
class Packed:
    """A packed batch: a number for each of its clusters (see PackedRange), its plain and its compressed clusters.

    `buffer` holds the plain clusters; return it to the packer (`release`) once they are no longer needed.
    """

    sizes: "array[int]"
    plain: memoryview
    compressed: list[bytes]
    buffer: bytearray | None = None

    @property
    def length(self) -> int:
        """The total size of all clusters, in bytes."""
        return len(self.plain) + sum(map(len, self.compressed))


class Packer:
    """Packs batches of a disk in clusters of `cluster_size` bytes. Safe for several threads.

    It reuses a few buffers: allocating new ones each time would be slow, and its memory use unbounded.
    """

    def __init__(self, disk: Disk, cluster_size: int, *, compress: bool = False, batch: int | None = None) -> None:
        """`batch` is the number of clusters that are packed together; by default, the number in a `PackedRange`."""
        self.disk = disk
        self.cluster_size = cluster_size
        self.batch = batch or clusters_of_batch(cluster_size)
        self._compress = compress
        self._zeros = bytes(cluster_size)
        self._idle: deque[bytearray] = deque()

    @property
    def clusters(self) -> int:
        """The number of clusters of the disk."""
        return -(-self.disk.size // self.cluster_size)

    def most_data(self, first: int, last: int) -> int:
        """The most bytes that clusters with data can have, from cluster `first` up to, not including, `last`."""
        size = self.cluster_size
        most = 0
        for start, length, _ in runs_within(self.disk.extents, first * size, last * size):
            most += (-(-(start + length) // size) - start // size) * size
        return min((last - first) * size, most)

    def batches(self, first: int, last: int) -> Iterator[int]:
        """The batches that may hold data from cluster `first` up to, not including, `last`: their first clusters.

        `first` is at a batch's boundary. The duration depends on the number of extents, not on the size of the disk.
        """
        size = self.batch * self.cluster_size
        for start, length, _ in runs_within(self.disk.extents, first * self.cluster_size, last * self.cluster_size):
            end = -(-(start + length) // size) * self.batch
            yield from range(max(first, start // size * self.batch), min(end, last), self.batch)
            first = max(first, end)

    def pack(self, first: int) -> Packed:
        """Pack the batch that begins with cluster `first` of the disk."""
        count = min(self.batch, self.clusters - first)
        sizes = array("I", bytes(4 * count))
        numbers, runs = self._wanted(first, count)
        buffer = self._take()
        self._read(runs, buffer)
        compressed = self._sort_out(numbers, sizes, buffer) if numbers else []
        used = sizes.count(self.cluster_size) * self.cluster_size
        if used > self.batch * self.cluster_size // 2:
            return Packed(sizes, memoryview(buffer)[:used], compressed, buffer)
        # A large buffer is not kept for little data.
        few = bytes(memoryview(buffer)[:used])
        self._idle.append(buffer)
        return Packed(sizes, memoryview(few), compressed)

    def release(self, packed: Packed) -> None:
        """Return the buffer of a batch whose plain clusters are no longer needed."""
        if packed.buffer is not None:
            self._idle.append(packed.buffer)

    def _take(self) -> bytearray:
        try:
            return self._idle.pop()
        except IndexError:
            return bytearray(max(self.batch * self.cluster_size, _AT_ONCE))

    def _wanted(self, first: int, count: int) -> tuple[list[int], list[_Run]]:
        """The clusters that may hold data, by their numbers within the batch, and the runs of data in them.

        The clusters are placed one after the other in a buffer.
        """
        size = self.cluster_size
        begin, end = first * size, min((first + count) * size, self.disk.size)
        numbers: list[int] = []
        runs: list[_Run] = []
        for start, length, offset in runs_within(self.disk.extents, begin, end):
            low, high = (start - begin) // size, -(-(start + length - begin) // size)
            numbers.extend(range(max(low, numbers[-1] + 1 if numbers else 0), high))
            # The run's clusters are the last ones so far.
            place = (len(numbers) - (high - low)) * size + (start - begin) % size
            runs.append(_Run(place, length, offset))
        return numbers, runs

    def _read(self, runs: list[_Run], buffer: bytearray) -> None:
        """Read runs into their places, and fill the rest of their clusters with zeros."""
        size = self.cluster_size
        view = memoryview(buffer)
        for run in runs:
            for edge in {run.place // size, (run.place + run.length - 1) // size}:
                if run.place > edge * size or run.place + run.length < (edge + 1) * size:
                    view[edge * size : (edge + 1) * size] = self._zeros
        for group in _close_together(runs):
            if len(group) == 1:
                self.disk.read_into(group[0].offset, view[group[0].place : group[0].place + group[0].length])
            else:
                self._read_at_once(group, view)

    def _read_at_once(self, group: list[_Run], view: memoryview) -> None:
        """Read a group of runs in one request, including the gaps between them."""
        spare = self._take()
        begin = group[0].offset
        with memoryview(spare)[: group[-1].offset + group[-1].length - begin] as whole:
            self.disk.read_into(begin, whole)
            for run in group:
                view[run.place : run.place + run.length] = whole[run.offset - begin : run.offset - begin + run.length]
        self._idle.append(spare)

    def _sort_out(self, numbers: list[int], sizes: "array[int]", buffer: bytearray) -> list[bytes]:
        """Omit zero clusters, compress those that shrink, and move the others together; return the compressed ones."""
        size, zeros = self.cluster_size, self._zeros
        # A cluster that hardly shrinks is faster to read uncompressed.
        worth = size - size // 8
        compressor = zstandard.ZstdCompressor(level=_LEVEL) if self._compress else None
        compressed: list[bytes] = []
        view = memoryview(buffer)
        used = 0
        for index, number in enumerate(numbers):
            place = index * size
            if buffer.startswith(zeros, place):
                continue
            if compressor is not None:
                small = compressor.compress(view[place : place + size])
                if len(small) <= worth:
                    sizes[number] = len(small)
                    compressed.append(small)
                    continue
            if used != place:
                view[used : used + size] = view[place : place + size]
            sizes[number] = size
            used += size
        return compressed


def packed_ahead(
    pool: Executor, pack: Callable[[int], Packed], batches: Iterable[int], most: int
) -> Iterator[tuple[int, Packed]]:
    """Pack batches in a pool, up to `most` of them ahead; yield them in order, each with its first cluster."""
    ahead: deque[tuple[int, Future[Packed]]] = deque()
    for batch in batches:
        if len(ahead) > most:
            first, packed = ahead.popleft()
            yield first, packed.result()
        ahead.append((batch, pool.submit(pack, batch)))
    while ahead:
        first, packed = ahead.popleft()
        yield first, packed.result()


def runs_within(extents: Extents, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The parts of extents on the disk between `begin` and `end`: (start, length, offset), in bytes."""
    index = max(0, bisect_right(extents.starts, begin) - 1)
    while index < len(extents) and extents.starts[index] < end:
        start = max(begin, extents.starts[index])
        length = min(end, extents.starts[index] + extents.lengths[index]) - start
        if length > 0:
            yield start, length, extents.offsets[index] + start - extents.starts[index]
        index += 1


def _close_together(runs: list[_Run]) -> Iterator[list[_Run]]:
    """Groups of runs whose offsets ascend with small gaps between them."""

    group: list[_Run] = []
    for run in runs:
        if group:
            near = 0 <= run.offset - group[-1].offset - group[-1].length <= _CLOSE
            if not near or run.offset + run.length - group[0].offset > _AT_ONCE:
                yield group
                group = []
        group.append(run)
    if group:
        yield group
