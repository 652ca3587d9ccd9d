"""Where a made-up image is converted: in a folder, or in the bucket of a real store."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from app.catalog.outcome import Outcome
from app.lifecycle import DiskFormat
from tests.servers.minio import Minio
from tests.workers.conftest import Workbench
from tests.workers.store_bench import SOURCE, StoreBench, store_bench
from workers.limits import Limits

# A damaged header may name a huge disk.
_LIMITS = Limits(max_virtual_size=64 << 20)


class Place(Protocol):
    """Converts one image after the other."""

    def convert(self, file: bytes, declared: DiskFormat) -> tuple[Outcome, Path]:
        """What came of it, and the result as a file. Raises ImageFailed; the source is as it was then."""


class FolderPlace:
    """Converts in a new folder for every image."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def convert(self, file: bytes, declared: DiskFormat) -> tuple[Outcome, Path]:
        """As the protocol says."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        bench = Workbench(self._folder)
        bench.source.write_bytes(file)
        try:
            return bench.convert(declared, _LIMITS), bench.result
        except Exception:
            assert bench.names() == {"source"}
            assert bench.source.read_bytes() == file
            raise


class StorePlace:
    """Converts in a bucket."""

    def __init__(self, bench: StoreBench) -> None:
        self._bench = bench

    def convert(self, file: bytes, declared: DiskFormat) -> tuple[Outcome, Path]:
        """As the protocol says."""
        bench = self._bench
        image = bench.folder / "image"
        image.write_bytes(file)
        bench.put(image)
        try:
            return bench.convert(declared, _LIMITS), bench.get()
        except Exception:
            assert bench.get(SOURCE, "kept").read_bytes() == file
            raise


@contextmanager
def store_place(minio: Minio, folder: Path) -> Iterator[StorePlace]:
    """A bucket to convert in."""
    with store_bench(minio, folder) as bench:
        yield StorePlace(bench)


def as_raw(image: Path, options: str) -> bytes | None:
    """The disk in an image as QEMU reads it, or None if it does not; `options` are those of its driver."""
    raw = image.with_suffix(".raw")
    raw.unlink(missing_ok=True)
    opened = f"{options},file.driver=file,file.filename={image}"
    arguments = ["qemu-img", "convert", "--image-opts", opened, "-O", "raw", str(raw)]
    done = subprocess.run(arguments, check=False, capture_output=True, timeout=120)
    return raw.read_bytes() if done.returncode == 0 else None
