"""Sends messages from a thread of its own, so that whoever has one never waits for the network."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from app.adapters.messaging.rate_limited_warning import RateLimitedWarning

# The most that waits while nothing can be sent: what comes beyond it pushes out the oldest.
_WAITING = 10_000


class Outbox:
    """Messages that may get lost, each under a key: a newer one takes the place of one that still waits.

    `name` is how thread and log call it; `why` puts an error of sending into words. The thread begins with the
    first message.
    """

    def __init__(self, name: str, why: Callable[[Exception], str] = str, *, limit: int = _WAITING) -> None:
        self._name = name
        self._why = why
        self._limit = limit
        self._waiting: OrderedDict[Hashable, Callable[[], object]] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._warning = RateLimitedWarning("message.lost", sender=name)

    def put(self, key: Hashable, send: Callable[[], object]) -> None:
        """Have `send` called soon, once; when it raises, the message is lost. Never waits, and never raises."""
        with self._changed:
            if self._closed:
                return
            self._waiting[key] = send
            if len(self._waiting) > self._limit:
                self._waiting.popitem(last=False)
                self._warning.failed("too many of them wait")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Take nothing more, and wait until what waits has been sent, but no longer than so many seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while send := self._next():
            try:
                send()
            except Exception as error:  # whatever it is, the next message may fare better
                self._warning.failed(self._why(error))

    def _next(self) -> Callable[[], object] | None:
        """What is to be sent next, as soon as there is something; None when there won't be."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popitem(last=False)[1] if self._waiting else None
