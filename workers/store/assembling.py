"""Assembles a result in the store: parts that the store copies, parts that are sent, and the first part last.

The first part contains header and tables, which are known only once all data has its place.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from app.adapters.s3.bucket import Bucket
from app.errors import ObjectMissing, StoreError, UploadClosed
from app.lifecycle import ImagePhase
from app.sizes import MIB
from workers.convert.examination import Progress
from workers.convert.planning import KeepPlan
from workers.inspection.refusals import check_stored_size
from workers.limits import Limits, PartRules
from workers.qcow2 import metadata
from workers.qcow2.clusters import PackedClusters, PackedRange, batches_of
from workers.qcow2.packing import ReadInto
from workers.store.parts import Piece, Reference, cut
from workers.store.streaming import Streamed

FIRST = 1
_COPYING = 4
_ZEROS = bytes(MIB)

Body = Callable[[], Iterable[bytes | memoryview]]


@dataclass(frozen=True, slots=True)
class Stored:
    """An assembled result: the size of its clusters in use, and its length, in bytes."""

    stored_size: int
    file_size: int


@dataclass(frozen=True, slots=True)
class StoredObject:
    """A source: its key, its length in bytes, and a function that reads it."""

    key: str
    size: int
    read_into: ReadInto


@contextmanager
def assembling(bucket: Bucket, key: str, progress: Progress) -> Iterator["Assembly"]:
    """Open a multipart upload of `key`; it is aborted if the block fails. Raises StoreError."""
    reference = bucket.open_multipart(key)
    try:
        yield Assembly(bucket, key, reference, progress)
    except BaseException:
        # If this fails too, the next attempt aborts the upload.
        with suppress(StoreError):
            bucket.abort(key, reference)
        raise


@dataclass(frozen=True, slots=True)
class Assembly:
    """An open multipart upload that becomes a result. Its methods raise StoreError and Cancelled."""

    bucket: Bucket
    key: str
    reference: str
    progress: Progress

    def numbers(self, rules: PartRules) -> range:
        """The part numbers after the first."""
        return range(FIRST + 1, rules.count + 1)

    def by_reference(self, source: StoredObject, plan: Reference) -> Stored:
        """Let the store copy the data; only relocated data passes through the worker."""
        layout = plan.layout
        relocated = bytearray()
        for moved in plan.relocations:
            room = bytearray(-(-moved.length // layout.cluster_size) * layout.cluster_size)
            source.read_into(moved.source, memoryview(room)[: moved.length])
            relocated += room
        parts = self._copy(source, plan.pieces)
        stored = Stored(layout.stored_size, plan.file_size)
        self.complete(front_body(layout, plan.front, relocated), plan.front, parts, stored)
        return stored

    def keeping(self, source: StoredObject, plan: KeepPlan, rules: PartRules) -> Stored:
        """Assemble the same image with a new header: send its first part, and let the store copy the rest."""
        end = min(plan.stored_size, source.size)
        head = bytearray(min(end, rules.least))
        source.read_into(0, memoryview(head))
        head[: len(plan.header)] = plan.header
        parts = self._copy(source, cut(len(head), end, rules))
        stored = Stored(plan.stored_size, end)
        self.complete(lambda: [memoryview(head)], len(head), parts, stored)
        return stored

    def packed(
        self, virtual_size: int, cluster_size: int, ranges: Sequence[tuple[int, Streamed]], limits: Limits
    ) -> Stored:
        """Add header and tables to streamed ranges of the disk, each with its first cluster, ascending.

        Raises TablesTooLarge; ImageFailed if the result exceeds the room for it.
        """
        parts = [part for _, streamed in ranges for part in streamed.parts]
        rest = b"".join(streamed.rest for _, streamed in ranges)
        length = sum(streamed.length for _, streamed in ranges)
        tables = metadata.tables_touched(placed(ranges, cluster_size, 0), cluster_size)
        least = limits.parts.least if parts else 0
        front = metadata.front_size(virtual_size, cluster_size, tables, 0, length, least)
        clusters = placed(ranges, cluster_size, front)
        layout = metadata.lay_out(virtual_size, cluster_size, clusters, cluster_size)
        check_stored_size(layout.stored_size, limits.max_stored_size)
        stored = Stored(layout.stored_size, front + length)
        self.complete(front_body(layout, front + len(rest), rest), front + len(rest), parts, stored)
        return stored

    def _copy(self, source: StoredObject, pieces: Sequence[Piece]) -> list[tuple[int, str]]:
        """Let the store copy pieces of the source into parts, several at a time."""
        report_done = self.progress.of(ImagePhase.CONVERTING, sum(piece.length for piece in pieces))
        parts: list[tuple[int, str]] = []
        done = 0
        with self.copying(source.key, pieces) as copied:
            for piece, part in zip(pieces, copied, strict=True):
                parts.append(part)
                done += piece.length
                report_done(done)
        return parts

    @contextmanager
    def copying(
        self, source_key: str, pieces: Sequence[Piece], copied: Callable[[int], None] = lambda _: None
    ) -> Iterator[Iterator[tuple[int, str]]]:
        """Let the store copy pieces of an object into the parts after the first, several at a time, during the block.

        Yields an iterator that waits for each part, in order, and returns its number and ETag. `copied` is called in
        any thread with the length of each. When the block has ended, no copy is running.
        """

        def copy(number: int, piece: Piece) -> tuple[int, str]:
            self.progress.check()
            etag = self.bucket.copy_part(self.key, self.reference, number, source_key, piece.offset, piece.length)
            copied(piece.length)
            return number, etag

        with ThreadPoolExecutor(_COPYING, "copying") as pool:
            copies = [pool.submit(copy, number, piece) for number, piece in enumerate(pieces, FIRST + 1)]
            try:
                yield (one.result() for one in copies)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def complete(self, body: Body, length: int, parts: Sequence[tuple[int, str]], stored: Stored) -> None:
        """Send the first part and complete the upload. May be repeated."""
        report_done = self.progress.of(ImagePhase.STORING, length)
        try:
            first = self.bucket.put_part(self.key, self.reference, FIRST, body, length)
            report_done(length)
            self.bucket.complete(self.key, self.reference, [(FIRST, first), *parts])
        except UploadClosed:
            # An earlier attempt completed the same result from the same source; it will still be verified.
            if not self._is_there(stored):
                raise

    def _is_there(self, stored: Stored) -> bool:
        try:
            return self.bucket.size(self.key) == stored.file_size
        except ObjectMissing:
            return False


def placed(ranges: Sequence[tuple[int, Streamed]], cluster_size: int, begin: int) -> PackedClusters:
    """Place ranges one after the other in the file, from `begin` on."""
    found: list[PackedRange] = []
    for first, streamed in ranges:
        place = begin
        for index, sizes in streamed.stretches:
            found.append(PackedRange(first + index, sizes, place))
            place = max(batch.end for batch in batches_of(found[-1], cluster_size))
        begin += streamed.length
    return PackedClusters(found, cluster_size, begin)


def front_body(layout: metadata.Layout, length: int, behind: bytes | bytearray) -> Body:
    """The first part: header, tables, zeros as padding, and `behind` at its end."""

    def body() -> Iterator[bytes | memoryview]:
        yield layout.header().ljust(layout.cluster_size, b"\0")
        yield from layout.tables()
        gap = length - layout.cluster_size - layout.tables_size - len(behind)
        for done in range(0, gap, len(_ZEROS)):
            yield memoryview(_ZEROS)[: gap - done]
        yield memoryview(behind)

    return body
