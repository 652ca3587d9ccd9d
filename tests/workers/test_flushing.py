"""Flushing a file that another process writes."""

import errno
import os
import threading
from pathlib import Path

import pytest

from workers.folder.flushing import background_flushing


def test_a_file_that_never_comes_is_waited_for_no_longer_than_the_block(tmp_path: Path) -> None:
    with background_flushing(tmp_path / "file"):
        pass


def test_an_error_of_the_disk_is_raised_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()

    def broken(fd: int) -> None:
        seen.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", broken)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="Input/output error"), background_flushing(tmp_path / "file"):
        assert seen.wait(10)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: os.symlink("/etc/hostname", path)])
def test_what_is_no_file_blocks_nothing(tmp_path: Path, make: object) -> None:
    assert callable(make)
    make(tmp_path / "file")
    with pytest.raises(OSError, match=r"Invalid argument|symbolic"), background_flushing(tmp_path / "file"):
        flushing_ends()


def flushing_ends() -> None:
    for thread in threading.enumerate():
        if thread.name == "flushing":
            thread.join(10)
            assert not thread.is_alive()
