"""Flushes a file to disk while another process still writes it, so that little is left to flush at the end."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PAUSE_SECONDS = 0.1


@contextmanager
def background_flushing(path: Path) -> Iterator[None]:
    """Keep flushing the file at `path`, once it exists, while the block runs.

    The system reports a disk error only to the first flush after it, so an error here is raised when the block ends.
    Raises OSError.
    """
    over = threading.Event()
    errors: list[OSError] = []

    def keep_flushing() -> None:
        while not over.wait(_PAUSE_SECONDS) and not errors:
            try:
                _flush(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                errors.append(error)

    thread = threading.Thread(target=keep_flushing, name="flushing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]


def _flush(path: Path) -> None:
    # The writer is not trusted: it might have created a link or a pipe.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)
