"""Serves a source in the store over NBD, read-only on a Unix socket, to a qemu without network and files.

Source: doc/proto.md of the NBD project. Supports the fixed newstyle and simple replies, which may arrive in a different
order than the requests. A hostile image may control the peer, so no request makes the server hold more than a few
megabytes, or read anything except this one source.
"""

import os
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import structlog

from app.sizes import KIB, MIB
from workers.qemu import nbd_protocol as nbd
from workers.qemu.nbd_protocol import Misbehaviour, receive, send
from workers.store.source import StoredSource

log = structlog.get_logger(__name__)


# The smallest, the preferred and the largest read, in bytes. The largest limits the cost of one request.
BLOCK_SIZES = (1, 64 * KIB, 4 * MIB)
SECTOR = 512
_MOST_CONNECTIONS = 8
_MOST_OPTIONS = 64
_LONGEST_OPTION = 4 * KIB
# The most requests of one connection that may wait for the store, and the number of concurrent reads from it.
_MOST_WAITING = 64
_READERS = 4
_EXPORT_FLAGS = nbd.HAS_FLAGS | nbd.READ_ONLY | nbd.CAN_MULTI_CONN


def listen(folder: Path, name: str) -> socket.socket:
    """A socket that listens as `name` in a folder, for a path of any length. Raises OSError."""
    listener = socket.socket(socket.AF_UNIX)
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{place}/{name}")
        listener.listen(_MOST_CONNECTIONS)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(place)
    return listener


class NbdServer:
    """Serves one source to every peer that connects to `listener`, from `start` until `close`.

    `failure` is the first error of the store that was sent to a peer as EIO: an error that the peer reports after it is
    not the image's fault.
    """

    def __init__(self, source: StoredSource, listener: socket.socket) -> None:
        self.source = source
        # QEMU's client waits forever for the rest of a sector if an export ends within it; it pads a file with zeros.
        self.size = -(-source.size // SECTOR) * SECTOR
        self.failure: Exception | None = None
        self._listener = listener
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()
        self.closed = False
        self._accepting = threading.Thread(target=self._accept, name="nbd-accept", daemon=True)
        self.readers = ThreadPoolExecutor(_READERS, thread_name_prefix="nbd-read")

    def start(self) -> None:
        """Start accepting connections."""
        self._accepting.start()

    def close(self) -> None:
        """Close all connections and end all threads. Waits for running reads from the store."""
        with self._lock:
            self.closed = True
            threads = list(self._connections.values())
            for connection in self._connections:
                _hang_up(connection)
        # This wakes the accepting thread; closing the socket would not.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        if self._accepting.is_alive():
            self._accepting.join()
        self._listener.close()
        for thread in threads:
            thread.join()
        self.readers.shutdown(cancel_futures=True)

    def record_error(self, error: Exception) -> None:
        """Record an error of the store, if it is the first."""
        with self._lock:
            self.failure = self.failure or error
        log.warning("source.unreadable", reason=str(error))

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self.closed or len(self._connections) >= _MOST_CONNECTIONS:
                    connection.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(connection,), name="nbd-serve", daemon=True)
                self._connections[connection] = thread
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MIB)
            if _negotiate(connection, self.size):
                _Transmission(self, connection).run()
        except (OSError, Misbehaviour) as reason:
            log.info("nbd.disconnected", reason=str(reason))
        finally:
            with self._lock:
                self._connections.pop(connection, None)
                connection.close()


