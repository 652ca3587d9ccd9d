"""Retries: a store that is busy, or is just restarting, mostly answers a moment later."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from app.adapters.s3.errors import StoreBusy, store_errors

T = TypeVar("T")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 3.2


class RetryPolicy:
    """Makes attempts until one succeeds, `seconds` have gone by, or it is ended. Safe for several threads."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ended = threading.Event()

    def end(self) -> None:
        """Whoever waits for another attempt stops waiting, and gets the last error."""
        self._ended.set()

    def attempt(self, call: Callable[[], T]) -> T:
        """What `call` gives, which has to be harmless when it is done twice. Raises StoreError."""
        give_up_at = time.monotonic() + self._seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                with store_errors():
                    return call()
            except StoreBusy:
                # Of unequal length, so that workers that failed together do not come back together.
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311  # nosec B311 (no secret: it only spreads retries)
                if time.monotonic() + wait > give_up_at or self._ended.wait(wait):
                    raise
            pause = min(2 * pause, _LONGEST_PAUSE)
