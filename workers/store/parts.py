"""How a result is cut into the parts of a multipart upload: what the store copies itself, and what is sent.

Source of the rules: Amazon S3, "Multipart upload limits". Pure.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from workers.limits import PartRules
from workers.qcow2 import metadata
from workers.qcow2.extents import Extents, Relocation

MiB, GiB = 1 << 20, 1 << 30


class TooScattered(ValueError):
    """Raised when so much would be copied beside the data, or in so many parts, that it is not worth it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the source that becomes a part, in bytes."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Reference:
    """A result whose data the store copies: `layout` with all offsets in the result.

    The first part has `front` bytes: header, tables, and behind these what was relocated (from the source to an
    offset in the result). Then come the pieces.
    """

    layout: metadata.Layout
    front: int
    relocations: Sequence[Relocation]
    pieces: Sequence[Piece]

    @property
    def file_size(self) -> int:
        return self.front + sum(piece.length for piece in self.pieces)


def refer(extents: Extents, virtual_size: int, cluster_size: int, source_size: int, rules: PartRules) -> Reference:
    """Plan a result by reference: of extents that begin with a cluster, on the disk and in the source.

    What does not fill a cluster, or reaches beyond the end of the source, can't be copied as it is: it is relocated.
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
    """Extents where they lie when the ranges follow one another from `front` on."""
    begins = [found.offset for found in ranges]
    places = list(accumulate((found.length for found in ranges), initial=front))
    for start, length, offset in extents:
        index = bisect_right(begins, offset) - 1
        yield start, length, places[index] + offset - begins[index]


def _packed(extents: Extents, cluster_size: int, place: int) -> Iterator[tuple[int, int, int]]:
    """Extents where they lie when they follow one another from `place` on, each from a cluster's beginning."""
    for start, length, _ in extents:
        yield start, length, place
        place += -(-length // cluster_size) * cluster_size


def cut(begin: int, end: int, rules: PartRules) -> list[Piece]:
    """A range of the source in pieces, none shorter than it has to be but the last."""
    return _even(begin, end, max(rules.copied, -(-(end - begin) // max(1, rules.count - 1))), rules)


def _cut(extents: Extents, rules: PartRules) -> tuple[list[Piece], list[Piece]]:
    """The ranges of the source that are copied, ascending, and the pieces that they are cut into."""
    gap, length = rules.gap, rules.copied
    while True:
        ranges = _joined(extents, gap, rules.least)
        pieces = [
            piece for found in ranges for piece in _even(found.offset, found.offset + found.length, length, rules)
        ]
        if len(pieces) < rules.count:
            break
        if len(ranges) == 1 and length >= rules.most:
            raise TooScattered("more parts would be needed than there may be")
        gap, length = 2 * gap, min(2 * length, rules.most)
    if 4 * extents.data_size < 3 * sum(piece.length for piece in pieces):
        raise TooScattered("less than three quarters of what would be copied is data")
    return ranges, pieces


def _joined(extents: Extents, gap: int, least: int) -> list[Piece]:
    """Runs of data with what lies between them where that is little, or where one is too short for a part."""
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
    """Pieces of about `length` bytes, of equal size but for the last."""
    if begin == end:
        return []
    count = -(-(end - begin) // max(length, 2 * rules.least))
    each = (end - begin) // count
    starts = [begin + index * each for index in range(count)]
    return [Piece(at, after - at) for at, after in zip(starts, [*starts[1:], end], strict=True)]
