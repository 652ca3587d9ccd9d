"""Where a disk's data lies in a file: maps of extents, checked before anything is built on them."""

import errno
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

FINEST_CLUSTER = 4 << 10
USUAL_CLUSTER = 64 << 10
COARSEST_CLUSTER = 2 << 20
# With so many clusters the L2 tables take 128 MiB; beyond, clusters get larger instead.
MOST_CLUSTERS = 1 << 24


class TooManyExtents(ValueError):
    """Raised when a map has more extents than are worth keeping."""


class DoubtfulMap(ValueError):
    """Raised when a map can't be used as it is: extents overlap, are out of order, or lie outside."""


class Truncated(ValueError):
    """Raised when a map names data beyond the end of the file."""


def _numbers() -> "array[int]":
    return array("Q")


@dataclass(slots=True)
class Extents:
    """Runs of a disk's data: `starts` on the disk, `lengths`, `offsets` in the file; in bytes.

    They ascend by start; what none covers reads as zeros. Three arrays rather than objects, since there can be a
    million.
    """

    starts: "array[int]" = field(default_factory=_numbers)
    lengths: "array[int]" = field(default_factory=_numbers)
    offsets: "array[int]" = field(default_factory=_numbers)

    def add(self, start: int, length: int, offset: int) -> None:
        """Append a run; one that continues the last run, on the disk and in the file, lengthens it."""
        if self.starts and self._ends() == (start, offset):
            self.lengths[-1] += length
            return
        self.starts.append(start)
        self.lengths.append(length)
        self.offsets.append(offset)

    def _ends(self) -> tuple[int, int]:
        return self.starts[-1] + self.lengths[-1], self.offsets[-1] + self.lengths[-1]

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return zip(self.starts, self.lengths, self.offsets, strict=True)

    @property
    def data_size(self) -> int:
        """Bytes in all runs together."""
        return sum(self.lengths)


def check(extents: Extents, virtual_size: int, readable: int) -> None:
    """A map is a claim: see that its runs lie on the disk and in the file, and that no two share a byte.

    `readable` is where data in the file has to end, in bytes: the file's length, or a little more where the
    last cluster of a format may be cut short. Raises DoubtfulMap, Truncated.
    """
    end = 0
    for start, length, offset in extents:
        if start < end or length <= 0:
            raise DoubtfulMap("runs overlap on the disk or are empty")
        end = start + length
        if offset + length > readable:
            raise Truncated(f"data at {offset}, {length} bytes long, in a file of {readable}")
    if end > virtual_size:
        raise DoubtfulMap("a run lies beyond the end of the disk")
    end = 0
    for offset, length in sorted(zip(extents.offsets, extents.lengths, strict=True)):
        if offset < end:
            raise DoubtfulMap("runs overlap in the file")
        end = offset + length


def coarse_enough(virtual_size: int) -> int:
    """The cluster size that keeps the tables of such a disk small: 64 KiB, and more from 1 TiB on."""
    size = USUAL_CLUSTER
    while size < COARSEST_CLUSTER and virtual_size > size * MOST_CLUSTERS:
        size *= 2
    return size


def fitting_cluster(extents: Extents, virtual_size: int) -> int | None:
    """The cluster size in which these runs can stay where they are: every one begins and ends with a cluster.

    None when only clusters below 4 KiB would do: a disk in such small ones would be slow for good.
    """
    ends = (start + length for start, length, _ in extents if start + length != virtual_size)
    bits = reduce(or_, extents.starts, 0) | reduce(or_, extents.offsets, 0) | reduce(or_, ends, 0)
    aligned = bits & -bits or COARSEST_CLUSTER
    size = min(coarse_enough(virtual_size), aligned)
    return size if size >= FINEST_CLUSTER else None


def without_holes(fd: int, extents: Extents, grain: int, max_extents: int) -> Extents:
    """The same runs without the parts that are holes of the file, in whole grains from each run's start.

    Raises TooManyExtents.
    """
    kept = Extents()
    for start, length, offset in extents:
        for begin, end in _data_ranges(fd, offset, offset + length):
            first = (begin - offset) // grain * grain
            last = min(-(-(end - offset) // grain) * grain, length)
            _add_or_extend(kept, start + first, last - first, offset + first)
            if len(kept) > max_extents:
                raise TooManyExtents(f"more than {max_extents}")
    return kept


def _add_or_extend(extents: Extents, start: int, length: int, offset: int) -> None:
    """Like add, for a run whose first grain may be the last one of the run before."""
    done = extents.starts[-1] + extents.lengths[-1] - start if extents.starts else 0
    if done > 0:
        start, length, offset = start + done, length - done, offset + done
    if length > 0:
        extents.add(start, length, offset)


def _data_ranges(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    while begin < end:
        try:
            data = os.lseek(fd, begin, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if data >= end:
            return
        begin = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, begin


@dataclass(frozen=True, slots=True)
class Relocation:
    """Bytes to copy within the file because they can't stay: to a cluster of their own, rest zeros."""

    source: int
    length: int
    target: int


def relocate(extents: Extents, cluster_size: int, free_at: int) -> tuple[Extents, list[Relocation], int]:
    """Move what is in the way: data in the file's first cluster, and a last cluster that the disk half fills.

    (What follows the disk's end in that cluster is another format's, and would show if the disk grew.)
    Gives the new map, the copies to make, and where free space then begins.
    """
    moved, copies = Extents(), []
    for start, length, offset in extents:
        whole = length // cluster_size * cluster_size
        pieces = [(start, whole, offset), (start + whole, length - whole, offset + whole)]
        if offset < cluster_size and whole:
            first = cluster_size - offset
            pieces[0] = (start + first, whole - first, offset + first)
            pieces.insert(0, (start, first, offset))
        for place, size, source in pieces:
            if size and (source < cluster_size or size % cluster_size):
                copies.append(Relocation(source, size, free_at))
                moved.add(place, size, free_at)
                free_at += cluster_size
            elif size:
                moved.add(place, size, source)
    return moved, copies, free_at
