"""Divides a result into the parts of a multipart upload: parts that the store copies itself, and parts to send.

Source of the rules: Amazon S3, "Multipart upload limits". Pure functions, without I/O.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from workers.limits import PartRules
from workers.qcow2 import metadata
from workers.qcow2.extents import Extents, Relocation


class TooScattered(ValueError):
    """Raised when too many bytes besides the data would be copied, or too many parts, to be worthwhile."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the source that becomes a part: offset and length in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A result whose data the store copies; the offsets in `layout` are those of the result.

    The first part has `front` bytes: header, tables, and then the relocated data (from the source to an offset in the
    result). The pieces follow.
    """

    layout: metadata.Layout
    front: int
    relocations: Sequence[Relocation]
    pieces: Sequence[Piece]

    @property
    def file_size(self) -> int:
        return self.front + sum(piece.length for piece in self.pieces)


def refer(extents: Extents, virtual_size: int, cluster_size: int, source_size: int, rules: PartRules) -> Reference:
    """Plan a result by reference from extents that begin at a cluster boundary, on the disk and in the source.

    Data that does not fill a cluster, or reaches past the end of the source, can't be copied in place: it is relocated.
    Raises TooScattered, TablesTooLarge.
    """
    small = extents.data_size <= rules.least
    staying, moving = Extents(), Extents()
    for start, length, offset in extents:
        whole = 0 if small else max(0, min(length, source_size - offset)) // cluster_size * cluster_size
        if whole:
            staying.add(start, whole, offset)
        if whole < length:
            moving.add(start + whole, length - whole, offset + whole)
    ranges, pieces = _cut(staying, rules)
    room = sum(-(-length // cluster_size) * cluster_size for length in moving.lengths)
    front = metadata.front_size(
        virtual_size,
        cluster_size,
        metadata.tables_touched(extents, cluster_size),
        room,
        sum(piece.length for piece in pieces),
        rules.least if pieces else 0,
    )
    if front > rules.most:
        raise TooScattered("the tables are longer than a part may be")
    placed = [*_placed(staying, ranges, front), *_packed(moving, cluster_size, front - room)]
    found = Extents()
    for start, length, offset in sorted(placed):
        found.add(start, length, offset)
    relocations = [
        Relocation(source, length, target)
        for (_, length, source), (_, _, target) in zip(moving, _packed(moving, cluster_size, front - room), strict=True)
    ]
    return Reference(metadata.lay_out(virtual_size, cluster_size, found, cluster_size), front, relocations, pieces)


def _placed(extents: Extents, ranges: Sequence[Piece], front: int) -> Iterator[tuple[int, int, int]]:
    """Extents with their offsets once the ranges are placed one after the other from `front` on."""
    begins = [found.offset for found in ranges]
    places = list(accumulate((found.length for found in ranges), initial=front))
    for start, length, offset in extents:
        index = bisect_right(begins, offset) - 1
        yield start, length, places[index] + offset - begins[index]


def _packed(extents: Extents, cluster_size: int, place: int) -> Iterator[tuple[int, int, int]]:
    """Extents with their offsets once they are placed one after the other from `place` on, each at a cluster."""
    for start, length, _ in extents:
        yield start, length, place
        place += -(-length // cluster_size) * cluster_size


def cut(begin: int, end: int, rules: PartRules) -> list[Piece]:
    """Divide a range of the source into pieces; only the last may be shorter than a part has to be."""
    return _even(begin, end, max(rules.copied, -(-(end - begin) // max(1, rules.count - 1))), rules)


def cut_all(ranges: Sequence[Piece], most: int, rules: PartRules) -> list[Piece]:
    """Divide ranges, each long enough for a part, into at most `most` pieces; there are at most `most` ranges."""
    length = max(rules.copied, -(-sum(found.length for found in ranges) // max(1, most - len(ranges))))
    return [piece for found in ranges for piece in _even(found.offset, found.offset + found.length, length, rules)]


def _cut(extents: Extents, rules: PartRules) -> tuple[list[Piece], list[Piece]]:
    """The ranges of the source to copy, ascending, and the pieces that they are divided into."""
    gap, length = rules.gap, rules.copied
    while True:
        ranges = _joined(extents, gap, rules.least)
        pieces = [
            piece for found in ranges for piece in _even(found.offset, found.offset + found.length, length, rules)
        ]
        if len(pieces) < rules.count:
            break
        if len(ranges) == 1 and length >= rules.most:
            raise TooScattered(f"more than {rules.count} parts would be needed")
        gap, length = 2 * gap, min(2 * length, rules.most)
    if 4 * extents.data_size < 3 * sum(piece.length for piece in pieces):
        raise TooScattered("less than three quarters of what would be copied is data")
    return ranges, pieces


def _joined(extents: Extents, gap: int, least: int) -> list[Piece]:
    """Runs of data, joined where the gap between them is small or where a run is too short for a part."""
    ranges: list[Piece] = []
    begin = end = -1
    for offset, length in sorted(zip(extents.offsets, extents.lengths, strict=True)):
        if begin >= 0 and offset - end > gap and end - begin >= least:
            ranges.append(Piece(begin, end - begin))
            begin = -1
        begin = offset if begin < 0 else begin
        end = offset + length
    return [*ranges, Piece(begin, end - begin)] if begin >= 0 else ranges


def _even(begin: int, end: int, length: int, rules: PartRules) -> list[Piece]:
    """Pieces of about `length` bytes, of equal size except the last."""
    if begin == end:
        return []
    count = -(-(end - begin) // max(length, 2 * rules.least))
    each = (end - begin) // count
    starts = [begin + index * each for index in range(count)]
    return [Piece(at, after - at) for at, after in zip(starts, [*starts[1:], end], strict=True)]
