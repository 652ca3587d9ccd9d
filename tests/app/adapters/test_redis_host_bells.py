"""The bells of hosts over Redis: a launch in one process starts at once in another."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.adapters.chosen import messaging
from app.adapters.messaging.redis_host_bells import RedisHostBells
from app.lifecycle import JobKind
from app.models import Job
from app.settings import Settings
from tests.servers.redis import Redis
from tests.support.host_bells_contract import BellsPlace, HostBellsContract, sleeping


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def bells_on(url: str, stack: ExitStack) -> RedisHostBells:
    """The bells of one process."""
    made = RedisHostBells(url)
    stack.callback(made.close)
    return made


class TestRedisHostBells(HostBellsContract):
    @pytest.fixture
    def place(self, redis: Redis, stack: ExitStack) -> BellsPlace:
        return BellsPlace(bells_on(redis.url, stack), bells_on(redis.url, stack))


@pytest.mark.anyio
async def test_a_host_is_woken_when_redis_is_back_since_it_may_have_missed_something(
    tmp_path: Path, stack: ExitStack
) -> None:
    server = stack.enter_context(Redis(tmp_path))
    async with sleeping(bells_on(server.url, stack), "hst_1") as sleeper:
        server.kill()
        server.start()
        await sleeper.until(2)


@pytest.mark.anyio
async def test_gateways_on_two_databases_of_a_redis_do_not_wake_each_others_hosts(
    redis: Redis, stack: ExitStack
) -> None:
    async with sleeping(bells_on(redis.database(1), stack), "hst_1") as sleeper:
        other = bells_on(redis.database(2), stack)
        other.ring("hst_1")
        other.close()
        bells_on(redis.database(1), stack).ring("hst_1")
        await sleeper.until(2)
        assert sleeper.woken == 2


@pytest.mark.anyio
async def test_a_job_of_a_host_wakes_it_wherever_it_runs(redis: Redis, tmp_path: Path, stack: ExitStack) -> None:
    settings = Settings(data=tmp_path, broker_url=redis.url)
    here, there = (stack.enter_context(messaging(settings, works=False)) for _ in range(2))
    async with sleeping(there.bells, "hst_1") as sleeper:
        here.announce([Job(kind=JobKind.SETTLE_SERVER, host_id="hst_1")], [])
        await sleeper.until(2)
