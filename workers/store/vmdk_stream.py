"""Reads the disk in a streamOptimized VMDK without qemu: runs of adjacent grains at once, each inflated by its caller.

QEMU reads such a file grain by grain on one core; here several threads may read at the same time. The code reads only
tables of sectors and zlib streams, both with bounds, of files that passed inspection and that QEMU has opened. Source:
VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents", "Stream-Optimized Compressed Sparse Extents".
"""

import struct
import threading
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

from app.errors import ImageFailed
from app.sizes import MIB
from workers.inspection.numbers import numbers_in
from workers.inspection.refusals import corrupt
from workers.qemu.nbd_client import HOLE, ZERO
from workers.store.source import StoredSource

SECTOR = 512
_GD_AT_END = (1 << 64) - 1
_HAS_ZERO_GRAINS, _COMPRESSED, _HAS_MARKERS = 1 << 2, 1 << 16, 1 << 17
_DEFLATE = 1
# magic, version, flags, capacity, grain, descriptor's offset and length, entries per table, both directories
_HEADER = struct.Struct("<4sIIQQQQIQQ")
_ALGORITHM_AT = 77
_FOOTER_FROM_END = 1024
# A grain begins with its place on the disk (sectors) and the length of its compressed data (bytes).
_MARKER = struct.Struct("<QI")
_LARGEST_GRAIN = MIB
_TABLES_KEPT = 256
_TABLES_AT_ONCE = 8


class _Layout(NamedTuple):
    """The fields of the valid header: the footer, if there is one. Sizes and places are bytes."""

    grain: int
    entries: int
    directory_at: int
    zero_grains: bool


