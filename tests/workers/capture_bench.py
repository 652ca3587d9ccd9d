"""Both kinds of store with a base in it, and captures into them."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from app.adapters.chosen import Storage
from app.adapters.folder.store import FolderStore
from app.adapters.s3.bucket import Bucket
from app.adapters.s3.store import S3Store
from app.catalog.servers.settling import Base
from app.s3_address import S3Address
from tests.support.s3_places import empty
from tests.workers.images import qemu_img
from tests.workers.store_bench import StoreBench
from workers.capture.capturing import capture
from workers.capture.task import Captured, CaptureTask
from workers.hypervisor.port import PointReader
from workers.limits import Limits

BASE, RESULT = "blobs/base.qcow2", "blobs/result.qcow2"
LIMITS = Limits(use_bubblewrap=False)
_names = (f"captures-{number}" for number in count())


def anything(size: int) -> None:
    """There is room for everything."""


@dataclass
class CaptureBench(ABC):
    """A store. `reported` are the reports of progress."""

    folder: Path
    storage: Storage
    base: Base | None = None
    reported: list[tuple[int, int]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @abstractmethod
    def _put(self, image: Path) -> None:
        """Store an image as BASE."""

    @abstractmethod
    def get(self) -> Path:
        """The result as a file."""

    @abstractmethod
    def left(self) -> set[str]:
        """Everything in the store: objects, open uploads, folders of attempts."""

    def put(self, image: Path) -> None:
        """Store the base of the volume."""
        self._put(image)
        self.base = Base("blb", BASE, image.stat().st_size, None)

    def capture(
        self,
        reader: PointReader,
        *,
        limits: Limits = LIMITS,
        require_room: Callable[[int], None] = anything,
        token: int = 1,
    ) -> Captured:
        task = CaptureTask(
            reader=reader,
            base=self.base,
            key=RESULT,
            workspace=f"job-{token}",
            progress=lambda *news: self.reported.append(news),
            cancelled=self.cancelled,
            require_room=require_room,
        )
        return capture(self.storage, task, limits)


class FolderBench(CaptureBench):
    """A folder store."""

    @property
    def store(self) -> FolderStore:
        assert isinstance(self.storage.store, FolderStore)
        return self.storage.store

    def _put(self, image: Path) -> None:
        path = self.store.path(BASE)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image.read_bytes())

    def get(self) -> Path:
        return self.store.path(RESULT)

    def left(self) -> set[str]:
        objects = self.store.path(BASE).parent
        found = {f"blobs/{path.name}" for path in objects.iterdir()} if objects.exists() else set()
        return found | {path.name for path in self.store.work.iterdir()}


class BucketBench(CaptureBench):
    """A bucket of an S3 store. `patience`: how long requests are repeated, in seconds."""

    @property
    def bucket(self) -> Bucket:
        assert isinstance(self.storage.store, S3Store)
        return self.storage.store._bucket

    def _put(self, image: Path) -> None:
        StoreBench(self.bucket, self.folder).put(image, BASE)

    def get(self) -> Path:
        return StoreBench(self.bucket, self.folder).get(RESULT, "captured")

    def left(self) -> set[str]:
        return {key for key, _ in self.bucket.keys()} | {f"open {key}" for key in self.bucket.multiparts(RESULT)}


@contextmanager
def folder_bench(folder: Path) -> Iterator[FolderBench]:
    folder.mkdir()
    with closing(FolderStore(folder / "store", b"x" * 32)) as store:
        yield FolderBench(folder, Storage(store))


@contextmanager
def bucket_bench(url: Callable[[str], str], folder: Path) -> Iterator[BucketBench]:
    """A bucket of its own of the server with these URLs, emptied in the end."""
    folder.mkdir()
    with closing(S3Store(S3Address.parse(url(next(_names))))) as store:
        bench = BucketBench(folder, Storage(store))
        bench.bucket.make()
        try:
            yield bench
        finally:
            for reference in bench.bucket.multiparts(RESULT):
                bench.bucket.abort(RESULT, reference)
            empty(bench.bucket)


def assert_same_disk(bench: CaptureBench, raw: Path, made: Captured) -> Path:
    """The result is a sound qcow2 without a backing file that holds the bytes of `raw`, as `made` says."""
    result = bench.get()
    report = qemu_img("check", "-f", "qcow2", str(result))
    assert "No errors" in report, report
    info = qemu_img("info", "-f", "qcow2", str(result))
    assert "backing" not in info
    # It would add a warning if their sizes differed.
    assert qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(result)) == "Images are identical.\n"
    assert made.virtual_size == raw.stat().st_size
    assert made.file_size == result.stat().st_size
    return result
