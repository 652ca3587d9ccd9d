"""Sends the data of a disk into a multipart upload: reads, packs and sends at the same time, a few parts at once.

Parts are in the order of the disk. The memory it takes depends only on the part rules: if parts have to be larger than
a worker may hold, a part is only measured at first, and packed a second time while it is sent.
"""

import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from app.adapters.s3.bucket import Bucket
from workers.errors import Cancelled
from workers.limits import PartRules
from workers.qcow2.packing import Packed, Packer, packed_ahead

_PACKING, _SENDING = 2, 3

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Target:
    """An open multipart upload, and the part numbers to use."""

    bucket: Bucket
    key: str
    reference: str
    numbers: range


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed range of a disk: the sizes of its clusters (see PackedRange), and where its data is.

    `stretches` are runs of batches that are not all zeros: the cluster in the range where each begins, and the sizes of
    its clusters. `length` bytes of data, a multiple of the cluster size, are in `parts`, each (number, ETag); or in
    `rest`, if they are too few for a part.
    """

    stretches: "list[tuple[int, array[int]]]"
    length: int
    parts: list[tuple[int, str]]
    rest: bytes = b""

    @property
    def stored_size(self) -> int:
        """The total size of all clusters, in bytes."""
        return sum(sum(sizes) for _, sizes in self.stretches)


@dataclass(slots=True)
class _Part:
    """A part that is being filled. `begin` is its offset in the data of its range, in bytes."""

    begin: int
    kept: bool
    batches: list[int] = field(default_factory=list)
    packed: list[Packed] = field(default_factory=list)
    length: int = 0
    padding: int = 0


class Streaming:
    """Streams ranges of one disk. `progress` is called with the bytes of the disk done in a range."""

    def __init__(
        self,
        packer: Packer,
        rules: PartRules,
        cancelled: threading.Event,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._packer = packer
        self._rules = rules
        self._cancelled = cancelled
        self._progress = progress

    def stream(
        self, first: int, last: int, target: Target, require_room: Callable[[int], None] = lambda _: None
    ) -> Streamed:
        """Send the clusters from `first` up to, not including, `last`: batch boundaries, or the disk's end for `last`.

        `require_room` is called with the bytes that they take so far, and may raise. Raises Cancelled, StoreError, and
        what the disk's `read_into` raises.
        """
        return _Run(self._packer, self._rules, self._cancelled, self._progress, target, require_room).run(first, last)


class _Run:
    """The streaming of one range."""

    def __init__(
        self,
        packer: Packer,
        rules: PartRules,
        cancelled: threading.Event,
        progress: Callable[[int], None],
        target: Target,
        require_room: Callable[[int], None],
    ) -> None:
        self.packer = packer
        self.rules = rules
        self.cancelled = cancelled
        self.progress = progress
        self.target = target
        self.require_room = require_room
        self.sending: deque[tuple[int, _Part, Future[str]]] = deque()
        self.sent: list[tuple[int, str]] = []
        self.failed = threading.Event()

    def run(self, first: int, last: int) -> Streamed:
        packer, rules = self.packer, self.rules
        most = packer.most_data(first, last)
        self.longest = rules.sent_for(most, len(self.target.numbers), packer.batch * packer.cluster_size)
        with ThreadPoolExecutor(_PACKING, "packing") as packing, ThreadPoolExecutor(_SENDING, "sending") as sending:
            try:
                return self._run(packing, sending, first, last)
            except BaseException:
                self.failed.set()
                packing.shutdown(wait=False, cancel_futures=True)
                sending.shutdown(wait=False, cancel_futures=True)
                raise

    def _run(self, packing: ThreadPoolExecutor, sending: ThreadPoolExecutor, first: int, last: int) -> Streamed:
        stretches: list[tuple[int, array[int]]] = []
        part = self._begun(0)
        for batch, packed in packed_ahead(packing, self._pack, self.packer.batches(first, last), _PACKING):
            self._report_done(first, batch + len(packed.sizes))
            self._stop_if_cancelled()
            if not packed.length:
                continue
            _add(stretches, batch - first, packed.sizes)
            if part.length + self._growth(part, packed) > self.longest and part.length >= self.rules.least:
                self._send(sending, part)
                part = self._begun(part.begin + part.length)
            self._add(part, batch, packed)
            self.require_room(part.begin + part.length)
        self._report_done(first, last)
        # Nothing follows the end of the disk, so the last part may be short.
        final = last == self.packer.clusters
        rest = self._end(sending, part, final=final, alone=final and not first)
        while self.sending:
            self._wait_for_oldest()
        return Streamed(stretches, part.begin + part.length, self.sent, rest)

    def _begun(self, begin: int) -> _Part:
        return _Part(begin, self.longest <= self.rules.kept)

    def _report_done(self, first: int, done: int) -> None:
        size = self.packer.cluster_size
        self.progress(min(done * size, self.packer.disk.size) - first * size)

    def _pack(self, batch: int) -> Packed:
        self._stop_if_cancelled()
        return self.packer.pack(batch)

    def _stop_if_cancelled(self) -> None:
        if self.cancelled.is_set() or self.failed.is_set():
            raise Cancelled("while streaming")

    def _growth(self, part: _Part, packed: Packed) -> int:
        return self._gap(part.begin + part.length, packed) + packed.length

    def _gap(self, place: int, packed: Packed) -> int:
        """Padding bytes before a batch, so that its plain clusters begin at a cluster of the file."""
        return -place % self.packer.cluster_size if packed.plain else 0

    def _add(self, part: _Part, batch: int, packed: Packed) -> None:
        part.batches.append(batch)
        part.length += self._growth(part, packed)
        if part.kept:
            part.packed.append(packed)
        else:
            self.packer.release(packed)

    def _end(self, sending: ThreadPoolExecutor, part: _Part, *, final: bool, alone: bool) -> bytes:
        """Pad the last cluster, and the last part if it is too short; return a single short part, do not send it."""
        part.padding = -(part.begin + part.length) % self.packer.cluster_size
        if not part.length:
            return b""
        part.length += part.padding
        if alone and not part.begin and part.length <= self.rules.least:
            return b"".join(self._body(part))
        if not final and part.length < self.rules.least:
            more = -(-(self.rules.least - part.length) // self.packer.cluster_size) * self.packer.cluster_size
            part.padding += more
            part.length += more
        self._send(sending, part)
        return b""

    def _send(self, sending: ThreadPoolExecutor, part: _Part) -> None:
        if len(self.sending) >= _SENDING:
            self._wait_for_oldest()
        number = self.target.numbers[len(self.sent) + len(self.sending)]
        self.sending.append((number, part, sending.submit(self._put, number, part)))

    def _wait_for_oldest(self) -> None:
        number, part, put = self.sending.popleft()
        self.sent.append((number, put.result()))
        for packed in part.packed:
            self.packer.release(packed)

    def _put(self, number: int, part: _Part) -> str:
        target = self.target
        return target.bucket.put_part(target.key, target.reference, number, lambda: self._body(part), part.length)

    def _body(self, part: _Part) -> Iterator[Piece]:
        """The bytes of a part; if the part is not held in memory, pack its batches again, one by one."""
        place = part.begin
        for packed in part.packed if part.kept else map(self._pack, part.batches):
            gap = self._gap(place, packed)
            place += gap + packed.length
            yield bytes(gap)
            yield packed.plain
            yield from packed.compressed
            if not part.kept:
                self.packer.release(packed)
        yield bytes(part.padding)


def _add(stretches: "list[tuple[int, array[int]]]", place: int, sizes: "array[int]") -> None:
    """Append a batch; if it follows the last stretch directly, extend that."""
    if stretches and stretches[-1][0] + len(stretches[-1][1]) == place:
        stretches[-1][1].extend(sizes)
    else:
        stretches.append((place, sizes[:]))
