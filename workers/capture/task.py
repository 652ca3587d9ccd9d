"""The task of a capture: which point to store, and under which key."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from app.catalog.servers.settling import Base
from workers.convert.examination import Progress
from workers.hypervisor.port import PointReader


@dataclass(frozen=True, slots=True)
class CaptureTask:
    """A point in time of a volume, and the object that it becomes.

    `base` is None for a volume without one. One attempt at a time may use `key`, which is replaced if it exists.
    `workspace` is the name of a folder that only this attempt uses (see workspaces).

    `progress(bytes_done, bytes_total)` is called often, in any thread, once it is known what there is to store.
    `require_room(stored_size)` is called with the bytes that the image takes so far, and at last with those that it
    takes; it raises if the project has no room for them. Both should be quick. Setting `cancelled` ends the capture.
    """

    reader: PointReader
    base: Base | None
    key: str
    workspace: str
    progress: Callable[[int, int], None]
    cancelled: threading.Event
    require_room: Callable[[int], None]

    @property
    def steps(self) -> Progress:
        """Reports nothing, and raises Cancelled once the capture was cancelled."""
        return Progress(lambda *_: None, self.cancelled)


@dataclass(frozen=True, slots=True)
class Captured:
    """A stored point. Sizes are in bytes: of the disk, of the clusters in use, of the file."""

    virtual_size: int
    stored_size: int
    file_size: int


class Tally:
    """Counts the bytes of a capture that are done, and reports them. Safe for several threads."""

    def __init__(self, report: Callable[[int, int], None], total: int) -> None:
        self._report = report
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        report(0, total)

    def add(self, count: int) -> None:
        """Count bytes. More than the total count as the total, since some may be read twice."""
        with self._lock:
            self._done = min(self._total, self._done + count)
            self._report(self._done, self._total)
