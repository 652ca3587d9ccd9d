"""The job queue on Dramatiq: a message names a kind of job, and the workers' actor for it takes the next one.

The table of jobs is the source of truth. Dramatiq's retries, limits and results are not used: a message that is lost
or arrives twice only costs the time until the sweep sends it again.
"""

import structlog
from dramatiq import Broker, Message
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO

from app.errors import GatewayError

QUEUE = "images"

log = structlog.get_logger()


class QueueUnavailable(GatewayError):
    """Raised when messages can't be sent."""


class DramatiqQueue:
    """`ports.JobQueue` on a broker inside this process."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        broker.declare_queue(QUEUE)

    def wake(self, kind: str) -> None:
        """As the port says. If sending fails, the sweep finds the job."""
        try:
            self._broker.enqueue(message_of(kind))
        except Exception:
            log.warning("queue.send_failed", kind=kind, exc_info=True)

    async def check(self) -> None:
        """As the port says."""
        if QUEUE not in self._broker.get_declared_queues():
            raise QueueUnavailable("the job queue has not been declared")


def message_of(kind: str) -> Message[None]:
    """The message that makes a worker take the next job of a kind."""
    return Message(queue_name=QUEUE, actor_name=kind.lower(), args=(), kwargs={}, options={})


def local_broker() -> StubBroker:
    """Dramatiq's in-process broker."""
    return StubBroker(middleware=[AsyncIO()])
