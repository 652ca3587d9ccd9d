"""Wakes hosts in any process, over a Redis channel for each."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from app.adapters.messaging import redis_client
from app.adapters.messaging.outbox import Outbox
from app.adapters.messaging.rate_limited_warning import RateLimitedWarning
from app.adapters.messaging.redis_channel import messages


class RedisHostBells:
    """`ports.HostBells` over publish/subscribe. Thread-safe; connects when it is first used. Raises SettingsError."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._prefix = f"{redis_client.namespace(url)}:host:"
        self._client = redis_client.client(url)
        self._outbox = Outbox("host-bells", redis_client.reason)
        self._unavailable = RateLimitedWarning("host_bells.unavailable")

    def ring(self, host_id: str) -> None:
        """As the port says. Of several waiting messages to a host, one is sent."""
        self._outbox.put(host_id, lambda: self._client.publish(self._prefix + host_id, b""))

    async def listen(self, host_id: str) -> AsyncIterator[None]:
        """As the port says."""
        async with aclosing(messages(self._url, self._prefix + host_id, self._unavailable)) as received:
            async for _message in received:
                yield

    def close(self) -> None:
        """Send the waiting messages, for a few seconds at most, and close the connections."""
        self._outbox.close()
        self._client.close()
