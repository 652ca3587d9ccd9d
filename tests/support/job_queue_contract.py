"""What every job queue owes, whatever carries its messages.

A test module of an adapter subclasses JobQueueContract and provides the fixture `place`.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dramatiq
import pytest

from app.adapters.messaging.dramatiq_queue import QUEUE
from app.catalog.work.kinds import OF_WORKERS
from app.lifecycle import JobKind
from app.ports import JobQueue
from workers.jobs.runner import declare_actors

_SECONDS = 30


@dataclass
class Workshop:
    """What the workers of a process were woken for: kinds of jobs, in the order in which they came."""

    woken: list[JobKind] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, kind: JobKind) -> None:
        with self.changed:
            self.woken.append(kind)
            self.changed.notify_all()

    def wait_for(self, *kinds: JobKind) -> None:
        """Wait until workers have been woken for all of these. Fails when they are not."""
        with self.changed:
            assert self.changed.wait_for(lambda: Counter(kinds) <= Counter(self.woken), _SECONDS), self.woken


@dataclass
class QueuePlace:
    """A queue to be tried: who wakes by it, and the broker of a process whose workers are woken."""

    queue: JobQueue
    broker: dramatiq.Broker


@contextmanager
def workers(broker: dramatiq.Broker, act: Callable[[JobKind], None], threads: int = 2) -> Iterator[dramatiq.Worker]:
    """Workers that each call `act` with the kind of a job."""

    async def run(kind: JobKind) -> None:
        await asyncio.to_thread(act, kind)

    declare_actors(broker, run)
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=50)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


class JobQueueContract:
    """The tests. What is sent is taken by real workers."""

    def test_a_worker_is_woken_for_each_kind_of_job(self, place: QueuePlace) -> None:
        shop = Workshop()
        with workers(place.broker, shop.take):
            for kind in OF_WORKERS:
                place.queue.wake(kind)
            shop.wait_for(*OF_WORKERS)
        assert sorted(shop.woken) == sorted(OF_WORKERS)

    def test_each_call_wakes_a_worker_also_before_anybody_works(self, place: QueuePlace) -> None:
        shop = Workshop()
        kinds = [JobKind.CONVERT] * 20
        for kind in kinds:
            place.queue.wake(kind)
        with workers(place.broker, shop.take):
            shop.wait_for(*kinds)
        assert shop.woken == kinds

    def test_a_job_that_fails_is_not_tried_again_by_the_queue(self, place: QueuePlace) -> None:
        shop = Workshop()

        def fail_first(kind: JobKind) -> None:
            shop.take(kind)
            if kind is JobKind.HASH:
                raise RuntimeError("this job fails")

        with workers(place.broker, fail_first, threads=1):
            place.queue.wake(JobKind.HASH)
            shop.wait_for(JobKind.HASH)
            for _ in range(2):
                place.queue.wake(JobKind.ERASE)
            shop.wait_for(JobKind.ERASE, JobKind.ERASE)
        assert shop.woken == [JobKind.HASH, JobKind.ERASE, JobKind.ERASE]

    def test_a_message_of_a_version_before_that_names_a_job_wakes_a_worker_too(self, place: QueuePlace) -> None:
        shop = Workshop()
        old: dramatiq.Message[None] = dramatiq.Message(
            queue_name=QUEUE, actor_name="erase", args=("job_01m8kvnkqbj4njwgagmf05qktz",), kwargs={}, options={}
        )
        with workers(place.broker, shop.take):
            place.broker.enqueue(old)
            shop.wait_for(JobKind.ERASE)

    @pytest.mark.anyio
    async def test_a_queue_that_works_passes_its_check(self, place: QueuePlace) -> None:
        await place.queue.check()
