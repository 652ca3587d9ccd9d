"""What the log hears of something that fails over and over."""

import threading
import time
from typing import Any

import structlog

log = structlog.get_logger()


class Complaint:
    """One line of the log at first, and then one every `seconds` as long as it goes on. For any thread."""

    def __init__(self, event: str, seconds: float = 60.0, **fields: Any) -> None:
        self._event = event
        self._seconds = seconds
        self._fields = fields
        self._count = 0
        self._said_at = float("-inf")
        self._lock = threading.Lock()

    def about(self, reason: str, count: int = 1) -> None:
        """It has failed again, `count` times."""
        with self._lock:
            self._count += count
            if time.monotonic() - self._said_at < self._seconds:
                return
            log.warning(self._event, reason=reason, count=self._count, **self._fields)
            self._said_at, self._count = time.monotonic(), 0
