"""Retries requests to a store that is busy or restarting."""

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
    """Retries until an attempt succeeds, `seconds` have passed, or `end` is called. Thread-safe."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ended = threading.Event()

    def end(self) -> None:
        """Stop retrying: waiting calls raise their last error."""
        self._ended.set()

    def attempt(self, call: Callable[[], T]) -> T:
        """The result of `call`, which must be idempotent. Raises StoreError."""
        give_up_at = time.monotonic() + self._seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                with store_errors():
                    return call()
            except StoreBusy:
                # Randomized, so that workers that failed together do not retry together.
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311  # nosec B311 (no secret: it only spreads retries)
                if time.monotonic() + wait > give_up_at or self._ended.wait(wait):
                    raise
            pause = min(2 * pause, _LONGEST_PAUSE)
