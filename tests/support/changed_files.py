"""Ways to change a file after which its size and its mtime are what they were."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

Change = Callable[[Path, bytes], None]


def until_seen(path: Path, act: Callable[[], object]) -> None:
    """Do something to a file, again until its ctime shows it: the clock of a file system takes steps of some ms."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        act()


def copied_over(path: Path, content: bytes) -> None:
    """`cp -p` of another file to its place, which is written in place."""
    other = _other(path, content)
    until_seen(path, lambda: subprocess.run(["cp", "-p", other, path], check=True, timeout=60))
    other.unlink()


def replaced(path: Path, content: bytes) -> None:
    """Another file, of the same mtime, takes its place, as `rsync -t` does it."""
    _other(path, content).replace(path)


def rewritten(path: Path, content: bytes) -> None:
    """Other bytes in place, and the mtime set back."""
    status = path.stat()

    def rewrite() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    until_seen(path, rewrite)


def _other(path: Path, content: bytes) -> Path:
    status, other = path.stat(), path.with_name("other")
    assert len(content) == status.st_size
    other.write_bytes(content)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    return other