class VmdkStream:
    """The disk of `size` bytes in a streamOptimized VMDK, read like with an NbdClient. Safe for several threads.

    Closing it does not close `source`. Raises ImageFailed if the file is damaged, StoreError.
    """

    def __init__(self, source: StoredSource, size: int, layout: _Layout) -> None:
        self.size = size
        self._source = source
        self._layout = layout
        covered = layout.grain * layout.entries
        self._directory = _numbers(source, layout.directory_at, -(-size // covered))
        self._tables: OrderedDict[int, array[int]] = OrderedDict()
        self._lock = threading.Lock()

        self._fetching = ThreadPoolExecutor(_TABLES_AT_ONCE, thread_name_prefix="grain-table")

    def __enter__(self) -> "VmdkStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. May be repeated."""
        self._fetching.shutdown(cancel_futures=True)

    def block_status(self, offset: int, length: int) -> list[tuple[int, int]]:
        """What the disk holds from `offset` on: (bytes, flags), as NbdClient.block_status returns it."""
        merged: list[tuple[int, int]] = []
        end = min(offset + length, self.size)
        for begin, step, flags in self._extents(offset, end):
            extent = min(begin + step, end) - max(begin, offset)
            if extent <= 0:
                continue
            if merged and merged[-1][1] == flags:
                extent += merged.pop()[0]
            merged.append((extent, flags))
        return merged

    def _extents(self, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Place, length and flags of every grain, and of the whole range of every missing table."""
        covered = self._layout.grain * self._layout.entries
        numbers = range(offset // covered, -(-end // covered))
        for first in range(0, len(numbers), _TABLES_AT_ONCE):
            batch = numbers[first : first + _TABLES_AT_ONCE]
            there = [number for number in batch if self._directory[number]]
            tables = dict(zip(there, self._fetching.map(self._table, there), strict=True))
            for number in batch:
                if number not in tables:
                    yield number * covered, covered, HOLE | ZERO
                for index, sector in enumerate(tables.get(number, ())):
                    flags = 0 if self._is_data(sector) else HOLE | ZERO
                    yield number * covered + index * self._layout.grain, self._layout.grain, flags

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of the disk from `offset` on."""
        grain = self._layout.grain
        grains = []
        for begin in range(offset // grain * grain, offset + len(buffer), grain):
            sector = self._sector(begin // grain)
            if self._is_data(sector):
                grains.append((sector * SECTOR, begin))
            else:
                start, stop = max(begin, offset) - offset, min(begin + grain, offset + len(buffer)) - offset
                buffer[start:stop] = bytes(stop - start)
        for run in _runs(sorted(grains), 2 * grain):
            self._inflate_run(run, offset, buffer)

    def _is_data(self, sector: int) -> bool:
        return sector != 0 and not (sector == 1 and self._layout.zero_grains)

    def _sector(self, grain: int) -> int:
        number, index = divmod(grain, self._layout.entries)
        return self._table(number)[index]

    def _table(self, number: int) -> "array[int]":
        """The grain table with this number: the sector in the file of each grain."""
        with self._lock:
            table = self._tables.get(number)
            if table is not None:
                self._tables.move_to_end(number)
                return table
        sector = self._directory[number]
        if sector:
            table = _numbers(self._source, sector * SECTOR, self._layout.entries)
        else:
            table = array("I", bytes(4 * self._layout.entries))
        with self._lock:
            self._tables[number] = table
            if len(self._tables) > _TABLES_KEPT:
                self._tables.popitem(last=False)
        return table

    def _inflate_run(self, run: list[tuple[int, int]], offset: int, buffer: memoryview) -> None:
        """Read and inflate a run of adjacent grains in the file, each (offset in the file, offset on the disk)."""
        grain = self._layout.grain
        first = run[0][0]
        length = min(run[-1][0] + 2 * grain, self._source.size) - first
        data = memoryview(b"".join(self._source.pieces(first, max(0, length))))
        for place, begin in run:
            content = _inflated(data[place - first :], min(grain, self.size - begin), grain)
            start = max(begin, offset)
            stop = min(begin + grain, offset + len(buffer))
            buffer[start - offset : stop - offset] = content[start - begin : stop - begin]


def open_stream(source: StoredSource, size: int) -> VmdkStream | None:
    """The disk of `size` bytes in a source that passed inspection; None if it can't be read this way.

    Raises ImageFailed if its tables are outside the file, StoreError.
    """
    header = source.read_at(0, SECTOR)
    if len(header) == SECTOR and _HEADER.unpack_from(header)[9] == _GD_AT_END:
        header = source.read_at(source.size - _FOOTER_FROM_END, SECTOR)
    if len(header) < SECTOR or not header.startswith(b"KDMV"):
        return None
    _, _, flags, capacity, grain, _, _, entries, _, directory = _HEADER.unpack_from(header)
    algorithm = int.from_bytes(header[_ALGORITHM_AT : _ALGORITHM_AT + 2], "little")
    if algorithm != _DEFLATE or not flags & _COMPRESSED or not flags & _HAS_MARKERS or capacity * SECTOR != size:
        return None
    if not 8 <= grain <= _LARGEST_GRAIN // SECTOR or grain & (grain - 1) or not 0 < entries <= 512:
        return None
    zero_grains = bool(flags & _HAS_ZERO_GRAINS)
    return VmdkStream(source, size, _Layout(grain * SECTOR, entries, directory * SECTOR, zero_grains))


def _numbers(source: StoredSource, place: int, count: int) -> "array[int]":
    """`count` 32-bit numbers at `place` in the source. Raises ImageFailed if the source ends before."""
    raw = source.read_at(place, 4 * count)
    if len(raw) < 4 * count:
        raise _damaged()
    return numbers_in("I", raw, "little")


def _runs(grains: list[tuple[int, int]], gap: int) -> Iterator[list[tuple[int, int]]]:
    """Split a sorted list where two grains are more than `gap` bytes apart in the file."""
    run: list[tuple[int, int]] = []
    for grain in grains:
        if run and grain[0] - run[-1][0] > gap:
            yield run
            run = []
        run.append(grain)
    if run:
        yield run


def _inflated(data: memoryview, least: int, grain: int) -> bytes:
    """The inflated grain whose marker begins `data`: at least `least` and at most `grain` bytes. Raises ImageFailed."""
    if len(data) < _MARKER.size:
        raise _damaged()
    _, length = _MARKER.unpack_from(data)
    if not 0 < length <= 2 * grain - _MARKER.size or length > len(data) - _MARKER.size:
        raise _damaged()
    inflating = zlib.decompressobj()
    try:
        # With room for one byte more, this reaches the end of the stream, or reveals that it is too long.
        content = inflating.decompress(data[_MARKER.size : _MARKER.size + length], grain + 1)
    except zlib.error as error:
        raise _damaged() from error
    if not inflating.eof or not least <= len(content) <= grain:
        raise _damaged()
    return content


def _damaged() -> ImageFailed:
    return corrupt("This image can't be read: it is damaged or cut off.")
