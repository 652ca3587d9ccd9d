"""Reads the tables of a qcow2 once, before QEMU follows them; the effort is bounded by the size of the file.

Only the active state counts. Its tables and clusters may be shared with internal snapshots, which are dropped, and
with nothing else. Source: QEMU, docs/interop/qcow2.txt, "Cluster mapping".
"""

from array import array
from collections.abc import Callable, Iterator

from app.sizes import MIB
from workers.inspection.claims import Places, check_total, cut_off
from workers.inspection.numbers import numbers_in
from workers.inspection.refusals import corrupt
from workers.inspection.vhdx import ReadAt
from workers.qcow2 import metadata
from workers.qcow2.clusters import COMPRESSED, COPIED
from workers.qcow2.extents import Extents, TooManyExtents

_SECTOR = 512
_OFFSET = 0x00FFFFFFFFFFFE00
_READS_AS_ZEROS = 1
_L1_PIECE = MIB
# The shortest possible compressed cluster: deflate shrinks it to no less than 1/1032, and zstd has a header.
_LEAST_DEFLATED, _LEAST_ZSTD = 4, 8

# An offset in the file and a length, in bytes.
Place = tuple[int, int]


class Qcow2Tables:
    """The tables of the active state in a file of `size` bytes. `tick` is called repeatedly and may raise."""

    def __init__(self, header: metadata.Header, read_at: ReadAt, size: int, tick: Callable[[], None]) -> None:
        self._header = header
        self._read_at = read_at
        self._size = size
        self._tick = tick
        self._unit = header.cluster_size
        self._sectors_at = 62 - (header.cluster_bits - 8)
        self._compressed_offset = (1 << self._sectors_at) - 1
        self._tables = Places(size, self._unit, "table")
        self._plain = Places(size, self._unit, "cluster")
        least = _LEAST_ZSTD if header.compression_type else max(_LEAST_DEFLATED, self._unit >> 11)
        self._compressed = Places(size, least, "compressed cluster")
        self._plain_count = self._compressed_count = 0

    def mapped(self) -> int:
        """Bytes of the disk that are mapped to data. Raises ImageFailed, and what `read_at` and `tick` raise."""
        for start, entry, count in self.runs():
            if entry & COMPRESSED:
                self._take_compressed(entry)
            else:
                self._take_run(entry & _OFFSET, count, start + count * self._unit)
        # The header and the L1 table; the refcount tables do not matter to a reader.
        self._tables.take(0)
        self._tables.take(self._header.l1_table_offset, max(1, -(-8 * self._header.l1_size // self._unit)))
        if self._plain.meets(self._tables):
            raise corrupt("The tables of this qcow2 image map themselves as data of the disk.")
        plain, inflated = self._plain_count * self._unit, self._compressed_count * self._unit
        return check_total(plain, inflated, self._size, self._unit)

    def extents(self, most: int) -> Extents | None:
        """Where the data of the disk is stored; None if some of it is compressed.

        Raises TooManyExtents for more than `most` extents, and what `mapped` raises.
        """
        found = Extents()
        for start, entry, count in self.runs():
            if entry & COMPRESSED:
                return None
            length = min(count * self._unit, self._header.size - start)
            if length > 0:
                found.add(start, length, entry & _OFFSET)
            if len(found) > most:
                raise TooManyExtents(f"more than {most}")
        return found

    def compressed(self) -> Iterator[list[Place]]:
        """Where the compressed clusters of the disk are stored, ascending, in one list per L2 table.

        Each place extends to the end of a sector, so it may include bytes that follow the cluster. Raises ImageFailed,
        and what `read_at` and `tick` raise.
        """
        clusters = -(-self._header.size // self._unit)
        for number, table in self._l2_tables():
            on_disk = table[: max(0, clusters - number * (self._unit // 8))]
            yield sorted(self._place(entry) for entry in on_disk if entry & COMPRESSED)

    def _l2_tables(self) -> Iterator[tuple[int, "array[int]"]]:
        begin, end = self._header.l1_table_offset, self._header.l1_table_offset + 8 * self._header.l1_size
        for place in range(begin, end, _L1_PIECE):
            entries = numbers_in("Q", self._read_at(place, min(_L1_PIECE, end - place)), "big")
            for number, entry in enumerate(entries, (place - begin) // 8):
                offset = entry & _OFFSET
                if offset:
                    self._check_place(offset)
                    self._tables.take(offset)
                    self._tick()
                    raw = self._read_at(offset, self._unit)
                    # Most tables of a large and empty disk are all zeros.
                    if raw.count(0) != len(raw):
                        yield number, numbers_in("Q", raw, "big")

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """Runs of consecutive clusters with data: the disk offset of the first, its entry, and the number of clusters.

        A compressed cluster is a run of its own. Raises ImageFailed, and what `read_at` and `tick` raise.
        """
        unit, entries = self._unit, self._unit // 8
        for number, table in self._l2_tables():
            first = begin = expected = -1
            for place, entry in enumerate(table, number * entries):
                if entry == expected:
                    expected += unit
                    continue
                if begin >= 0:
                    yield first * unit, begin, (expected - begin) // unit
                    begin = expected = -1
                if entry & COMPRESSED:
                    yield place * unit, entry, 1
                elif entry & _READS_AS_ZEROS:
                    self._check_version()
                elif entry & _OFFSET:
                    self._check_place(entry & _OFFSET)
                    first, begin, expected = place, entry, entry + unit
            if begin >= 0:
                yield first * unit, begin, (expected - begin) // unit

    def _check_place(self, offset: int) -> None:
        if offset % self._unit:
            raise corrupt("The tables of this qcow2 image contain offsets that are not at a cluster boundary.")

    def _check_version(self) -> None:
        if self._header.version == 2:
            raise corrupt("The tables of this qcow2 image use a flag that version 2 does not have.")

    def _take_compressed(self, entry: int) -> None:
        offset, length = self._place(entry)
        if offset + length > self._size:
            raise cut_off()
        self._compressed.take(offset)
        self._compressed_count += 1

    def _place(self, entry: int) -> Place:
        """The place of a compressed cluster: its entry holds its offset and the number of further sectors."""
        offset = entry & self._compressed_offset
        more = (entry & ~COMPRESSED & ~COPIED) >> self._sectors_at
        return offset, (1 + more) * _SECTOR - offset % _SECTOR

    def _take_run(self, offset: int, count: int, disk_end: int) -> None:
        """Record consecutive clusters; `disk_end` is where they end on the disk, which may be past the disk's end."""
        # The part of the last cluster past the end of the disk need not be in the file.
        unused = min(max(0, disk_end - self._header.size), self._unit - 1)
        if offset + count * self._unit - unused > self._size:
            raise cut_off()
        self._plain.take(offset, count)
        self._plain_count += count
