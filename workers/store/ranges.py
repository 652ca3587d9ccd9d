"""A conversion that several workers do together: each streams a range of the disk into the same upload, with part
numbers of its own, and writes down what lies where; who comes last adds header and tables."""

import hashlib
import json
import sys
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from app.lifecycle import DiskFormat
from workers.convert.planning import Subject
from workers.errors import ShareLost
from workers.limits import PartRules
from workers.qcow2.clusters import clusters_of_batch
from workers.qcow2.packing import Packer
from workers.store.streaming import Streamed

# More ranges would leave too few part numbers to each.
_MOST_RANGES = 250


@dataclass(frozen=True, slots=True)
class Shared:
    """What all workers on an image agree on.

    `reference` is that of the open upload. Range `n` of the disk reaches from cluster `cuts[n]` to before
    `cuts[n + 1]`. Sizes are bytes.
    """

    reference: str
    cuts: tuple[int, ...]
    virtual_size: int
    cluster_size: int
    compress: bool
    detected_format: DiskFormat
    warnings: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many ranges there are."""
        return len(self.cuts) - 1

    def numbers(self, index: int, rules: PartRules) -> range:
        """The part numbers of a range; the first part is nobody's."""
        each = (rules.count - 1) // self.count
        return range(2 + index * each, 2 + (index + 1) * each)

    def bytes_of(self, index: int) -> int:
        """How much of the disk a range is."""
        return min(self.cuts[index + 1] * self.cluster_size, self.virtual_size) - self.cuts[index] * self.cluster_size

    def key(self, result_key: str, index: int) -> str:
        """Where it is written down what became of a range."""
        return f"{ranges_prefix(result_key)}{self._digest}-{index}"

    @property
    def _digest(self) -> str:
        # Of two attempts at one image, neither takes the other's ranges for its own.
        return hashlib.sha256(self.reference.encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """For the rows of jobs."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Shared":
        """Read what `as_json` gave."""
        lists = {"cuts": tuple(found["cuts"]), "warnings": tuple(found["warnings"])}
        return cls(**{**found, **lists, "detected_format": DiskFormat(found["detected_format"])})


def ranges_prefix(result_key: str) -> str:
    """With what the keys begin of all that is written down about ranges of a result."""
    return f"{result_key}.range-"


def share_out(packer: Packer, share: int, reference: str, subject: Subject, *, compress: bool) -> Shared:
    """Cut the disk of a source into ranges of about half of `share` bytes of data, to be sent into an open upload."""
    return Shared(
        reference=reference,
        cuts=cut_evenly(packer, max(1, share // 2)),
        virtual_size=subject.virtual_size,
        cluster_size=packer.cluster_size,
        compress=compress,
        detected_format=subject.inspection.format,
        warnings=subject.inspection.warnings,
    )


def cut_evenly(packer: Packer, share: int) -> tuple[int, ...]:
    """Cut a disk where ranges of about `share` bytes of data end, at batches; gives clusters, both ends too."""
    batches = list(packer.batches(0, packer.clusters))
    data = list(accumulate(packer.most_data(first, first + packer.batch) for first in batches))
    count = min(_MOST_RANGES, -(-data[-1] // share)) if data else 1
    places = {bisect_left(data, data[-1] * index // count) + 1 for index in range(1, count)}
    inner = sorted(batches[place] for place in places if place < len(batches))
    return (0, *inner, packer.clusters)


def written_down(streamed: Streamed, clusters: int) -> bytes:
    """What became of a range of so many clusters, to be kept in the store: with a number for each of them."""
    sizes = array("I", bytes(4 * clusters))
    for place, found in streamed.stretches:
        sizes[place : place + len(found)] = found
    head = json.dumps({"length": streamed.length, "parts": streamed.parts}).encode()
    return head + b"\n" + zlib.compress(_little_endian(sizes).tobytes(), 1)


def read_back(body: bytes, clusters: int, cluster_size: int) -> Streamed:
    """What became of a range of so many clusters of `cluster_size` bytes.

    Raises ShareLost when that is not what was written down.
    """
    head, _, packed = body.partition(b"\n")
    try:
        found = json.loads(head)
        inflating = zlib.decompressobj()
        raw = inflating.decompress(packed, 4 * clusters + 1)
        parts = [(int(number), str(etag)) for number, etag in found["parts"]]
        length = int(found["length"])
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise ShareLost("what was written down about a range is damaged") from error
    if len(raw) != 4 * clusters or not inflating.eof:
        raise ShareLost("what was written down about a range is about another one")
    sizes = _little_endian(array("I", raw))
    return Streamed(list(stretches(sizes, clusters_of_batch(cluster_size))), length, parts)


def stretches(sizes: "array[int]", batch: int) -> Iterator[tuple[int, "array[int]"]]:
    """Runs of batches that are not all zeros: where in `sizes` each begins, and its numbers."""
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
