"""Progress of images: the newest report of each, kept only in memory (architecture, rule 5)."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.ports import ProgressReport

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest report of an image, and the first one of its phase, from which the remaining time is estimated."""

    report: ProgressReport
    version: int
    began: ProgressReport

    @property
    def percent(self) -> float:
        """The completed part of the phase, 0 to 100; 0 if the total is unknown."""
        total = self.report.bytes_total
        return round(100 * self.report.bytes_done / total, 1) if total else 0.0

    @property
    def eta_seconds(self) -> int | None:
        """The remaining seconds of the phase at its average speed; None if that is unknown."""
        done = self.report.bytes_done - self.began.bytes_done
        passed = (self.report.updated_at - self.began.updated_at) / timedelta(seconds=1)
        if self.report.bytes_total is None or done <= 0 or passed <= 0:
            return None
        return round((self.report.bytes_total - self.report.bytes_done) * passed / done)


@dataclass(slots=True)
class ProgressBoard:
    """The newest progress of each image known to this process; the oldest entries are dropped."""

    _newest: OrderedDict[str, Progress] = field(default_factory=OrderedDict)
    _settled: OrderedDict[str, datetime] = field(default_factory=OrderedDict)
    _version: int = 0

    def put(self, report: ProgressReport) -> bool:
        """Store a report. Returns False when it is older than a known one, or than the end of the image's work."""
        known = self._newest.get(report.image_id)
        settled = self._settled.get(report.image_id)
        if settled is not None and report.updated_at <= settled:
            return False
        if known is not None and known.report.updated_at > report.updated_at:
            return False
        self._version += 1
        same = known is not None and known.report.phase == report.phase
        self._newest[report.image_id] = Progress(
            report, self._version, known.began if known is not None and same else report
        )
        self._newest.move_to_end(report.image_id)
        while len(self._newest) > _REMEMBERED:
            self._newest.popitem(last=False)
        return True

    def of(self, image_id: str) -> Progress | None:
        """The newest progress of an image; None if there is none."""
        return self._newest.get(image_id)

    @property
    def version(self) -> int:
        """A number that grows with every stored report."""
        return self._version

    def newer_than(self, version: int) -> Iterator[Progress]:
        """Yield the progress stored after `version`, newest first."""
        for progress in reversed(self._newest.values()):
            if progress.version <= version:
                return
            yield progress

    def settle(self, image_id: str, at: datetime) -> None:
        """Drop the progress of an image that is ACTIVE, in ERROR or deleted, and ignore reports from before `at`."""
        self._newest.pop(image_id, None)
        self._settled[image_id] = at
        self._settled.move_to_end(image_id)
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)


@dataclass(slots=True)
class Throttle:
    """Limits reports to one per key and `seconds`."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _last: dict[str, float] = field(default_factory=dict)

    def passes(self, key: str) -> bool:
        """Whether a report may be sent now; if so, it counts as sent."""
        at = self.clock()
        if key in self._last and at - self._last[key] < self.seconds:
            return False
        self._last[key] = at
        return True

    def forget(self, key: str) -> None:
        """Forget a key that gets no more reports."""
        self._last.pop(key, None)
