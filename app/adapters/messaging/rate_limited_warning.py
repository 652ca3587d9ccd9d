"""A warning about repeated failures that does not flood the log."""

import threading
import time
from typing import Any

import structlog

log = structlog.get_logger()


class RateLimitedWarning:
    """Logs the first failure, then one line every `seconds` while failures continue. Thread-safe."""

    def __init__(self, event: str, seconds: float = 60.0, **fields: Any) -> None:
        self._event = event
        self._seconds = seconds
        self._fields = fields
        self._count = 0
        self._logged_at = float("-inf")
        self._lock = threading.Lock()

    def failed(self, reason: str, count: int = 1) -> None:
        """Record `count` more failures."""
        with self._lock:
            self._count += count
            if time.monotonic() - self._logged_at < self._seconds:
                return
            log.warning(self._event, reason=reason, count=self._count, **self._fields)
            self._logged_at, self._count = time.monotonic(), 0
