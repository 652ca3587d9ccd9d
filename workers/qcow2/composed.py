"""Clusters of several kinds in one file: those of another qcow2 that were copied as they are, and new ones.

Source: QEMU, docs/interop/qcow2.txt, "Compressed Clusters Descriptor".
"""

import heapq
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from operator import or_

from workers.qcow2.clusters import COMPRESSED, shared_clusters
from workers.qcow2.metadata import Clusters

_SECTOR = 512


def _numbers() -> "array[int]":
    return array("Q")


@dataclass(frozen=True, slots=True)
class CompressedClusters:
    """Compressed clusters anywhere in a file.

    `numbers` are those of the clusters on the disk, ascending; `entries` are their entries in the L2 tables. Two arrays
    instead of objects, since there can be a million. `zstd`: how they are compressed; otherwise by deflate.
    """

    cluster_size: int
    zstd: bool = False
    numbers: "array[int]" = field(default_factory=_numbers)
    entries: "array[int]" = field(default_factory=_numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.numbers, self.entries, strict=True)

    def add(self, number: int, entry: int) -> None:
        """Append a cluster."""
        self.numbers.append(number)
        self.entries.append(entry)

    def place(self, entry: int) -> tuple[int, int]:
        """Where a cluster is in the file: its begin, and the end of its last sector, in bytes."""
        sectors_at = 62 - (self.cluster_size.bit_length() - 1 - 8)
        begin = entry & (1 << sectors_at) - 1
        more = (entry & COMPRESSED - 1) >> sectors_at
        return begin, (begin // _SECTOR + 1 + more) * _SECTOR

    @property
    def end(self) -> int:
        size = self.cluster_size
        return max((-(-self.place(entry)[1] // size) * size for entry in self.entries), default=0)

    @property
    def size(self) -> int:
        return sum(count for _, count, _ in self.references()) * self.cluster_size

    @property
    def compressed(self) -> bool:
        return self.zstd and len(self.numbers) > 0

    def l2_indices(self) -> list[int]:
        entries = self.cluster_size // 8
        return sorted({number // entries for number in self.numbers})

    def l2_tables(self) -> Iterator["array[int]"]:
        entries = self.cluster_size // 8
        current, table = -1, _numbers()
        for number, entry in self:
            index, slot = divmod(number, entries)
            if index != current:
                if table:
                    yield table
                current, table = index, array("Q", bytes(self.cluster_size))
            table[slot] = entry
        if table:
            yield table

    def references(self) -> Iterator[tuple[int, int, int]]:
        return shared_clusters(sorted(map(self.place, self.entries)), self.cluster_size)


@dataclass(frozen=True, slots=True)
class Composed:
    """Clusters of several kinds. No two of them share a cluster, neither of the disk nor of the file."""

    parts: Sequence[Clusters]

    @property
    def end(self) -> int:
        return max(part.end for part in self.parts)

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)

    @property
    def compressed(self) -> bool:
        return any(part.compressed for part in self.parts)

    def l2_indices(self) -> list[int]:
        return sorted(set(chain.from_iterable(part.l2_indices() for part in self.parts)))

    def l2_tables(self) -> Iterator["array[int]"]:
        coming = [(set(part.l2_indices()), part.l2_tables()) for part in self.parts]
        for index in self.l2_indices():
            yield _combined([next(tables) for indices, tables in coming if index in indices])

    def references(self) -> Iterator[tuple[int, int, int]]:
        return heapq.merge(*(part.references() for part in self.parts))


def _combined(tables: Sequence["array[int]"]) -> "array[int]":
    """One table with the entries of all; each entry is in one of them."""
    if len(tables) == 1:
        return tables[0]
    whole = reduce(or_, (int.from_bytes(table.tobytes(), "little") for table in tables))
    return array("Q", whole.to_bytes(8 * len(tables[0]), "little"))
