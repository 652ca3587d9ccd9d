"""Checks that the compressed clusters of a qcow2 can be read, if they were kept unchanged.

QEMU inflates a cluster when a guest reads it, so damage would show only then. By QEMU's rule, a cluster is valid if its
inflated data fills it; the bytes that follow in the file do not matter (block/qcow2-threads.c, qcow2_zlib_decompress
and qcow2_zstd_decompress).
"""

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain

import zstandard

from app.sizes import KIB, MIB
from workers.errors import UnsoundResult
from workers.inspection.qcow2_tables import Place, Qcow2Tables
from workers.inspection.vhdx import ReadAt
from workers.qcow2 import metadata

_MOST_THREADS = 4
# The largest read of the file, and the largest gap between two clusters within it, in bytes.
_RUN, _GAP = 2 * MIB, 64 * KIB

Inflate = Callable[[memoryview, int], bytes]


def inflate_all(header: metadata.Header, read_at: ReadAt, size: int, report_done: Callable[[int], None]) -> None:
    """Inflate every compressed cluster of the disk in a file of `size` bytes, on up to four cores.

    `report_done` is called with the number of bytes of the file that are done, and may raise. Raises UnsoundResult if a
    cluster can't be read, ImageFailed if the tables can't, and what `read_at` and `report_done` raise.
    """
    inflate = _inflated_by_zstd if header.compression_type == metadata.ZSTD else _inflated_by_zlib
    done = 0

    def check(run: Sequence[Place]) -> int:
        begin, end = run[0][0], _end(run)
        raw = memoryview(read_at(begin, end - begin))
        for place, length in run:
            if len(inflate(raw[place - begin :][:length], header.cluster_size)) != header.cluster_size:
                raise UnsoundResult(f"the compressed cluster at {place} can't be read")
        return end - begin

    tables = Qcow2Tables(header, read_at, size, lambda: report_done(done))
    for length in _side_by_side(check, chain.from_iterable(map(_runs, tables.compressed()))):
        # Two runs may share a sector.
        done = min(done + length, size)
        report_done(done)


def _runs(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Group ascending places into lists that are each read at once."""
    run: list[Place] = []
    for place, length in places:
        if run and (place > _end(run) + _GAP or place + length > run[0][0] + _RUN):
            yield run
            run = []
        run.append((place, length))
    if run:
        yield run


def _end(run: Sequence[Place]) -> int:
    place, length = run[-1]
    return place + length


def _side_by_side(check: Callable[[Sequence[Place]], int], runs: Iterable[Sequence[Place]]) -> Iterator[int]:
    """The results, in order; reads ahead only as far as it takes to keep the threads busy."""
    threads = min(_MOST_THREADS, os.cpu_count() or 1)
    waiting: deque[Future[int]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="inflate")
    try:
        for run in runs:
            waiting.append(pool.submit(check, run))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _inflated_by_zlib(data: memoryview, most: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)
    except zlib.error:
        return b""


def _inflated_by_zstd(data: memoryview, most: int) -> bytes:
    """Reads up to one byte more than `most`, which reveals a frame that is too long."""

    try:
        return zstandard.ZstdDecompressor().stream_reader(data).read(most + 1)
    except zstandard.ZstdError:
        return b""
