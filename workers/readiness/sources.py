"""Opens a stored qcow2 to be read by ranges, in either store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from app.sizes import MIB
from workers.errors import SourceDamaged
from workers.store.source import StoredSource

if TYPE_CHECKING:
    from app.adapters.s3.bucket import Bucket

# A check reads the tables of a disk and its initramfs, here and there: most of what it reads again is in the reader.
_CACHE_BYTES = 8 * MIB


@contextmanager
def from_file(path: Path, size: int) -> Iterator[StoredSource]:
    """The file of a folder store, of `size` bytes. Raises OSError, SourceDamaged."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_size < size:
            raise SourceDamaged("the file is shorter than recorded")
        with StoredSource(partial(_read_file, fd), size, memory=_CACHE_BYTES) as source:
            yield source
    finally:
        os.close(fd)


@contextmanager
def from_bucket(bucket: "Bucket", key: str, size: int) -> Iterator[StoredSource]:
    """An object of an S3 store, of `size` bytes. Raises StoreError, SourceDamaged."""
    if bucket.size(key) != size:
        raise SourceDamaged("the object does not have its recorded size")
    with StoredSource(partial(bucket.read_into, key), size, memory=_CACHE_BYTES) as source:
        yield source


def _read_file(fd: int, offset: int, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if not count:
            raise SourceDamaged("the file ends earlier than it did")
        done += count
