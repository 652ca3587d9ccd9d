"""The job queue on Dramatiq's Redis broker, which goes on by itself when Redis was away."""

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

# How long a consumer waits while Redis is away, in seconds.
_PAUSE = 0.5


class RedisQueue:
    """`ports.JobQueue` for any process: messages go out from a thread of their own. Raises SettingsError."""

    def __init__(self, broker: "PatientBroker") -> None:
        self._broker = broker
        self._outbox = Outbox("jobs", redis_client.reason)
        broker.declare_queue(QUEUE)

    def wake(self, kind: str) -> None:
        """As the port says: what can't be sent is found by the sweep."""
        message = message_of(kind)
        self._outbox.put(message.message_id, lambda: self._broker.enqueue(message))

    async def check(self) -> None:
        """As the port says."""
        try:
            await asyncio.to_thread(self._broker.client.ping)
        except (redis.RedisError, OSError) as error:
            raise QueueUnavailable(redis_client.reason(error)) from error

    def close(self) -> None:
        """Send what waits, for a few seconds at most, and close the connections."""
        self._outbox.close()
        self._broker.client.close()


class PatientBroker(RedisBroker):
    """Dramatiq's broker without delayed messages, of which we have none, and with consumers that outlast Redis.

    `patience` is how long a connection or an answer may take, in seconds. Raises SettingsError.
    """

    client: redis.Redis

    def __init__(self, url: str, patience: float = redis_client.PATIENCE_SECONDS) -> None:
        client = redis_client.client(url, patience)
        super().__init__(  # type: ignore[no-untyped-call]
            client=client, namespace=redis_client.namespace(url), middleware=[AsyncIO()]
        )
        self._away = RateLimitedWarning("queue.away")

    def declare_queue(self, queue_name: str) -> None:
        """As Dramatiq has it, but for the queue of what is to be done later: it would be asked for all the time."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> Consumer:
        """As Dramatiq has it. `timeout` is milliseconds."""
        return _PatientConsumer(super().consume(queue_name, prefetch, timeout), self._away)


class _PatientConsumer(Consumer):
    """A consumer that never fails. Dramatiq's own lets a worker thread wait for Redis with a job that is done."""

    def __init__(self, consumer: Consumer, away: RateLimitedWarning) -> None:
        self._consumer = consumer
        self._away = away

    def __next__(self) -> MessageProxy | None:
        try:
            return next(self._consumer)
        except DecodeError:  # somebody else's
            return None
        except (ConnectionClosed, redis.RedisError, OSError) as error:
            self._complain(error)
            time.sleep(_PAUSE)
            return None

    def ack(self, message: MessageProxy) -> None:
        """A message that can't be taken away comes again, and finds its job done."""
        self._attempt(self._consumer.ack, message)

    def nack(self, message: MessageProxy) -> None:
        self._attempt(self._consumer.nack, message)

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """What can't be given back is sent again by the sweep."""
        self._attempt(self._consumer.requeue, messages)

    def close(self) -> None:
        self._attempt(self._consumer.close)

    def _attempt(self, act: Any, *given: Any) -> None:
        try:
            act(*given)
        except (ConnectionClosed, redis.RedisError, OSError) as error:
            self._complain(error)

    def _complain(self, error: Exception) -> None:
        # Dramatiq hides what Redis said behind an error of its own.
        said = error.args[0] if isinstance(error, ConnectionClosed) and error.args else error
        self._away.failed(redis_client.reason(said))
