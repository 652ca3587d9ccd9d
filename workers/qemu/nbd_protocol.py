"""Constants and structures of NBD that server and client share, and exact reads from a socket.

Source: the NBD project's doc/proto.md, "Fixed newstyle negotiation", "Transmission phase", "Structured replies",
"Block status". All numbers are big-endian.
"""

import socket
import struct
from collections.abc import Sequence

NBD_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF

# Flags of the handshake, the server's and the client's.
FIXED_NEWSTYLE, NO_ZEROES = 1, 2

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_INFO, OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = (
    1,
    2,
    3,
    6,
    7,
    8,
    10,
)
REP_ACK, REP_SERVER, REP_INFO, REP_META_CONTEXT = 1, 2, 3, 4
REP_ERROR = 1 << 31
REP_ERR_UNSUP, REP_ERR_INVALID, REP_ERR_UNKNOWN, REP_ERR_TOO_BIG = (REP_ERROR + n for n in (1, 3, 6, 9))
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

# Flags of an export.
HAS_FLAGS, READ_ONLY, CAN_MULTI_CONN = 1 << 0, 1 << 1, 1 << 8

CMD_READ, CMD_WRITE, CMD_DISC, CMD_BLOCK_STATUS = 0, 1, 2, 7
# For a read: reply in one chunk, even if it contains holes.
DONT_FRAGMENT = 1 << 2

CHUNK_DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_BLOCK_STATUS = 0, 1, 2, 5
CHUNK_ERROR = 1 << 15
BASE_ALLOCATION = b"base:allocation"
# QEMU's own (docs/interop/nbd.txt): flags are the depth in the chain of files, 1 for the top one, 0 for none.
ALLOCATION_DEPTH = b"qemu:allocation-depth"
# Flags of an extent in base:allocation.
HOLE, ZERO = 1, 2

EPERM, EIO, EINVAL = 1, 5, 22

GREETING = struct.Struct(">QQH")
OPTION = struct.Struct(">QII")
OPTION_REPLY = struct.Struct(">QIII")
EXPORT = struct.Struct(">QH")
INFO_EXPORT_DATA = struct.Struct(">HQH")
INFO_BLOCK_SIZE_DATA = struct.Struct(">HIII")
# magic, flags, type, handle, offset, length
REQUEST = struct.Struct(">IHHQQI")
# magic, error, handle
SIMPLE_REPLY = struct.Struct(">IIQ")
# magic, flags, type, handle, length
CHUNK = struct.Struct(">IHHQI")


class Disconnected(ConnectionError):
    """Raised when the peer has closed the connection."""


class Misbehaviour(Exception):
    """Raised when the peer violates the protocol, or sends more than is accepted. The text says what."""


def receive_into(connection: socket.socket, buffer: memoryview) -> None:
    """Fill the buffer from a socket. Raises Disconnected, OSError."""
    while buffer:
        count = connection.recv_into(buffer)
        if not count:
            raise Disconnected("the peer closed the connection")
        buffer = buffer[count:]


def receive(connection: socket.socket, length: int) -> bytes:
    """Receive exactly `length` bytes from a socket; the caller limits `length`. Raises Disconnected, OSError."""
    buffer = bytearray(length)
    receive_into(connection, memoryview(buffer))
    return bytes(buffer)


def send(connection: socket.socket, pieces: Sequence[bytes | memoryview]) -> None:
    """Send all pieces, one after the other, usually in one system call. Raises OSError."""
    rest = sum(map(len, pieces))
    sent = connection.sendmsg(pieces)
    while sent < rest:
        rest -= sent
        pieces = _after(pieces, sent)
        sent = connection.sendmsg(pieces)


def _after(pieces: Sequence[bytes | memoryview], sent: int) -> list[bytes | memoryview]:
    """The rest of the pieces after their first `sent` bytes."""
    left: list[bytes | memoryview] = []
    for piece in pieces:
        if sent < len(piece):
            left.append(memoryview(piece)[sent:])
        sent = max(0, sent - len(piece))
    return left
