"""Unix sockets at paths of any length: an address has at most 107 bytes, so each goes through /proc/self/fd."""

import os
import socket
import stat
from pathlib import Path


def connect(path: Path) -> socket.socket:
    """Connect to a socket, safely even if a hostile process replaced it. Raises OSError."""
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX)
    try:
        if not stat.S_ISSOCK(os.fstat(place).st_mode):
            raise OSError(f"{path.name} is not a socket")
        connection.connect(f"/proc/self/fd/{place}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(place)
    return connection


def listen(path: Path) -> socket.socket:
    """Listen on a new socket, which replaces the file at `path`. Raises OSError."""
    path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        listener.listen()
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener
