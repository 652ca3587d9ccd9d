"""A file in the place of an object of the store: it is read by ranges, and can be made slow or broken."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import StoreUnavailable
from workers.limits import Limits
from workers.qemu.confinement import OUTPUT
from workers.store.sandbox import StoredSandbox
from workers.store.source import StoredSource


class StoredFile:
    """What a bucket's `read_into` does, for one file. `asked` are the ranges that were read: (offset, length).

    From `broken_from` on (bytes) every read fails. While `gate` is clear, reads wait.
    """

    def __init__(self, path: Path) -> None:
        self.size = path.stat().st_size
        self.asked: list[tuple[int, int]] = []
        self.broken_from: int | None = None
        self.gate = threading.Event()
        self.gate.set()
        self._fd = os.open(path, os.O_RDONLY)

    def fetch(self, offset: int, buffer: memoryview) -> None:
        self.asked.append((offset, len(buffer)))
        assert self.gate.wait(60)
        if self.broken_from is not None and offset + len(buffer) > self.broken_from:
            raise StoreUnavailable("the store is away")
        assert os.preadv(self._fd, [buffer], offset) == len(buffer)

    def close(self) -> None:
        os.close(self._fd)


@contextmanager
def stored(path: Path, memory: int = 32 << 20) -> Iterator[tuple[StoredFile, StoredSource]]:
    """A file as a source of the store."""
    file = StoredFile(path)
    try:
        with StoredSource(file.fetch, file.size, memory=memory) as source:
            yield file, source
    finally:
        file.gate.set()
        file.close()


@contextmanager
def stored_sandbox(
    path: Path, folder: Path, limits: Limits | None = None, cancelled: threading.Event | None = None
) -> Iterator[tuple[StoredFile, StoredSandbox]]:
    """A sandbox in `folder` whose source is that file."""
    with stored(path) as (file, source):
        with StoredSandbox(folder, source, limits or Limits(), cancelled or threading.Event()) as sandbox:
            assert (sandbox.folder / OUTPUT).is_dir()
            yield file, sandbox
