"""Plans a capture: which ranges of the base's file are copied as they are, and what is read of the point.

A cluster of the result is copied if all of it is the base's; a cluster that the guest has overwritten in part is read.
What the volume has overwritten is never copied, not even as unused bytes: users who delete a secret and take a snapshot
don't expect it there. Pure functions, without I/O.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from workers.capture.bases import BaseImage
from workers.capture.points import PointMap
from workers.qcow2 import metadata
from workers.qcow2.clusters import Runs
from workers.qcow2.composed import CompressedClusters
from workers.qcow2.extents import FINEST_CLUSTER, Extents, cluster_size_for
from workers.qcow2.metadata import Clusters
from workers.qcow2.packing import runs_within
from workers.store.parts import Piece


@dataclass(frozen=True, slots=True)
class CopyRules:
    """Which ranges are worth a copy: at least `least` bytes, at most `count` of them, the longest first.

    Clusters at most `gap` bytes apart are copied as one range; what is between them belongs to no disk.
    """

    least: int = 1
    gap: int = 0
    count: int | None = None


@dataclass(frozen=True, slots=True)
class CapturePlan:
    """How a point of `size` bytes becomes a qcow2.

    `ranges` of the base's file are copied, ascending; they begin and end at a cluster. `plain` and `compressed` are the
    clusters in them, with their offsets in the base's file. `read` are the runs to be read from the point.
    """

    size: int
    cluster_size: int
    ranges: Sequence[Piece]
    plain: Extents
    compressed: CompressedClusters
    read: Extents

    @property
    def copied(self) -> int:
        """The total length of all ranges, in bytes."""
        return sum(piece.length for piece in self.ranges)

    @property
    def deflated(self) -> bool:
        """Whether compressed clusters are copied that zstd can't read. An image has one kind of compression."""
        return len(self.compressed) > 0 and not self.compressed.zstd

    def copies(self, begin: int) -> Iterator[tuple[Piece, int]]:
        """Each range with its offset in the result, where they are one after the other from `begin` on."""
        return zip(self.ranges, accumulate((piece.length for piece in self.ranges), initial=begin), strict=False)

    def placed(self, begin: int) -> list[Clusters]:
        """The copied clusters, in that place."""
        places = list(self.copies(begin))
        begins = [piece.offset for piece, _ in places]

        def moved(offset: int) -> int:
            piece, place = places[bisect_right(begins, offset) - 1]
            return place - piece.offset

        plain, compressed = Extents(), CompressedClusters(self.cluster_size, self.compressed.zstd)
        for start, length, offset in self.plain:
            plain.add(start, length, offset + moved(offset))
        for number, entry in self.compressed:
            compressed.add(number, entry + moved(compressed.place(entry)[0]))
        return [Runs(plain, self.cluster_size), compressed]


def plan_capture(point: PointMap, base: BaseImage | None, rules: CopyRules) -> CapturePlan:
    """Plan the capture of a point. Without a base, or with one that can't be used, everything is read."""
    if base is not None and len(point.base):
        size = _cluster_size(point, base)
        if size >= FINEST_CLUSTER and _tables_fit(point.size, size):
            return _Planning(point, base, size, rules).plan()
    size = cluster_size_for(point.size)
    read = _sorted([*_runs(point.data), *_runs(point.base)])
    return CapturePlan(point.size, size, [], Extents(), CompressedClusters(size), read)


def _cluster_size(point: PointMap, base: BaseImage) -> int:
    """The cluster size of the result. Plain clusters can be divided, so that less is read for what is overwritten."""
    return base.cluster_size if len(base.compressed) else min(base.cluster_size, cluster_size_for(point.size))


