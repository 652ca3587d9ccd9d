"""Splits a conversion among several workers.

Each streams a range of the disk into the same upload, with its own part numbers, and records where its clusters are;
the last one adds header and tables.
"""

import json
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from workers.convert.planning import Subject
from workers.convert.split_plan import SplitPlan
from workers.errors import SplitLost
from workers.qcow2.clusters import clusters_of_batch
from workers.qcow2.packing import Packer
from workers.store.streaming import Streamed

# With more ranges, each would have too few part numbers.
_MOST_RANGES = 250


def split_up(packer: Packer, most: int, reference: str, subject: Subject, *, compress: bool) -> SplitPlan:
    """Split the disk of a source into ranges of about half of `most` bytes of data, to be sent into an open upload."""
    return SplitPlan(
        reference=reference,
        cuts=cut_evenly(packer, max(1, most // 2)),
        virtual_size=subject.virtual_size,
        cluster_size=packer.cluster_size,
        compress=compress,
        detected_format=subject.inspection.format,
        warnings=subject.inspection.warnings,
    )


def cut_evenly(packer: Packer, size: int) -> tuple[int, ...]:
    """Cut a disk at batches into ranges of about `size` bytes of data; return the clusters of cuts and both ends."""
    batches = list(packer.batches(0, packer.clusters))
    data = list(accumulate(packer.most_data(first, first + packer.batch) for first in batches))
    count = min(_MOST_RANGES, -(-data[-1] // size)) if data else 1
    places = {bisect_left(data, data[-1] * index // count) + 1 for index in range(1, count)}
    inner = sorted(batches[place] for place in places if place < len(batches))
    return (0, *inner, packer.clusters)


def encode_record(streamed: Streamed, clusters: int) -> bytes:
    """The record of a streamed range of `clusters` clusters, to be stored: with a number for each cluster."""
    sizes = array("I", bytes(4 * clusters))
    for place, found in streamed.stretches:
        sizes[place : place + len(found)] = found
    head = json.dumps({"length": streamed.length, "parts": streamed.parts}).encode()
    return head + b"\n" + zlib.compress(_little_endian(sizes).tobytes(), 1)


def decode_record(body: bytes, clusters: int, cluster_size: int) -> Streamed:
    """Read the record of a range of `clusters` clusters of `cluster_size` bytes.

    Raises SplitLost if the record is damaged or does not fit the range.
    """
    head, _, packed = body.partition(b"\n")
    try:
        found = json.loads(head)
        inflating = zlib.decompressobj()
        raw = inflating.decompress(packed, 4 * clusters + 1)
        parts = [(int(number), str(etag)) for number, etag in found["parts"]]
        length = int(found["length"])
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise SplitLost("the record of a range is damaged") from error
    if len(raw) != 4 * clusters or not inflating.eof:
        raise SplitLost("the record of a range belongs to a different range")
    sizes = _little_endian(array("I", raw))
    return Streamed(list(stretches(sizes, clusters_of_batch(cluster_size))), length, parts)


def stretches(sizes: "array[int]", batch: int) -> Iterator[tuple[int, "array[int]"]]:
    """Runs of batches that are not all zeros: the index in `sizes` where each begins, and its numbers."""
    begin = end = 0
    for first in range(0, len(sizes), batch):
        if not any(sizes[first : first + batch]):
            continue
        if first > end:
            if end:
                yield begin, sizes[begin:end]
            begin = first
        end = first + batch
    if end:
        yield begin, sizes[begin:end]


def _little_endian(numbers: "array[int]") -> "array[int]":
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
