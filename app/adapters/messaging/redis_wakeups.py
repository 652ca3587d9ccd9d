"""Wake-ups between processes, over a Redis channel."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from datetime import datetime

from app.adapters.messaging import redis_client
from app.adapters.messaging.outbox import Outbox
from app.adapters.messaging.rate_limited_warning import RateLimitedWarning
from app.adapters.messaging.redis_channel import messages
from app.ports import ProgressReport

_FEED_GREW = b"{}"


class RedisWakeups:
    """`ports.Wakeups` over publish/subscribe. Thread-safe; connects when it is first used.

    A message is a JSON object: a progress report, or empty when the feed grew. Raises SettingsError.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._channel = f"{redis_client.namespace(url)}:wakeups"
        self._client = redis_client.client(url)
        self._outbox = Outbox("wakeups", redis_client.reason)
        self._unavailable = RateLimitedWarning("wakeups.unavailable")

    def feed_grew(self) -> None:
        """As the port says. Of several waiting messages, one is sent."""
        self._outbox.put(None, lambda: self._publish(_FEED_GREW))

    def progressed(self, report: ProgressReport) -> None:
        """As the port says. Of several waiting reports of an image, the newest is sent."""
        self._outbox.put(report.image_id, lambda: self._publish(encoded(report)))

    async def listen(self) -> AsyncIterator[ProgressReport | None]:
        """As the port says, without end. Yields None after every connect, since earlier messages were missed."""
        async with aclosing(messages(self._url, self._channel, self._unavailable)) as received:
            async for message in received:
                try:
                    news = None if message is None else decoded(message)
                except ValueError:  # another program's message
                    continue
                yield news

    def close(self) -> None:
        """Send the waiting messages, for a few seconds at most, and close the connections."""
        self._outbox.close()
        self._client.close()

    def _publish(self, message: bytes) -> None:
        self._client.publish(self._channel, message)


def encoded(report: ProgressReport) -> bytes:
    """A report as a message."""
    return json.dumps({**asdict(report), "updated_at": report.updated_at.isoformat()}).encode()


def decoded(message: bytes) -> ProgressReport | None:
    """A message as a report, or None when the feed grew. Raises ValueError for any other message."""
    try:
        content = json.loads(message)
        if content == {}:
            return None
        at = datetime.fromisoformat(content.pop("updated_at"))
        report = ProgressReport(**content, updated_at=at)
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise ValueError("not a progress report") from None
    if at.tzinfo is None or not _has_right_types(report):
        raise ValueError("not a progress report")
    return report


def _has_right_types(report: ProgressReport) -> bool:
    texts = (report.image_id, report.project_id, report.phase)
    numbers = (report.bytes_done, 0 if report.bytes_total is None else report.bytes_total)
    return all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
