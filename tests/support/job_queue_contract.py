"""What every job queue owes, whatever carries its messages.

A test module of an adapter subclasses JobQueueContract and gives the fixture `place`.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import dramatiq
import pytest

from app.adapters.messaging.dramatiq_queue import QUEUE
from app.lifecycle import JobKind
from app.ports import JobQueue

_SECONDS = 30


@dataclass
class Workshop:
    """What the workers of a process were told: kinds and ids of jobs, in the order in which they came."""

    told: list[tuple[str, str]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, kind: str, job_id: str) -> None:
        with self.changed:
            self.told.append((kind, job_id))
            self.changed.notify_all()

    def wait_for(self, *jobs: tuple[str, str]) -> None:
        """Wait until all of these have come. Fails when they don't."""
        with self.changed:
            assert self.changed.wait_for(lambda: set(jobs) <= set(self.told), _SECONDS), self.told


@dataclass
class QueuePlace:
    """A queue to be tried: who sends by it, and the broker of a process whose workers are told."""

    queue: JobQueue
    broker: dramatiq.Broker


@contextmanager
def workers(broker: dramatiq.Broker, act: Callable[[str, str], None], threads: int = 2) -> Iterator[dramatiq.Worker]:
    """Workers of which each does `act` with kind and id of a job."""
    for kind in JobKind:
        declare = dramatiq.actor(broker=broker, actor_name=kind.lower(), queue_name=QUEUE)
        declare(_actor(act, kind))
    worker = dramatiq.Worker(broker, worker_threads=threads, worker_timeout=50)
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def _actor(act: Callable[[str, str], None], kind: JobKind) -> Callable[[str], None]:
    def run(job_id: str) -> None:
        act(kind, job_id)

    return run


class JobQueueContract:
    """The tests. What is sent is taken by real workers."""

    def test_a_worker_is_told_kind_and_id_of_a_job(self, place: QueuePlace) -> None:
        shop = Workshop()
        jobs = [(kind, f"job_{kind.lower()}") for kind in JobKind]
        with workers(place.broker, shop.take):
            for kind, job_id in jobs:
                place.queue.send(kind, job_id)
            shop.wait_for(*jobs)
        assert sorted(shop.told) == sorted(jobs)

    def test_what_is_sent_before_anybody_works_is_taken_when_somebody_does(self, place: QueuePlace) -> None:
        shop = Workshop()
        jobs = [(JobKind.CONVERT, f"job_{number}") for number in range(20)]
        for kind, job_id in jobs:
            place.queue.send(kind, job_id)
        with workers(place.broker, shop.take):
            shop.wait_for(*jobs)
        assert sorted(shop.told) == sorted(jobs)

    def test_a_job_that_fails_is_not_tried_again_by_the_queue(self, place: QueuePlace) -> None:
        shop = Workshop()

        def fail_first(kind: str, job_id: str) -> None:
            shop.take(kind, job_id)
            if job_id == "job_1":
                raise RuntimeError("this job fails")

        with workers(place.broker, fail_first, threads=1):
            for job_id in ("job_1", "job_2", "job_3"):
                place.queue.send(JobKind.ERASE, job_id)
            shop.wait_for((JobKind.ERASE, "job_3"))
        assert [job_id for _, job_id in shop.told] == ["job_1", "job_2", "job_3"]

    @pytest.mark.anyio
    async def test_a_queue_that_works_passes_its_check(self, place: QueuePlace) -> None:
        await place.queue.check()
