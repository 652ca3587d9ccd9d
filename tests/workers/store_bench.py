"""A bucket of a real MinIO with a source in it to convert, and what came of that."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from app.adapters.s3.bucket import Bucket
from app.catalog.outcome import Outcome
from app.lifecycle import DiskFormat, ImagePhase
from app.s3_address import S3Address
from tests.servers.minio import Minio
from tests.support.s3_places import empty
from workers.convert.task import ConversionTask
from workers.limits import Limits
from workers.store.pipeline import convert_in_store

SOURCE, RESULT = "uploads/source", "blobs/result.qcow2"
_PART = 16 << 20
_names = (f"conversions-{number}" for number in count())


@dataclass
class StoreBench:
    """A bucket with a source to convert. `reported` are the progress reports, in order."""

    bucket: Bucket
    folder: Path
    reported: list[tuple[ImagePhase, int, int | None]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def put(self, image: Path, key: str = SOURCE) -> None:
        """Upload an image."""
        size = image.stat().st_size
        reference = self.bucket.open_multipart(key)

        def send(number: int) -> tuple[int, str]:
            offset = (number - 1) * _PART
            length = min(_PART, size - offset)
            return number, self.bucket.put_part(key, reference, number, lambda: pieces(image, offset, length), length)

        with ThreadPoolExecutor(4) as pool:
            parts = list(pool.map(send, range(1, max(1, -(-size // _PART)) + 1)))
        self.bucket.complete(key, reference, parts)

    def get(self, key: str = RESULT, name: str = "result") -> Path:
        """Download an object."""
        path = self.folder / name
        size = self.bucket.size(key)
        with path.open("wb") as file:
            for offset in range(0, size, _PART):
                file.write(self.bucket.read(key, offset, min(_PART, size - offset)))
        return path

    def task(self, declared: DiskFormat, sha256: str | None = None) -> ConversionTask[str]:
        size = self.bucket.size(SOURCE)
        return ConversionTask(SOURCE, size, RESULT, self.folder / "job", declared, sha256)

    def convert(self, declared: DiskFormat, limits: Limits | None = None, sha256: str | None = None) -> Outcome:
        task = self.task(declared, sha256)
        made = convert_in_store(
            task, self.bucket, limits or Limits(), lambda *news: self.reported.append(news), self.cancelled
        )
        assert isinstance(made, Outcome)
        return made

    def keys(self) -> set[str]:
        return {key for key, _ in self.bucket.keys()}

    def assert_nothing_left(self, *keys: str) -> None:
        """No object but these, no open upload of the result, no folder of the job."""
        assert self.keys() == set(keys)
        assert self.bucket.multiparts(RESULT) == []
        assert not (self.folder / "job").exists()


@contextmanager
def store_bench(minio: Minio, folder: Path) -> Iterator[StoreBench]:
    """A bucket of its own, emptied in the end."""
    bucket = Bucket(S3Address.parse(minio.store_url(next(_names))))
    bucket.make()
    folder.mkdir()
    try:
        yield StoreBench(bucket, folder)
    finally:
        for reference in bucket.multiparts(RESULT):
            bucket.abort(RESULT, reference)
        empty(bucket)
        bucket.close()


def pieces(image: Path, offset: int, length: int) -> Iterator[bytes]:
    """A range of a file, in pieces."""
    with image.open("rb") as file:
        file.seek(offset)
        while length:
            piece = file.read(min(length, 1 << 20))
            length -= len(piece)
            yield piece
