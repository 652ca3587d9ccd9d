"""What one connection may send, and how many connections and descriptors a process may have."""

import resource

from app.errors import SettingsError

HEAD_BYTES = 64 * 1024
"""Largest head of a request: request line and header fields."""

HEAD_FIELDS = 100
"""Most header fields of a request."""

HANDSHAKE_LINE_BYTES = 8 * 1024
"""Longest line in the head of a WebSocket handshake; the `websockets` package reads no longer ones."""

FRAMING_BYTES = 16 * 1024
CHUNK_FRAMING_BYTES = 32
"""Framing of a chunked body: so much for each chunk, and FRAMING_BYTES once. Only extensions need more."""

PIPELINED_REQUESTS = 16
"""Most requests of a connection that wait for the answer to an earlier one."""

DROPPED_BYTES = 1024 * 1024
"""How much of a body is read and dropped after its request was answered."""

FRAGMENTS = 1024
"""Most frames of one WebSocket message."""

# Beyond what connections use: the database, the store, the broker, workers' pipes, logs.
_RESERVED_DESCRIPTORS = 128
# The socket, and the file that a request reads or writes where the object store is a folder.
_DESCRIPTORS_PER_CONNECTION = 2
_FEWEST_CONNECTIONS = 16
_MOST_CONNECTIONS = 10_000


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE of this process to its hard limit; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # where the hard limit is more than the kernel allows
        return soft
    return _MOST_CONNECTIONS * _DESCRIPTORS_PER_CONNECTION * 2 if hard == resource.RLIM_INFINITY else hard


def connection_limit(wanted: int | None, descriptors: int) -> int:
    """How many connections a process with so many descriptors accepts; `wanted` by the settings, or derived.

    Raises SettingsError when the descriptors are too few.
    """
    possible = (descriptors - _RESERVED_DESCRIPTORS) // _DESCRIPTORS_PER_CONNECTION
    needed = wanted or _FEWEST_CONNECTIONS
    if possible < needed:
        required = needed * _DESCRIPTORS_PER_CONNECTION + _RESERVED_DESCRIPTORS
        raise SettingsError(
            f"{needed} connections need {required} open files, and this process may open {descriptors}: "
            f"raise its hard limit (`ulimit -Hn`, LimitNOFILE) to {required}, or lower IMAGES_CONNECTIONS"
        )
    return wanted or min(possible, _MOST_CONNECTIONS)
