"""The job queue on Redis: the contract of all job queues, and what happens when Redis goes away."""

import itertools
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.adapters.messaging.dramatiq_queue import QUEUE, QueueUnavailable
from app.adapters.messaging.redis_queue import PatientBroker, RedisQueue
from app.lifecycle import JobKind
from tests.servers.process import free_port
from tests.servers.redis import Redis
from tests.support.job_queue_contract import JobQueueContract, QueuePlace, Workshop, workers

_NUMBERS = itertools.count(10)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def url(redis: Redis) -> str:
    """An empty database of the Redis that all tests share."""
    return redis.database(next(_NUMBERS))


def queue_on(url: str, stack: ExitStack) -> RedisQueue:
    """The queue of one process."""
    queue = RedisQueue(PatientBroker(url))
    stack.callback(queue.close)
    return queue


def broker_on(url: str, stack: ExitStack) -> PatientBroker:
    """The broker of a process that works."""
    broker = PatientBroker(url)
    stack.callback(broker.client.close)
    broker.declare_queue(QUEUE)
    return broker


class TestRedisQueue(JobQueueContract):
    @pytest.fixture
    def place(self, url: str, stack: ExitStack) -> QueuePlace:
        return QueuePlace(queue_on(url, stack), broker_on(url, stack))


def wake_until(queue: RedisQueue, shop: Workshop, kind: JobKind) -> None:
    """Wake a worker over and over, as the sweep does, until one has come."""
    with shop.changed:
        for _ in range(600):
            queue.wake(kind)
            if shop.changed.wait_for(lambda: kind in shop.woken, 0.05):
                return
    pytest.fail(f"nobody has come for {kind}")


def complaints(caplog: pytest.LogCaptureFixture, level: int = logging.WARNING) -> list[str]:
    """What Dramatiq has said that would stand in an operator's log, from this level on."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


@pytest.mark.parametrize("used", [True, False], ids=["used before", "never used"])
def test_workers_go_on_when_redis_is_killed_and_started_again(
    tmp_path: Path, stack: ExitStack, used: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server = stack.enter_context(Redis(tmp_path))
    queue, broker, shop = queue_on(server.url, stack), broker_on(server.url, stack), Workshop()
    with capture_logs() as logs, workers(broker, shop.take):
        if used:
            wake_until(queue, shop, JobKind.CONVERT)
        server.kill()
        for _ in range(100):
            queue.wake(JobKind.HASH)
        server.start()
        wake_until(queue, shop, JobKind.ERASE)
    assert {line["event"] for line in logs} <= {"queue.unavailable", "message.lost"}
    assert len(logs) <= 2
    assert complaints(caplog) == []


def test_a_job_that_ends_while_redis_is_away_ends_all_the_same(tmp_path: Path, stack: ExitStack) -> None:
    server = stack.enter_context(Redis(tmp_path))
    queue, broker, shop = queue_on(server.url, stack), broker_on(server.url, stack), Workshop()
    away = threading.Event()

    def work(kind: JobKind) -> None:
        shop.take(kind)
        away.wait(30)

    with workers(broker, work, threads=1):
        queue.wake(JobKind.CONVERT)
        shop.wait_for(JobKind.CONVERT)
        server.kill()
        away.set()
        # Here the worker stops, and would hang if it insisted on telling Redis first.


def test_what_a_busy_worker_can_not_do_is_left_to_others(url: str, stack: ExitStack) -> None:
    queue, busy, idle = queue_on(url, stack), broker_on(url, stack), broker_on(url, stack)
    for kind in (JobKind.CONVERT, JobKind.HASH, JobKind.ERASE):
        queue.wake(kind)
    mine = busy.consume(QUEUE, prefetch=1, timeout=10)
    others = idle.consume(QUEUE, prefetch=2, timeout=10)

    first = next(message for message in mine if message is not None)
    assert [next(mine) for _ in range(5)] == [None] * 5
    rest = list(itertools.islice((message for message in others if message is not None), 2))

    assert [message.actor_name for message in (first, *rest)] == ["convert", "hash", "erase"]
    mine.ack(first)
    assert next(mine) is None


def test_gateways_on_two_databases_of_a_redis_have_queues_of_their_own(
    redis: Redis, url: str, stack: ExitStack
) -> None:
    other = redis.database(next(_NUMBERS))
    shop = Workshop()
    stranger = queue_on(other, stack)
    stranger.wake(JobKind.HASH)
    stranger.close()
    with workers(broker_on(url, stack), shop.take):
        wake_until(queue_on(url, stack), shop, JobKind.CONVERT)
    assert set(shop.woken) == {JobKind.CONVERT}


def test_a_message_of_somebody_else_stops_nobody(url: str, stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    queue, broker, shop = queue_on(url, stack), broker_on(url, stack), Workshop()
    key = f"{broker.namespace}:{QUEUE}"
    broker.client.hset(f"{key}.msgs", "strange", b"\xff not a message")
    broker.client.rpush(key, "strange", "not there")
    with workers(broker, shop.take):
        wake_until(queue, shop, JobKind.CONVERT)
    assert complaints(caplog, logging.ERROR) == []


@pytest.mark.anyio
async def test_a_redis_that_is_not_there_fails_the_check_and_is_not_named(stack: ExitStack) -> None:
    port = free_port()
    queue = queue_on(f"redis://:geheim@127.0.0.1:{port}/0", stack)
    with pytest.raises(QueueUnavailable) as refused:
        await queue.check()
    assert str(refused.value) == "Redis can't be reached: Connection refused"


@pytest.mark.anyio
@pytest.mark.parametrize("password", ["wrong-geheim", ""])
async def test_a_wrong_password_fails_the_check_and_is_not_shown(
    tmp_path: Path, stack: ExitStack, password: str
) -> None:
    server = stack.enter_context(Redis(tmp_path, password="geheim"))
    await queue_on(server.url, stack).check()
    queue = queue_on(f"redis://:{password}@127.0.0.1:{server.port}/0", stack)
    with pytest.raises(QueueUnavailable) as refused:
        await queue.check()
    assert str(refused.value) == "Redis refuses the user or the password"


@pytest.mark.anyio
async def test_a_redis_that_does_not_answer_fails_the_check(stack: ExitStack) -> None:
    silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    queue = RedisQueue(PatientBroker(f"redis://127.0.0.1:{silent.getsockname()[1]}/0", patience=0.05))
    stack.callback(queue.close)
    with pytest.raises(QueueUnavailable, match="Redis does not answer in time"):
        await queue.check()


def test_sending_waits_for_nobody_and_what_can_not_be_sent_is_complained_of_once(stack: ExitStack) -> None:
    queue = queue_on(f"redis://127.0.0.1:{free_port()}/0", stack)
    with capture_logs() as logs:
        for _ in range(1000):
            queue.wake(JobKind.CONVERT)
        queue.close()
    assert [(line["event"], line["sender"], line["reason"]) for line in logs] == [
        ("message.lost", "jobs", "Redis can't be reached: Connection refused")
    ]
