"""Maps of extents, which say where a disk's data is stored in a file, and checks to run before using them."""

import errno
import os
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from operator import or_

from app.sizes import KIB, MIB

FINEST_CLUSTER = 4 * KIB
USUAL_CLUSTER = 64 * KIB
COARSEST_CLUSTER = 2 * MIB
# With this number of clusters the L2 tables take 128 MiB; for larger disks, the clusters become larger instead.
MOST_CLUSTERS = 1 << 24


class TooManyExtents(ValueError):
    """Raised when a map has more extents than the limit."""


class DoubtfulMap(ValueError):
    """Raised when a map can't be used: extents overlap, are out of order, or are outside the disk."""


class Truncated(ValueError):
    """Raised when a map contains data past the end of the file."""


def _numbers() -> "array[int]":
    return array("Q")


@dataclass(slots=True)
class Extents:
    """Runs of a disk's data: `starts` on the disk, `lengths`, `offsets` in the file; in bytes.

    They ascend by start; everything outside them reads as zeros. Three arrays instead of objects, since there can be a
    million runs.
    """

    starts: "array[int]" = field(default_factory=_numbers)
    lengths: "array[int]" = field(default_factory=_numbers)
    offsets: "array[int]" = field(default_factory=_numbers)

    def add(self, start: int, length: int, offset: int) -> None:
        """Append a run; if it continues the last run, on the disk and in the file, extend that."""
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
        """The total length of all runs, in bytes."""
        return sum(self.lengths)


def check(extents: Extents, virtual_size: int, readable: int) -> None:
    """Check that the runs of a map are inside the disk and the file, and that no two share a byte.

    `readable` is where data in the file has to end, in bytes: the file's length, or a little more if the format allows
    a shortened last cluster. Raises DoubtfulMap, Truncated.
    """
    end = 0
    for start, length, offset in extents:
        if start < end or length <= 0:
            raise DoubtfulMap("runs overlap on the disk or are empty")
        end = start + length
        if offset + length > readable:
            raise Truncated(f"{length} bytes of data at {offset}, in a file of {readable} bytes")
    if end > virtual_size:
        raise DoubtfulMap("a run is past the end of the disk")
    end = 0
    for offset, length in sorted(zip(extents.offsets, extents.lengths, strict=True)):
        if offset < end:
            raise DoubtfulMap("runs overlap in the file")
        end = offset + length


def cluster_size_for(virtual_size: int) -> int:
    """The cluster size that keeps the tables of a disk of this size small: 64 KiB, and larger beyond 1 TiB."""
    size = USUAL_CLUSTER
    while size < COARSEST_CLUSTER and virtual_size > size * MOST_CLUSTERS:
        size *= 2
    return size


def fitting_cluster(extents: Extents, virtual_size: int) -> int | None:
    """The cluster size with which these runs can stay in place: every run begins and ends at a cluster boundary.

    None if that needs clusters smaller than 4 KiB, which would make the disk permanently slow.
    """
    ends = (start + length for start, length, _ in extents if start + length != virtual_size)
    bits = reduce(or_, extents.starts, 0) | reduce(or_, extents.offsets, 0) | reduce(or_, ends, 0)
    aligned = bits & -bits or COARSEST_CLUSTER
    size = min(cluster_size_for(virtual_size), aligned)
    return size if size >= FINEST_CLUSTER else None


def without_holes(fd: int, extents: Extents, grain: int, max_extents: int) -> Extents:
    """The same runs without the holes of the file, in whole grains from the start of each run.

    Raises TooManyExtents.
    """
    kept = Extents()
    for start, length, offset in extents:
        for begin, end in data_ranges(fd, offset, offset + length):
            first = (begin - offset) // grain * grain
            last = min(-(-(end - offset) // grain) * grain, length)
            _add_or_extend(kept, start + first, last - first, offset + first)
            if len(kept) > max_extents:
                raise TooManyExtents(f"more than {max_extents}")
    return kept


def _add_or_extend(extents: Extents, start: int, length: int, offset: int) -> None:
    """Like add, for a run whose first grain may be the last grain of the previous run."""
    done = extents.starts[-1] + extents.lengths[-1] - start if extents.starts else 0
    if done > 0:
        start, length, offset = start + done, length - done, offset + done
    if length > 0:
        extents.add(start, length, offset)


def data_ranges(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of a file that are not holes, within these bounds: begins and ends, in bytes. Raises OSError."""
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
    """Bytes to copy within the file because they can't stay in place: to their own cluster, padded with zeros."""

    source: int
    length: int
    target: int


def relocate(extents: Extents, cluster_size: int, free_at: int) -> tuple[Extents, list[Relocation], int]:
    """Move data out of the file's first cluster, and a last cluster that the disk fills only in part.

    (In that cluster, bytes of the source's format follow the disk's end and would appear if the disk grew.) Returns the
    new map, the copies to make, and where free space then begins.
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
