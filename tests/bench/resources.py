"""What a process and all below it use: processor time, bytes written to disks, and memory at its highest."""

import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_LOOK_SECONDS = 0.1
_PSS = re.compile(r"^Pss: +(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds of processor time, and bytes that went to disks (not to pipes, sockets and memory)."""

    processor: float
    written: int

    def since(self, earlier: "Used") -> "Used":
        """What was used between the two."""
        return Used(self.processor - earlier.processor, self.written - earlier.written)


def used_by(process: psutil.Process) -> Used:
    """What a process, those below it and those that have ended there have used so far (proc(5), stat and io)."""
    processor, written = 0.0, 0
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = each.cpu_times()
            processor += times.user + times.system + times.children_user + times.children_system
            # The kernel adds what a child has written when its end is waited for.
            written += each.io_counters().write_bytes
    return Used(processor, written)


class Peak:
    """The most memory, in bytes, that a process, and a process with all below it, had at one look."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self.own = 0
        self.all = 0

    def look(self) -> None:
        """Takes note of how it is now."""
        own = _memory(self._process.pid)
        below = sum(_memory(pid) for pid in _below(self._process.pid))
        self.own, self.all = max(self.own, own), max(self.all, own + below)


@contextmanager
def watching_memory(processes: Sequence[psutil.Process]) -> Iterator[list[Peak]]:
    """Looks at each ten times a second. Of memory that several processes share, each has its part (PSS)."""
    peaks, over = [Peak(process) for process in processes], threading.Event()

    def watch() -> None:
        while not over.wait(_LOOK_SECONDS):
            for peak in peaks:
                peak.look()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        over.set()
        watcher.join()


def _memory(pid: int) -> int:
    """Bytes of a process (proc(5), smaps_rollup); none when it has ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = _PSS.search(rollup)
    return int(found[1]) << 10 if found else 0


def _below(pid: int) -> Iterator[int]:
    """The children of a process and theirs, by each thread that started them: cheaper than reading all processes."""
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from _below(child)
