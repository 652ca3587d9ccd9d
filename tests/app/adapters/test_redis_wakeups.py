"""Wake-ups over Redis: the contract of all wake-ups, and what happens when Redis goes away or says strange things."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis as redis_package
from structlog.testing import capture_logs

from app.adapters.messaging.redis_wakeups import RedisWakeups, decoded, encoded
from app.errors import SettingsError
from tests.servers.redis import Redis
from tests.support.wakeups_contract import Ear, WakeupsContract, WakeupsPlace, heard, listening, report


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def wakeups_on(url: str, stack: ExitStack) -> RedisWakeups:
    """The wake-ups of one process."""
    made = RedisWakeups(url)
    stack.callback(made.close)
    return made


@asynccontextmanager
async def two_processes(url: str, stack: ExitStack) -> AsyncIterator[tuple[RedisWakeups, Ear]]:
    """One that tells, and what another one hears."""
    here, there = wakeups_on(url, stack), wakeups_on(url, stack)
    async with listening(there, lambda: here.progressed(report("img_probe"))) as ear:
        yield here, ear


class TestRedisWakeups(WakeupsContract):
    @pytest.fixture
    def place(self, redis: Redis, stack: ExitStack) -> WakeupsPlace:
        return WakeupsPlace(wakeups_on(redis.url, stack), [wakeups_on(redis.url, stack) for _ in range(2)])


@pytest.mark.anyio
async def test_a_listener_is_told_to_look_as_soon_as_it_listens(redis: Redis, stack: ExitStack) -> None:
    ear = Ear()
    listening = asyncio.create_task(ear.listen(wakeups_on(redis.url, stack)))
    await ear.until(lambda ear: ear.heard == [None])
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.anyio
async def test_a_redis_that_is_back_is_subscribed_to_again_and_missed_events_are_read(
    tmp_path: Path, stack: ExitStack
) -> None:
    server = stack.enter_context(Redis(tmp_path))
    async with two_processes(server.url, stack) as (here, ear):
        with capture_logs() as logs:
            server.kill()
            for _ in range(1000):
                here.feed_grew()
                here.progressed(report())
            server.start()
            await ear.until(lambda ear: ear.heard[-1:] == [None])
            ear.heard.clear()
            async with asyncio.timeout(30):
                while report("img_2") not in ear.heard:  # the one that tells finds Redis again, too
                    here.progressed(report("img_2"))
                    await asyncio.sleep(0.01)
    assert {line["event"] for line in logs} <= {"wakeups.unavailable", "message.lost"}
    assert len(logs) <= 2
    assert all("127.0.0.1" not in str(line) for line in logs)


@pytest.mark.anyio
async def test_a_listener_waits_for_a_redis_that_is_not_there_yet(tmp_path: Path, stack: ExitStack) -> None:
    server = Redis(tmp_path)
    ear = Ear()
    listening = asyncio.create_task(ear.listen(wakeups_on(server.url, stack)))
    await asyncio.sleep(0)
    stack.enter_context(server)
    await ear.until(lambda ear: ear.heard == [None])
    listening.cancel()
    await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "message",
    [
        b"\xff\xfe\x00 not UTF-8",
        b"not JSON",
        b"[]",
        b"1",
        b'{"image_id": "img_1"}',
        json.dumps({**json.loads(encoded(report())), "more": 1}).encode(),
        json.dumps({**json.loads(encoded(report())), "image_id": ["img_1"]}).encode(),
        json.dumps({**json.loads(encoded(report())), "bytes_done": "1"}).encode(),
        json.dumps({**json.loads(encoded(report())), "updated_at": "2026-03-01T12:00:00"}).encode(),
        json.dumps({**json.loads(encoded(report())), "updated_at": "yesterday"}).encode(),
        b"[" * 100_000,
    ],
)
async def test_what_is_no_message_of_ours_is_passed_over(redis: Redis, stack: ExitStack, message: bytes) -> None:
    async with two_processes(redis.url, stack) as (here, ear):
        stranger = stack.enter_context(redis_package.Redis.from_url(redis.url))
        stranger.publish("images:0:wakeups", message)
        here.progressed(report())
        await ear.until(lambda ear: bool(heard(ear)))
        assert heard(ear) == [report()]
        assert None not in ear.heard


@pytest.mark.anyio
async def test_gateways_on_two_databases_of_a_redis_do_not_hear_each_other(redis: Redis, stack: ExitStack) -> None:
    async with two_processes(redis.database(1), stack) as (here, ear):
        other = wakeups_on(redis.database(2), stack)
        other.progressed(report("img_other"))
        other.close()
        here.progressed(report())
        await ear.until(lambda ear: bool(heard(ear)))
        assert heard(ear) == [report()]


@pytest.mark.anyio
async def test_of_what_waits_while_redis_is_busy_only_the_newest_goes_out(redis: Redis, stack: ExitStack) -> None:
    async with two_processes(redis.url, stack) as (here, ear):
        operator = stack.enter_context(redis_package.Redis.from_url(redis.url))
        operator.client_pause(30_000, all=False)  # what writes, and what publishes
        for done in range(1000):
            here.feed_grew()
            here.progressed(report(done=done))
        operator.client_unpause()
        await ear.until(lambda ear: report(done=999) in ear.heard)
        # Those that were being sent, and the newest of each.
        assert len(ear.heard) <= 20


def test_a_message_says_what_the_report_says() -> None:
    assert decoded(encoded(report())) == report()
    assert decoded(b"{}") is None


def test_an_option_that_there_is_not_is_a_mistake_in_the_settings(redis: Redis) -> None:
    with pytest.raises(SettingsError, match="IMAGES_BROKER_URL: the address has an option"):
        RedisWakeups(f"{redis.url}?colour=blue")
