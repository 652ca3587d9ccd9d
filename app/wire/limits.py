"""What one connection may send, and how many connections and descriptors a process may have."""

import resource

from app.errors import SettingsError
from app.sizes import KIB, MIB

HEAD_BYTES = 64 * KIB
"""Largest head of a request: request line and header fields."""

HEAD_FIELDS = 100
"""Maximum header fields of a request."""

HANDSHAKE_LINE_BYTES = 8 * KIB
"""Longest line in the head of a WebSocket handshake: the limit of the `websockets` package."""

FRAMING_BYTES = 16 * KIB
CHUNK_FRAMING_BYTES = 32
"""Framing that a chunked body may have: this per chunk, plus FRAMING_BYTES. Only extensions need more."""

PIPELINED_REQUESTS = 16
"""Maximum requests of a connection that wait for the response to an earlier one."""

DROPPED_BYTES = MIB
"""How much of a body is read and dropped after the response to its request."""

FRAGMENTS = 1024
"""Maximum frames of a WebSocket message."""

# For everything except connections: the database, the store, the broker, workers' pipes, logs.
_RESERVED_DESCRIPTORS = 128
# The socket, and the file that a request reads or writes where the object store is a folder.
_DESCRIPTORS_PER_CONNECTION = 2
_FEWEST_CONNECTIONS = 16
_MOST_CONNECTIONS = 10_000


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE of this process to its hard limit. Returns the limit that is then in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # where the hard limit is more than the kernel allows
        return soft
    return _MOST_CONNECTIONS * _DESCRIPTORS_PER_CONNECTION * 2 if hard == resource.RLIM_INFINITY else hard


def connection_limit(wanted: int | None, descriptors: int) -> int:
    """How many connections a process accepts: `wanted`, or as many as its `descriptors` allow.

    Raises SettingsError when there are too few descriptors.
    """
    possible = (descriptors - _RESERVED_DESCRIPTORS) // _DESCRIPTORS_PER_CONNECTION
    needed = wanted or _FEWEST_CONNECTIONS
    if possible < needed:
        required = needed * _DESCRIPTORS_PER_CONNECTION + _RESERVED_DESCRIPTORS
        what = "1 connection needs" if needed == 1 else f"{needed} connections need"
        raise SettingsError(
            f"{what} {required} open files, but this process may open only {descriptors}; "
            f"raise its hard limit (`ulimit -Hn`, LimitNOFILE) to {required}, or lower IMAGES_CONNECTIONS"
        )
    return wanted or min(possible, _MOST_CONNECTIONS)
