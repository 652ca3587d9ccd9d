"""Reads the disk of an image from qemu-nbd: which parts hold data, and those parts, with several reads at a time.

Source: doc/proto.md of the NBD project, with structured replies and the context base:allocation. The peer parses a
hostile image that may control it, so no length that it sends is trusted.
"""

import socket
import struct
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType

from app.sizes import GIB, KIB, MIB, counted
from workers.errors import QemuFailed, QemuRefused
from workers.qemu import nbd_protocol as nbd
from workers.qemu.nbd_protocol import BASE_ALLOCATION, Misbehaviour, receive, receive_into

# The largest request, in bytes: large enough that its overhead does not matter, small enough to have several.
READ_SIZE = 2 * MIB
IN_FLIGHT = 4

HOLE, ZERO = nbd.HOLE, nbd.ZERO

_LONGEST_REPLY = 4 * KIB
_MOST_REPLIES = 64
# The largest range of one block status request, and the longest reply to it, in bytes.
_STATUS_SPAN = 2 * GIB
_LONGEST_STATUS = 4 * MIB
# The requests for the block status of small ranges that are open at a time.
_STATUS_AHEAD = 64
_SECTOR = 512
_EXTENT = struct.Struct(">II")


class NbdClient:
    """One connection to the export called `export`; `size` is the size of the disk, in bytes. For one thread at a time.

    `context` is what `block_status` reports: base:allocation, or another context of the server. Raises QemuRefused if
    the server can't read the requested bytes, QemuFailed if it is gone or violates the protocol. After an error the
    connection can't be used.
    """

    def __init__(self, connection: socket.socket, export: str = "", context: bytes = BASE_ALLOCATION) -> None:
        self._connection = connection
        self._handle = 0
        try:
            self.size = _negotiate(connection, export.encode(), context)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError | Misbehaviour | struct.error):
                raise QemuFailed(f"the handshake with qemu-nbd failed: {error}") from error
            raise

    def __enter__(self) -> "NbdClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. May be repeated."""
        self._connection.close()

    def block_status(self, offset: int, length: int, within: int | None = None) -> list[tuple[int, int]]:
        """What the disk holds from `offset` on: consecutive (bytes, flags), neighbours with equal flags merged.

        In base:allocation, a range with the flag ZERO reads as zeros, with HOLE it has no storage; a range without
        flags is data. No request crosses a multiple of `within` bytes; then many are open at a time.
        """
        merged: list[tuple[int, int]] = []
        try:
            for extent, flags in self._statuses(_cut(offset, length, within), 1 if within is None else _STATUS_AHEAD):
                if merged and merged[-1][1] == flags:
                    merged[-1] = (merged[-1][0] + extent, flags)
                elif extent:
                    merged.append((extent, flags))
        except (OSError, Misbehaviour, struct.error) as error:
            raise self._failed(error) from error
        return merged

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes of the disk from `offset` on."""
        places = range(0, len(buffer), READ_SIZE)
        for _ in self.read_many((offset + place, buffer[place : place + READ_SIZE]) for place in places):
            pass

    def read_many(
        self, reads: Iterable[tuple[int, memoryview]], in_flight: int = IN_FLIGHT
    ) -> Generator[tuple[int, memoryview], None, None]:
        """Fill many buffers, each from its offset; yield each pair, in order, once its buffer is filled.

        `in_flight` requests are open at a time, so that the server works on some while the caller processes others. A
        buffer has at most 32 MiB, and must not be touched until it is yielded. Stopping early closes the connection.
        """
        waiting: deque[int] = deque()
        asked: dict[int, tuple[int, memoryview]] = {}
        filled: dict[int, tuple[int, memoryview]] = {}
        todo = iter(reads)
        try:
            while True:
                while len(waiting) < in_flight and (read := next(todo, None)) is not None:
                    handle = self._ask(nbd.CMD_READ, read[0], len(read[1]), nbd.DONT_FRAGMENT)
                    asked[handle] = read
                    waiting.append(handle)
                if not waiting:
                    return
                while waiting[0] not in filled:
                    handle = self._fill_one(asked)
                    filled[handle] = asked.pop(handle)
                yield filled.pop(waiting.popleft())
        except (OSError, Misbehaviour, struct.error) as error:
            raise self._failed(error) from error
        finally:
            if waiting:
                self.close()

    def _ask(self, kind: int, offset: int, length: int, flags: int = 0) -> int:
        self._handle += 1
        self._connection.sendall(nbd.REQUEST.pack(nbd.REQUEST_MAGIC, flags, kind, self._handle, offset, length))
        return self._handle

    def _chunk(self) -> tuple[int, int, int, int]:
        """Receive the type, flags, handle and length of the next chunk, without its payload."""
        magic, flags, kind, handle, length = nbd.CHUNK.unpack(receive(self._connection, nbd.CHUNK.size))
        if magic != nbd.CHUNK_MAGIC:
            raise Misbehaviour("not a structured reply")
        return kind, flags, handle, length

    def _fill_one(self, asked: dict[int, tuple[int, memoryview]]) -> int:
        """Receive the reply to one of the reads; return its handle."""
        kind, flags, handle, length = self._chunk()
        if handle not in asked:
            raise Misbehaviour("a reply to no request")
        offset, buffer = asked[handle]
        self._raise_error(kind, length, f"{counted(len(buffer), 'byte')} at {offset}")
        if kind == nbd.CHUNK_DATA and length == 8 + len(buffer):
            place = int.from_bytes(receive(self._connection, 8), "big")
            receive_into(self._connection, buffer)
        elif kind == nbd.CHUNK_HOLE and length == 12:
            place, hole = struct.unpack(">QI", receive(self._connection, 12))
            if hole != len(buffer):
                raise Misbehaviour(f"a hole of {counted(hole, 'byte')}, for a read of {len(buffer):,}")
            buffer[:] = bytes(hole)
        else:
            raise Misbehaviour(f"a chunk of type {kind} and {counted(length, 'byte')}, for a read of {len(buffer):,}")
        if place != offset:
            raise Misbehaviour(f"data at {place}, for a read at {offset}")
        if not flags & nbd.CHUNK_DONE:
            self._finish(handle)
        return handle

    def _finish(self, handle: int) -> None:
        """Receive the chunk that ends a reply not marked as done: an empty chunk, or an error."""
        kind, flags, other, length = self._chunk()
        self._raise_error(kind, length, "the bytes already sent")
        if (kind, length, other) != (nbd.CHUNK_NONE, 0, handle) or not flags & nbd.CHUNK_DONE:
            raise Misbehaviour("more than was requested")

    def _raise_error(self, kind: int, length: int, asked: str) -> None:
        if not kind & nbd.CHUNK_ERROR:
            return
        if not 6 <= length <= _LONGEST_REPLY:
            raise Misbehaviour(f"an error of invalid length: {counted(length, 'byte')}")
        payload = receive(self._connection, length)
        said = payload[6 : 6 + int.from_bytes(payload[4:6], "big")].decode("utf-8", "replace")
        raise QemuRefused("nbd", int.from_bytes(payload[:4], "big"), f"{asked} can't be read: {said}")

    def _statuses(self, ranges: Iterator[tuple[int, int]], in_flight: int) -> Iterator[tuple[int, int]]:
        """The extents of ranges, in order; `in_flight` requests are open at a time."""
        waiting: deque[int] = deque()
        asked: dict[int, tuple[int, int]] = {}
        answers: dict[int, Sequence[tuple[int, int]]] = {}
        while True:
            if len(waiting) <= in_flight // 2:
                handles = self._ask_statuses(list(islice(ranges, in_flight - len(waiting))), asked)
                waiting.extend(handles)
            if not waiting:
                return
            while waiting[0] not in answers:
                handle, answer = self._status_answer(asked)
                answers[handle] = answer
            handle = waiting.popleft()
            offset, left = asked.pop(handle)
            for extent, flags in answers.pop(handle):
                extent = min(extent, left)
                offset, left = offset + extent, left - extent
                yield extent, flags
            if left:
                waiting.extendleft(self._ask_statuses([(offset, left)], asked))

    def _ask_statuses(self, ranges: Sequence[tuple[int, int]], asked: dict[int, tuple[int, int]]) -> Sequence[int]:
        handles = range(self._handle + 1, self._handle + 1 + len(ranges))
        self._handle += len(ranges)
        asked.update(zip(handles, ranges, strict=True))
        requests = (
            nbd.REQUEST.pack(nbd.REQUEST_MAGIC, 0, nbd.CMD_BLOCK_STATUS, handle, offset, length)
            for handle, (offset, length) in zip(handles, ranges, strict=True)
        )
        self._connection.sendall(b"".join(requests))
        return handles

    def _status_answer(self, asked: dict[int, tuple[int, int]]) -> tuple[int, Sequence[tuple[int, int]]]:
        """Receive the reply to one of the requests: its handle, and the extents."""
        kind, flags, handle, length = self._chunk()
        if handle not in asked:
            raise Misbehaviour("a reply to no request")
        offset, span = asked[handle]
        self._raise_error(kind, length, f"the block status at {offset}")
        longest = min(_LONGEST_STATUS, 4 + 8 * (1 + span // _SECTOR))
        if kind != nbd.CHUNK_BLOCK_STATUS or length % 8 != 4 or not 12 <= length <= longest:
            raise Misbehaviour(f"a chunk of type {kind} and {counted(length, 'byte')}, for a block status")
        payload = receive(self._connection, length)
        if not flags & nbd.CHUNK_DONE:
            self._finish(handle)
        extents = list(_EXTENT.iter_unpack(memoryview(payload)[4:]))
        if not all(extent for extent, _ in extents):
            raise Misbehaviour("an empty extent")
        return handle, extents

    def _failed(self, error: Exception) -> QemuFailed:
        self.close()
        return QemuFailed(f"qemu-nbd: {error}")


def _cut(offset: int, length: int, within: int | None) -> Iterator[tuple[int, int]]:
    """Divide a range into requests: offsets and lengths, in bytes."""
    end = offset + length
    while offset < end:
        most = _STATUS_SPAN if within is None else within - offset % within
        span = min(end - offset, most)
        yield offset, span
        offset += span


def _negotiate(connection: socket.socket, export: bytes, context: bytes) -> int:
    """Negotiate structured replies and one context of the block status; return the size of the export, in bytes."""
    magic, option_magic, flags = nbd.GREETING.unpack(receive(connection, nbd.GREETING.size))
    if (magic, option_magic) != (nbd.NBD_MAGIC, nbd.OPTION_MAGIC) or not flags & nbd.FIXED_NEWSTYLE:
        raise Misbehaviour("not a fixed newstyle server")
    connection.sendall((flags & (nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES)).to_bytes(4, "big"))
    _agree(connection, nbd.OPT_STRUCTURED_REPLY, b"")
    name = struct.pack(">I", len(export)) + export
    query = name + struct.pack(">II", 1, len(context)) + context
    contexts = _agree(connection, nbd.OPT_SET_META_CONTEXT, query)
    if [payload[4:] for kind, payload in contexts if kind == nbd.REP_META_CONTEXT] != [context]:
        raise Misbehaviour(f"no {context.decode()}")
    for kind, payload in _agree(connection, nbd.OPT_GO, name + struct.pack(">H", 0)):
        if kind == nbd.REP_INFO and int.from_bytes(payload[:2], "big") == nbd.INFO_EXPORT:
            _, size, export_flags = nbd.INFO_EXPORT_DATA.unpack(payload)
            if not export_flags & nbd.HAS_FLAGS:
                raise Misbehaviour("an export without flags")
            return int(size)
    raise Misbehaviour("no information about the export")


def _agree(connection: socket.socket, option: int, data: bytes) -> list[tuple[int, bytes]]:
    """Send an option; return the replies before the final one. Raises Misbehaviour if the option is refused."""
    connection.sendall(nbd.OPTION.pack(nbd.OPTION_MAGIC, option, len(data)) + data)
    replies: list[tuple[int, bytes]] = []
    while len(replies) < _MOST_REPLIES:
        magic, about, kind, length = nbd.OPTION_REPLY.unpack(receive(connection, nbd.OPTION_REPLY.size))
        if (magic, about) != (nbd.OPTION_REPLY_MAGIC, option) or length > _LONGEST_REPLY:
            raise Misbehaviour("not a reply to an option")
        payload = receive(connection, length)
        if kind == nbd.REP_ACK:
            return replies
        if kind & nbd.REP_ERROR:
            raise Misbehaviour(f"option {option} refused: {payload.decode('utf-8', 'replace')}")
        replies.append((kind, payload))
    raise Misbehaviour("too many replies")
