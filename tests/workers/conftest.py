"""What tests of the workers share: qemu-img, and a folder to convert in."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.catalog.outcome import Outcome
from app.lifecycle import DiskFormat, ImagePhase
from tests.workers.images import qemu_img
from workers.convert.task import ConversionTask
from workers.folder.pipeline import convert
from workers.limits import Limits

BLOCK = 64 << 10
WITH_AND_WITHOUT_BUBBLEWRAP = [pytest.param(True, marks=pytest.mark.needs_program("bwrap")), False]


def next_data(fd: int, place: int, size: int) -> int:
    """The first block from `place` on that is no hole; the size of the file when there is none."""
    try:
        return os.lseek(fd, place, os.SEEK_DATA) // BLOCK * BLOCK if place < size else size
    except OSError:
        return size


@dataclass
class Workbench:
    """A folder with a source to convert. `reported` are the progress reports, in order."""

    folder: Path
    reported: list[tuple[ImagePhase, int, int | None]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def result(self) -> Path:
        return self.folder / "result"

    def put(self, image: Path) -> None:
        """Lay a copy of an image down as the source; as in the store, blocks of zeros become holes."""
        size = image.stat().st_size
        with image.open("rb") as file, self.source.open("wb") as copy:
            copy.truncate(size)
            place = 0
            while (place := next_data(file.fileno(), place, size)) < size:
                block = os.pread(file.fileno(), BLOCK, place)
                if block.count(0) != len(block):
                    os.pwrite(copy.fileno(), block, place)
                place += BLOCK

    def get(self) -> Path:
        """The result."""
        return self.result

    def task(self, declared: DiskFormat, size: int | None = None, sha256: str | None = None) -> ConversionTask[Path]:
        size = self.source.stat().st_size if size is None else size
        return ConversionTask(self.source, size, self.result, self.folder / "job", declared, sha256)

    def convert(
        self,
        declared: DiskFormat,
        limits: Limits | None = None,
        *,
        size: int | None = None,
        sha256: str | None = None,
    ) -> Outcome:
        task = self.task(declared, size, sha256)
        return convert(task, limits or Limits(), lambda *news: self.reported.append(news), self.cancelled)

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


@pytest.fixture
def workbench(tmp_path: Path) -> Workbench:
    folder = tmp_path / "store"
    folder.mkdir()
    return Workbench(folder)


Impostor = Callable[[str], Limits]


@pytest.fixture
def impostor() -> Iterator[Impostor]:
    """Limits with a program in qemu-img's place that runs a shell script of ours; `$1` is the subcommand."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)

        def make_one(script: str) -> Limits:
            program = folder / "qemu-img"
            program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exit\n{script}\n')
            program.chmod(0o755)
            return Limits(qemu_img=str(program), use_bubblewrap=False)

        yield make_one


@pytest.fixture
def holds() -> Callable[[Path, Path], None]:
    """Asserts that a qcow2 is sound and holds the same disk as a raw file."""

    def check(result: Path, raw: Path) -> None:
        qemu_img("check", "-f", "qcow2", str(result))
        # It would add a warning if their sizes differed.
        compared = qemu_img("compare", "-f", "raw", "-F", "qcow2", str(raw), str(result))
        assert compared == "Images are identical.\n"

    return check
