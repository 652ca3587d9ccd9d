"""What the tables of a qcow2 map: read once, bounded by the file, before QEMU follows them.

Only the active state counts. Its tables and clusters may be shared with internal snapshots, which are dropped, and
with nothing else. Source: QEMU, docs/interop/qcow2.txt, "Cluster mapping".
"""

import sys
from array import array
from collections.abc import Callable, Iterator

from workers import qcow2
from workers.formats.claims import Places, check_total
from workers.formats.vhdx import ReadAt
from workers.qcow2_data import COMPRESSED

_OFFSET = 0x00FFFFFFFFFFFE00
_ZERO = 1
_L1_PIECE = 1 << 20
# No compressed cluster is shorter: deflate makes at least 1/1032 of it, zstd has a header.
_LEAST_DEFLATED, _LEAST_ZSTD = 4, 8


class Qcow2Tables:
    """The tables of the active state in a file of `size` bytes. `tick` is called now and then, and may raise."""

    def __init__(self, header: qcow2.Header, read_at: ReadAt, size: int, tick: Callable[[], None]) -> None:
        self._header = header
        self._read_at = read_at
        self._size = size
        self._tick = tick
        self._unit = header.cluster_size
        shift = 62 - (header.cluster_bits - 8)
        self._compressed_offset = (1 << shift) - 1
        self._tables = Places(size, self._unit, "table")
        self._plain = Places(size, self._unit, "cluster")
        least = _LEAST_ZSTD if header.compression_type else max(_LEAST_DEFLATED, self._unit >> 11)
        self._compressed = Places(size, least, "compressed cluster")
        self._plain_count = self._compressed_count = 0

    def mapped(self) -> int:
        """How many bytes of the disk are mapped to data. Raises ImageFailed, and what `read_at` and `tick` raise."""
        for table in self._l2_tables():
            self._take(table)
        plain, inflated = self._plain_count * self._unit, self._compressed_count * self._unit
        return check_total(plain, inflated, self._size, self._unit)

    def _l2_tables(self) -> Iterator["array[int]"]:
        begin, end = self._header.l1_table_offset, self._header.l1_table_offset + 8 * self._header.l1_size
        for place in range(begin, end, _L1_PIECE):
            for entry in _numbers(self._read_at(place, min(_L1_PIECE, end - place))):
                offset = entry & _OFFSET
                if offset:
                    self._tables.take(offset)
                    self._tick()
                    raw = self._read_at(offset, self._unit)
                    # Most tables of a large and empty disk hold nothing.
                    if raw.count(0) != len(raw):
                        yield _numbers(raw)

    def _take(self, table: "array[int]") -> None:
        """Note what the entries of an L2 table point at, clusters that follow one another in one step."""
        unit = self._unit
        begin = expected = -1
        for entry in table:
            if entry == expected:
                expected += unit
                continue
            self._take_run(begin, expected)
            begin = expected = -1
            if entry & COMPRESSED:
                self._compressed.take(entry & self._compressed_offset)
                self._compressed_count += 1
            elif entry & _OFFSET and not entry & _ZERO:
                begin, expected = entry, entry + unit
        self._take_run(begin, expected)

    def _take_run(self, begin: int, end: int) -> None:
        count = (end - begin) // self._unit
        if count:
            self._plain.take(begin & _OFFSET, count)
            self._plain_count += count


def _numbers(raw: bytes) -> "array[int]":
    """The 64-bit numbers of a table, as far as it is in the file."""
    numbers = array("Q", raw[: len(raw) // 8 * 8])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers
