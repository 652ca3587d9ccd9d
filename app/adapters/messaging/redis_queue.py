"""The job queue on Dramatiq's Redis broker, which recovers by itself after Redis was unavailable."""

import asyncio
import time
from collections.abc import Iterable
from typing import Any

import redis
from dramatiq import Consumer, MessageProxy
from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import ConnectionClosed, DecodeError
from dramatiq.middleware import AsyncIO

from app.adapters.messaging import redis_client
from app.adapters.messaging.dramatiq_queue import QUEUE, QueueUnavailable, message_of
from app.adapters.messaging.outbox import Outbox
from app.adapters.messaging.rate_limited_warning import RateLimitedWarning

# How long a consumer waits between attempts while Redis is unavailable, in seconds.
_PAUSE = 0.5


class RedisQueue:
    """`ports.JobQueue` for any process: a thread sends the messages. Raises SettingsError."""

    def __init__(self, broker: "PatientBroker") -> None:
        self._broker = broker
        self._outbox = Outbox("jobs", redis_client.reason)
        broker.declare_queue(QUEUE)

    def wake(self, kind: str) -> None:
        """As the port says. If sending fails, the sweep finds the job."""
        message = message_of(kind)
        self._outbox.put(message.message_id, lambda: self._broker.enqueue(message))

    async def check(self) -> None:
        """As the port says."""
        try:
            await asyncio.to_thread(self._broker.client.ping)
        except (redis.RedisError, OSError) as error:
            raise QueueUnavailable(redis_client.reason(error)) from error

    def close(self) -> None:
        """Send the waiting messages, for a few seconds at most, and close the connections."""
        self._outbox.close()
        self._broker.client.close()


class PatientBroker(RedisBroker):
    """Dramatiq's broker without delayed messages, which are not used, and with consumers that survive outages.

    `patience` limits how long a connection or an answer may take, in seconds. Raises SettingsError.
    """

    client: redis.Redis

    def __init__(self, url: str, patience: float = redis_client.PATIENCE_SECONDS) -> None:
        client = redis_client.client(url, patience)
        super().__init__(  # type: ignore[no-untyped-call]
            client=client, namespace=redis_client.namespace(url), middleware=[AsyncIO()]
        )
        self._away = RateLimitedWarning("queue.unavailable")

    def declare_queue(self, queue_name: str) -> None:
        """Like Dramatiq's, without the queue of delayed messages, which would be polled all the time."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """Like Dramatiq's. `timeout` is in milliseconds."""
        return _PatientConsumer(super().consume(queue_name, prefetch, timeout), self._away)


class _PatientConsumer(Consumer):
    """A consumer that never fails. Dramatiq's own makes a worker thread with a finished job wait for Redis."""

    def __init__(self, consumer: Consumer, away: RateLimitedWarning) -> None:
        self._consumer = consumer
        self._away = away

    def __next__(self) -> MessageProxy | None:
        try:
            return next(self._consumer)
        except DecodeError:  # another program's message
            return None
        except (ConnectionClosed, redis.RedisError, OSError) as error:
            self._warn(error)
            time.sleep(_PAUSE)
            return None

    def ack(self, message: MessageProxy) -> None:
        """Acknowledge a message. If that fails, it is delivered again, and its job is found done."""
        self._attempt(self._consumer.ack, message)

    def nack(self, message: MessageProxy) -> None:
        self._attempt(self._consumer.nack, message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Return messages to the queue. If that fails, the sweep sends them again."""
        self._attempt(self._consumer.requeue, messages)

    def close(self) -> None:
        self._attempt(self._consumer.close)

    def _attempt(self, act: Any, *given: Any) -> None:
        try:
            act(*given)
        except (ConnectionClosed, redis.RedisError, OSError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        # Dramatiq wraps the error of Redis in its own.
        cause = error.args[0] if isinstance(error, ConnectionClosed) and error.args else error
        self._away.failed(redis_client.reason(cause))
