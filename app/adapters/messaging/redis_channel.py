"""Listens to a Redis channel across broken connections."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import redis

from app.adapters.messaging import redis_client
from app.adapters.messaging.rate_limited_warning import RateLimitedWarning

# After this many seconds without a message, a connection is pinged.
_SILENCE_SECONDS = 10.0
# How long to wait before the next attempt to connect, in seconds: the first time, and at most.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


async def messages(url: str, channel: str, unavailable: RateLimitedWarning) -> AsyncGenerator[bytes | None, None]:
    """The messages of a channel, without end. Yields None after every connect, since earlier messages were missed.

    `unavailable` is logged while Redis can't be reached.
    """
    pause = _FIRST_PAUSE
    while True:
        try:
            async with aclosing(_received(url, channel)) as received:
                async for message in received:
                    yield message
                    pause = _FIRST_PAUSE
        except (redis.RedisError, OSError) as error:
            unavailable.failed(redis_client.reason(error))
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


async def _received(url: str, name: str) -> AsyncGenerator[bytes | None, None]:
    """The messages of one connection, until it breaks. Raises RedisError, OSError."""
    async with redis_client.async_client(url) as connection, connection.pubsub() as channel:
        await channel.subscribe(name)
        pinged = False
        while True:
            message = await channel.get_message(timeout=_SILENCE_SECONDS)
            if message is None:
                if pinged:
                    raise redis.TimeoutError("the other end does not answer")
                await channel.ping()
            pinged = message is None
            kind = message["type"] if message else None
            if kind == "subscribe":
                yield None
            elif kind == "message":
                yield message["data"]