class _Transmission:
    """Serves the requests of one connection: from memory at once, otherwise when the store has returned the data."""

    def __init__(self, server: NbdServer, connection: socket.socket) -> None:
        self.server = server
        self.source = server.source
        self.connection = connection
        self._sending = threading.Lock()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        self._over = False

    def run(self) -> None:
        """Answer requests until the peer disconnects. Raises Disconnected, Misbehaviour, OSError."""
        size = nbd.REQUEST.size
        incoming = bytearray(_MOST_WAITING * size)
        room = memoryview(incoming)
        held = 0
        try:
            while count := self.connection.recv_into(room[held:]):
                held += count
                whole = held // size * size
                for request in nbd.REQUEST.iter_unpack(room[:whole]):
                    if not self._take(*request):
                        return
                incoming[: held - whole] = incoming[whole:held]
                held -= whole
        finally:
            # The connection is closed only once no thread sends on it.
            self._over = True
            _hang_up(self.connection)
            for _ in range(_MOST_WAITING):
                self._waiting.acquire()

    def _take(self, magic: int, flags: int, kind: int, handle: int, offset: int, length: int) -> bool:
        """Handle one request; return False after the last one. Raises Misbehaviour, OSError."""
        if magic != nbd.REQUEST_MAGIC:
            raise Misbehaviour("not a request")
        if kind == nbd.CMD_DISC:
            return False
        if kind != nbd.CMD_READ:
            # The data of a write would follow its request.
            if kind == nbd.CMD_WRITE:
                raise Misbehaviour("a write to a read-only export")
            self._reply(nbd.EINVAL, handle)
        elif flags or not 0 < length <= BLOCK_SIZES[2] or offset + length > self.server.size:
            self._reply(nbd.EINVAL, handle)
        elif (pieces := self.source.kept(offset, self._inside(offset, length))) is not None:
            self._succeed(handle, length, pieces)
        else:
            self._waiting.acquire()
            self.server.readers.submit(self._read, handle, offset, length)
        return True

    def _read(self, handle: int, offset: int, length: int) -> None:
        try:
            if self._over or self.server.closed:
                return
            try:
                pieces = self.source.pieces(offset, self._inside(offset, length))
            except Exception as error:
                self.server.record_error(error)
                self._reply(nbd.EIO, handle)
            else:
                self._succeed(handle, length, pieces)
        except OSError:
            _hang_up(self.connection)
        finally:
            self._waiting.release()

    def _inside(self, offset: int, length: int) -> int:
        """How many of these bytes are within the source; the rest are the zeros that pad its last sector."""
        return min(length, max(0, self.source.size - offset))

    def _succeed(self, handle: int, length: int, pieces: list[memoryview]) -> None:
        missing = length - sum(map(len, pieces))
        self._reply(0, handle, [*pieces, bytes(missing)] if missing else pieces)

    def _reply(self, error: int, handle: int, pieces: Sequence[bytes | memoryview] = ()) -> None:
        with self._sending:
            send(self.connection, [nbd.SIMPLE_REPLY.pack(nbd.SIMPLE_REPLY_MAGIC, error, handle), *pieces])


def _hang_up(connection: socket.socket) -> None:
    """Shut down a connection without closing it, which wakes the threads that wait on it."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _negotiate(connection: socket.socket, size: int) -> bool:
    """Negotiate the export; return whether the client goes on to send requests. Raises Misbehaviour, OSError."""
    connection.sendall(nbd.GREETING.pack(nbd.NBD_MAGIC, nbd.OPTION_MAGIC, nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES))
    client_flags = int.from_bytes(receive(connection, 4), "big")
    if client_flags & ~(nbd.FIXED_NEWSTYLE | nbd.NO_ZEROES):
        raise Misbehaviour("unknown flags")
    for _ in range(_MOST_OPTIONS):
        magic, option, length = nbd.OPTION.unpack(receive(connection, nbd.OPTION.size))
        if magic != nbd.OPTION_MAGIC or length > _LONGEST_OPTION:
            raise Misbehaviour("not an option")
        data = receive(connection, length)
        if option == nbd.OPT_EXPORT_NAME:
            if data:
                raise Misbehaviour("an unknown export")
            padding = b"" if client_flags & nbd.NO_ZEROES else bytes(124)
            connection.sendall(nbd.EXPORT.pack(size, _EXPORT_FLAGS) + padding)
            return True
        for kind, payload in _answers(option, data, size):
            connection.sendall(nbd.OPTION_REPLY.pack(nbd.OPTION_REPLY_MAGIC, option, kind, len(payload)) + payload)
        if option == nbd.OPT_ABORT:
            return False
        if option == nbd.OPT_GO and kind == nbd.REP_ACK:
            return True
    raise Misbehaviour("too many options")


def _answers(option: int, data: bytes, size: int) -> list[tuple[int, bytes]]:
    """The replies to an option, as types and payloads. There is one export, with an empty name."""
    match option:
        case nbd.OPT_ABORT:
            return [(nbd.REP_ACK, b"")]
        case nbd.OPT_LIST if data:
            return [(nbd.REP_ERR_INVALID, b"")]
        case nbd.OPT_LIST:
            return [(nbd.REP_SERVER, bytes(4)), (nbd.REP_ACK, b"")]
        case nbd.OPT_INFO | nbd.OPT_GO:
            return _export(data, size)
    return [(nbd.REP_ERR_UNSUP, b"")]


def _export(data: bytes, size: int) -> list[tuple[int, bytes]]:
    """The replies to a request for information about the export, or to use it."""
    name_length = int.from_bytes(data[:4], "big")
    questions_at = 4 + name_length
    questions = int.from_bytes(data[questions_at : questions_at + 2], "big")
    if len(data) != questions_at + 2 + 2 * questions:
        return [(nbd.REP_ERR_INVALID, b"")]
    if name_length:
        return [(nbd.REP_ERR_UNKNOWN, b"")]
    export = nbd.INFO_EXPORT_DATA.pack(nbd.INFO_EXPORT, size, _EXPORT_FLAGS)
    block_sizes = nbd.INFO_BLOCK_SIZE_DATA.pack(nbd.INFO_BLOCK_SIZE, *BLOCK_SIZES)
    return [(nbd.REP_INFO, export), (nbd.REP_INFO, block_sizes), (nbd.REP_ACK, b"")]
