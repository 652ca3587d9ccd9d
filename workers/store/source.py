"""Reads an object of the store like a file: by ranges, with a bounded cache, reading ahead for sequential reads.

The cache consists of runs of blocks, each fetched by one request. A run starts small and doubles as long as reading
continues where the last run ended; the next runs are then fetched before they are needed. When the cache is full, the
least recently used run is dropped.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from app.sizes import KIB, MIB

# Fills a buffer with the object's bytes from an offset on. Raises StoreError.
Fetch = Callable[[int, memoryview], None]

BLOCK = 256 * KIB
_LONGEST_RUN = 4 * MIB
_RUNS_AHEAD = 2
# A read of this size or more is a request of its own, and is not cached.
_LARGE = MIB


class _Run:
    """Consecutive blocks: in memory once `fetched` is set, unless `error` is set too.

    `claimed`: a thread fetches it. `entered`: a thread has asked to read it.
    """

    __slots__ = ("buffer", "claimed", "end", "entered", "error", "fetched", "start")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.buffer = memoryview(bytearray(end - start))
        self.fetched = threading.Event()
        self.error: BaseException | None = None
        self.claimed = False
        self.entered = False


class StoredSource:
    """An object of `size` bytes that does not change meanwhile; `fetch` reads it. Safe for several threads.

    It caches about `memory` bytes at most. It is a context manager that frees its threads and memory at the end.
    """

    def __init__(self, fetch: Fetch, size: int, *, memory: int = 32 * MIB) -> None:
        self.size = size
        self._fetch = fetch
        self._memory = memory
        self._longest_run = max(BLOCK, min(_LONGEST_RUN, memory // 8 // BLOCK * BLOCK))
        self._lock = threading.Lock()
        self._by_block: dict[int, _Run] = {}
        self._by_use: OrderedDict[_Run, None] = OrderedDict()
        self._kept = 0
        self._ahead = ThreadPoolExecutor(_RUNS_AHEAD, thread_name_prefix="read-ahead")

    def __enter__(self) -> "StoredSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the threads and the cache; waits for running reads."""
        self._ahead.shutdown(cancel_futures=True)
        with self._lock:
            self._by_block.clear()
            self._by_use.clear()
            self._kept = 0

    def read_at(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on: fewer at the end, none past it. Raises StoreError."""
        length = min(length, max(0, self.size - offset))
        if length >= _LARGE and self.kept(offset, length) is None:
            buffer = bytearray(length)
            self._fetch(offset, memoryview(buffer))
            return bytes(buffer)
        return b"".join(self.pieces(offset, length))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes at `offset`, and with zeros past the end. Raises StoreError."""
        length = min(len(buffer), max(0, self.size - offset))
        if length < len(buffer):
            buffer[length:] = bytes(len(buffer) - length)
        pieces = self.kept(offset, length)
        if pieces is None and length >= _LARGE:
            return self._fetch(offset, buffer[:length])
        place = 0
        for piece in self.pieces(offset, length) if pieces is None else pieces:
            buffer[place : place + len(piece)] = piece
            place += len(piece)

    def kept(self, offset: int, length: int) -> list[memoryview] | None:
        """These bytes if they are in memory, otherwise None; the range must be inside the object."""
        pieces: list[memoryview] = []
        end = offset + length
        with self._lock:
            while offset < end:
                run = self._by_block.get(offset // BLOCK)
                if run is None or run.error is not None or not run.fetched.is_set():
                    return None
                self._use(run)
                pieces.append(run.buffer[offset - run.start : end - run.start])
                offset = run.end
        return pieces

    def pieces(self, offset: int, length: int) -> list[memoryview]:
        """These bytes, in read-only pieces; the range must be inside the object. Raises StoreError."""
        pieces: list[memoryview] = []
        end = offset + length
        while offset < end:
            run = self._run(offset // BLOCK)
            pieces.append(run.buffer[offset - run.start : end - run.start])
            offset = run.end
        return pieces

    def _run(self, block: int) -> _Run:
        """The run with this block: in memory, being fetched, or fetched now. Raises StoreError."""
        with self._lock:
            run = self._by_block.get(block)
            if run is None:
                before = self._by_block.get(block - 1)
                run = self._add(block, 1 if before is None else 2 * (before.end - before.start) // BLOCK)
            self._use(run)
        self._fill(run)
        run.fetched.wait()
        if run.error is not None:
            raise run.error
        return run

    def _use(self, run: _Run) -> None:
        """Record the use of a run; on its first use, read the next runs ahead if reading is sequential."""
        if run in self._by_use:
            self._by_use.move_to_end(run)
        if run.entered:
            return
        run.entered = True
        if self._by_block.get(run.start // BLOCK - 1) is None:
            return
        for _ in range(_RUNS_AHEAD):
            following = self._by_block.get(run.end // BLOCK)
            if following is None:
                if run.end >= self.size:
                    return
                following = self._add(run.end // BLOCK, 2 * (run.end - run.start) // BLOCK)
                self._ahead.submit(self._fill, following)
            run = following

    def _add(self, block: int, count: int) -> _Run:
        """Add a run of up to `count` blocks, not fetched yet, and make room for it."""
        most = max(1, min(count, self._longest_run // BLOCK))
        last = block + 1
        while last < block + most and last not in self._by_block:
            last += 1
        run = _Run(block * BLOCK, min(last * BLOCK, self.size))
        for number in range(block, last):
            self._by_block[number] = run
        self._by_use[run] = None
        self._kept += run.end - run.start
        for oldest in list(self._by_use):
            if self._kept <= self._memory:
                break
            if oldest is not run and oldest.fetched.is_set():
                self._drop(oldest)
        return run

    def _drop(self, run: _Run) -> None:
        if run not in self._by_use:
            return
        del self._by_use[run]
        self._kept -= run.end - run.start
        for number in range(run.start // BLOCK, -(-run.end // BLOCK)):
            if self._by_block.get(number) is run:
                del self._by_block[number]

    def _fill(self, run: _Run) -> None:
        """Fetch a run, unless a thread already does. All waiting threads get its error; later ones fetch it again."""
        with self._lock:
            if run.claimed:
                return
            run.claimed = True
        try:
            self._fetch(run.start, run.buffer)
        except BaseException as error:
            run.error = error
            with self._lock:
                self._drop(run)
        finally:
            run.fetched.set()