def _tables_fit(size: int, cluster_size: int) -> bool:
    try:
        metadata.front_size(size, cluster_size, -(-size // (cluster_size * cluster_size // 8)), following=size)
    except metadata.TablesTooLarge:
        return False
    return True


@dataclass(slots=True)
class _Planning:
    """The planning with a base: sorts its clusters into those that can be copied and those that are read."""

    point: PointMap
    base: BaseImage
    cluster_size: int
    rules: CopyRules
    read: list[tuple[int, int]] = field(default_factory=list)
    # Where data of the base begins in its file that the point does not have, or that is read.
    dropped: list[int] = field(default_factory=list)

    def plan(self) -> CapturePlan:
        self.read += _runs(self.point.data)
        self.read += (run[:2] for run in runs_within(self.point.base, self.base.mapped, self.point.size))
        plain, compressed = self._plain(), self._compressed()
        self.dropped.sort()
        compressed = self._unmixed(compressed)
        ranges = self._ranges(plain, compressed)
        plain, compressed = self._within(ranges, plain, compressed)
        return CapturePlan(self.point.size, self.cluster_size, ranges, plain, compressed, _sorted(self.read))

    def _plain(self) -> Extents:
        """The plain clusters all of whose bytes the point has; not the last one, if the disk ends in it."""
        size, copied = self.cluster_size, Extents()
        for start, length, offset in self.base.plain:
            in_file = start + max(0, self.base.file_size - offset)
            done = start
            for begin, span, _ in runs_within(self.point.base, start, min(start + length, self.base.mapped)):
                end = begin + span
                first, last = -(-begin // size) * size, min(end, in_file) // size * size
                if first >= last:
                    self._read(begin, end)
                    continue
                copied.add(first, last - first, offset + first - start)
                self._read(begin, first)
                self._read(last, end)
                self._drop(offset + done - start, first - done)
                done = last
            self._drop(offset + done - start, start + length - done)
        return copied

    def _compressed(self) -> CompressedClusters:
        """Likewise the compressed ones."""
        size, found = self.cluster_size, CompressedClusters(self.cluster_size, self.base.compressed.zstd)
        for number, entry in self.base.compressed:
            begin, end = number * size, min((number + 1) * size, self.base.mapped)
            runs = [run[:2] for run in runs_within(self.point.base, begin, end)]
            if runs == [(begin, size)]:
                found.add(number, entry)
            else:
                self.read += runs
                self.dropped.append(found.place(entry)[0])
        return found

    def _unmixed(self, compressed: CompressedClusters) -> CompressedClusters:
        """Without those in whose last sector begins a dropped one: their exact end is not known."""
        kept = CompressedClusters(self.cluster_size, compressed.zstd)
        for number, entry in compressed:
            begin, end = compressed.place(entry)
            if self._any_dropped(begin + 1, end):
                self._read(number * self.cluster_size, (number + 1) * self.cluster_size)
            else:
                kept.add(number, entry)
        return kept

    def _ranges(self, plain: Extents, compressed: CompressedClusters) -> list[Piece]:
        size, rules = self.cluster_size, self.rules
        places = [(offset, offset + length) for _, length, offset in plain]
        places += (compressed.place(entry) for _, entry in compressed)
        found: list[Piece] = []
        for begin, end in self._joined(sorted(places)):
            first, last = -(-begin // size) * size, min(end, self.base.file_size) // size * size
            if last - first >= max(rules.least, size):
                found.append(Piece(first, last - first))
        if rules.count is not None and len(found) > rules.count:
            found = sorted(
                sorted(found, key=lambda piece: piece.length)[-rules.count :], key=lambda piece: piece.offset
            )
        return found

    def _joined(self, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        # What is in a gap is known only if all of the base is.
        gap = self.rules.gap if self.base.mapped == self.base.size else 0
        begin = end = -1
        for first, last in places:
            if begin >= 0 and (first - end > gap or self._any_dropped(end, first)):
                yield begin, end
                begin = -1
            begin = first if begin < 0 else begin
            end = max(end, last)
        if begin >= 0:
            yield begin, end

    def _within(
        self, ranges: Sequence[Piece], plain: Extents, compressed: CompressedClusters
    ) -> tuple[Extents, CompressedClusters]:
        """The clusters that are in the ranges. The others are read."""
        begins = [piece.offset for piece in ranges]

        def covered(begin: int, end: int) -> bool:
            index = bisect_right(begins, begin) - 1
            return index >= 0 and end <= begins[index] + ranges[index].length

        runs, kept = Extents(), CompressedClusters(self.cluster_size, compressed.zstd)
        for start, length, offset in plain:
            if covered(offset, offset + length):
                runs.add(start, length, offset)
            else:
                self._read(start, start + length)
        for number, entry in compressed:
            if covered(*compressed.place(entry)):
                kept.add(number, entry)
            else:
                self._read(number * self.cluster_size, (number + 1) * self.cluster_size)
        return runs, kept

    def _read(self, begin: int, end: int) -> None:
        if end > begin:
            self.read.append((begin, end - begin))

    def _drop(self, offset: int, length: int) -> None:
        if length > 0:
            self.dropped.append(offset)

    def _any_dropped(self, begin: int, end: int) -> bool:
        """Whether dropped data begins from `begin` on, before `end`, in the file."""
        index = bisect_left(self.dropped, begin)
        return index < len(self.dropped) and self.dropped[index] < end


def _runs(extents: Extents) -> Iterator[tuple[int, int]]:
    return zip(extents.starts, extents.lengths, strict=True)


def _sorted(runs: list[tuple[int, int]]) -> Extents:
    """Runs of a disk, in order."""
    found = Extents()
    for start, length in sorted(runs):
        found.add(start, length, start)
    return found
