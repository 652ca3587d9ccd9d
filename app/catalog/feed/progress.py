"""How far images are: the newest report of each, kept in memory alone (architecture, rule 5)."""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from app.ports import ProgressReport

_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Progress:
    """The newest report of an image, and when its phase began, from which the time left follows."""

    report: ProgressReport
    version: int
    began: ProgressReport

    @property
    def percent(self) -> float:
        """How much of the phase is done, 0 to 100."""
        total = self.report.bytes_total
        return round(100 * self.report.bytes_done / total, 1) if total else 0.0

    @property
    def eta_seconds(self) -> int | None:
        """How long the phase still takes at the speed that it had; None when that can't be said."""
        done = self.report.bytes_done - self.began.bytes_done
        passed = (self.report.updated_at - self.began.updated_at) / timedelta(seconds=1)
        if self.report.bytes_total is None or done <= 0 or passed <= 0:
            return None
        return round((self.report.bytes_total - self.report.bytes_done) * passed / done)


@dataclass(slots=True)
class ProgressBoard:
    """The newest progress of each image that this process heard of; the oldest are forgotten."""

    _newest: OrderedDict[str, Progress] = field(default_factory=OrderedDict)
    _settled: OrderedDict[str, datetime] = field(default_factory=OrderedDict)
    _version: int = 0

    def put(self, report: ProgressReport) -> bool:
        """Take in a report; False when it came too late, after a newer one or after the image had settled."""
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
        """The newest progress of an image."""
        return self._newest.get(image_id)

    @property
    def version(self) -> int:
        """Grows with every report."""
        return self._version

    def newer_than(self, version: int) -> Iterator[Progress]:
        """What has come since, newest first."""
        for progress in reversed(self._newest.values()):
            if progress.version <= version:
                return
            yield progress

    def settle(self, image_id: str, at: datetime) -> None:
        """An image is ACTIVE, in ERROR or gone: reports that were made until then say nothing any more."""
        self._newest.pop(image_id, None)
        self._settled[image_id] = at
        self._settled.move_to_end(image_id)
        while len(self._settled) > _REMEMBERED:
            self._settled.popitem(last=False)


@dataclass(slots=True)
class Throttle:
    """Lets one report through per key and `seconds`."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _last: dict[str, float] = field(default_factory=dict)

    def passes(self, key: str) -> bool:
        """Whether a report may be sent now; counts it as sent when it may."""
        at = self.clock()
        if key in self._last and at - self._last[key] < self.seconds:
            return False
        self._last[key] = at
        return True

    def forget(self, key: str) -> None:
        """Nothing more is to be reported of it."""
        self._last.pop(key, None)
