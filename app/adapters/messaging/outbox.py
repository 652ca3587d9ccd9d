"""Sends messages from its own thread, so that the sender never waits for the network."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

from app.adapters.messaging.rate_limited_warning import RateLimitedWarning

# Maximum messages that wait while none can be sent; a newer one then replaces the oldest.
_WAITING = 10_000


class Outbox:
    """Messages that may be lost, each with a key: a newer message replaces a waiting one with the same key.

    `name` is the name in logs and of the thread, which starts with the first message. `why` turns an error of sending
    into text.
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
        """Queue `send` to be called once; if it raises, the message is lost. Never blocks, and never raises."""
        with self._changed:
            if self._closed:
                return
            self._waiting[key] = send
            if len(self._waiting) > self._limit:
                self._waiting.popitem(last=False)
                self._warning.failed("too many messages wait")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Accept no more messages, and wait until the waiting ones are sent, for at most `seconds`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        while send := self._next():
            try:
                send()
            except Exception as error:  # the next message may succeed
                self._warning.failed(self._why(error))

    def _next(self) -> Callable[[], object] | None:
        """Wait for the next message to send; None once the outbox is closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popitem(last=False)[1] if self._waiting else None
