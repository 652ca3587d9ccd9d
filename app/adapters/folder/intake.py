"""Receives a part's body: collects chunks from the network, and writes them to the file in a thread."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from app.adapters.folder.addresses import PartAddress
from app.errors import InvalidInput, TooLarge
from app.ports import HEAD_BYTES
from app.sizes import MIB, exactly

# Written in a thread: on a disk that is slow or busy with a commit, a write takes long, and would block the event loop.
# Batches amortize the cost of changing threads. Collecting the next batch during a write was tried and gained nothing:
# the kernel's buffer fills anyway.
BATCH_BYTES = 2 * MIB

# After this time, the bytes of a slow client are written and reported before a batch is full.
_LONGEST_WAIT_SECONDS = 0.5

# Appends chunks to a part; with `last`, the part is complete.
Write = Callable[[Sequence[bytes], bool], Awaitable[None]]
Written = Callable[[int], Awaitable[None]]


class PartIntake:
    """Collects the chunks of one part, and writes them in batches."""

    def __init__(self, part: PartAddress, write: Write, written: Written) -> None:
        """`write` appends chunks to the part; `written` is then called with their number of bytes."""
        self._part = part
        self._write = write
        self._written = written
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._limit = HEAD_BYTES  # the first batch is the head
        self._flushed_at = 0.0

    async def take_all(self, body: AsyncIterator[bytes]) -> None:
        """Write the whole body. Raises InvalidInput when it is too short, TooLarge when it is too long."""
        received = 0
        self._flushed_at = _now()
        async for chunk in body:
            received += len(chunk)
            if received > self._part.length:
                raise TooLarge(f"The body is longer than the part, which has {exactly(self._part.length)}.")
            self._batch.append(chunk)
            self._batch_bytes += len(chunk)
            if self._batch_bytes >= self._limit or _now() - self._flushed_at > _LONGEST_WAIT_SECONDS:
                await self._flush()
        if received < self._part.length:
            raise InvalidInput(f"The part has {exactly(self._part.length)}, but the body has only {exactly(received)}.")
        await self._flush(last=True)

    async def _flush(self, *, last: bool = False) -> None:
        batch, count = self._batch, self._batch_bytes
        self._batch, self._batch_bytes = [], 0
        await self._write(batch, last)
        self._limit = BATCH_BYTES
        self._flushed_at = _now()
        await self._written(count)


def _now() -> float:
    return asyncio.get_running_loop().time()
