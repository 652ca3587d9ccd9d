"""Wake-ups between processes, over a channel of Redis."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from datetime import datetime

import redis

from app.adapters.messaging import redis_client
from app.adapters.messaging.outbox import Outbox
from app.adapters.messaging.rate_limited_warning import RateLimitedWarning
from app.ports import ProgressReport

# A connection on which nothing comes is asked whether it still lives, every so many seconds.
_SILENCE_SECONDS = 10.0
# How long to wait before another try to connect, in seconds: the first time, and at most.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0

_FEED_GREW = b"{}"


class RedisWakeups:
    """`ports.Wakeups` over publish/subscribe. May be called from any thread; holds no connection until it is used.

    A message is a JSON object: a progress report, or empty when the feed grew. Raises SettingsError.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._channel = f"{redis_client.namespace(url)}:wakeups"
        self._client = redis_client.client(url)
        self._outbox = Outbox("wakeups", redis_client.reason)
        self._deaf = RateLimitedWarning("wakeups.deaf")

    def feed_grew(self) -> None:
        """As the port says. Of several that wait to be sent, one goes out."""
        self._outbox.put(None, lambda: self._publish(_FEED_GREW))

    def progressed(self, report: ProgressReport) -> None:
        """As the port says. Of several of an image that wait to be sent, the newest goes out."""
        self._outbox.put(report.image_id, lambda: self._publish(encoded(report)))

    async def listen(self) -> AsyncIterator[ProgressReport | None]:
        """As the port says, for ever. Whenever it has connected, None comes: what was told until then was missed."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with aclosing(self._heard()) as news:
                    async for item in news:
                        yield item
                        pause = _FIRST_PAUSE
            except (redis.RedisError, OSError) as error:
                self._deaf.failed(redis_client.reason(error))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def close(self) -> None:
        """Send what waits, for a few seconds at most, and close the connections."""
        self._outbox.close()
        self._client.close()

    def _publish(self, message: bytes) -> None:
        self._client.publish(self._channel, message)

    async def _heard(self) -> AsyncGenerator[ProgressReport | None, None]:
        """What comes over one connection, until it breaks. Raises RedisError, OSError."""
        async with redis_client.async_client(self._url) as connection, connection.pubsub() as channel:
            await channel.subscribe(self._channel)
            asked = False
            while True:
                message = await channel.get_message(timeout=_SILENCE_SECONDS)
                if message is None:
                    if asked:
                        raise redis.TimeoutError("the other end has gone")
                    await channel.ping()
                asked = message is None
                kind = message["type"] if message else None
                if kind == "subscribe":
                    yield None
                elif kind == "message":
                    try:
                        news = decoded(message["data"])
                    except ValueError:  # somebody else's
                        continue
                    yield news


def encoded(report: ProgressReport) -> bytes:
    """A report as a message."""
    return json.dumps({**asdict(report), "updated_at": report.updated_at.isoformat()}).encode()


def decoded(message: bytes) -> ProgressReport | None:
    """A message as a report, or None when the feed grew. Raises ValueError for what is neither."""
    try:
        said = json.loads(message)
        if said == {}:
            return None
        at = datetime.fromisoformat(said.pop("updated_at"))
        report = ProgressReport(**said, updated_at=at)
    except (AttributeError, KeyError, RecursionError, TypeError):
        raise ValueError("not a progress report") from None
    if at.tzinfo is None or not _has_right_types(report):
        raise ValueError("not a progress report")
    return report


def _has_right_types(report: ProgressReport) -> bool:
    texts = (report.image_id, report.project_id, report.phase)
    numbers = (report.bytes_done, 0 if report.bytes_total is None else report.bytes_total)
    return all(isinstance(text, str) for text in texts) and all(type(number) is int for number in numbers)
