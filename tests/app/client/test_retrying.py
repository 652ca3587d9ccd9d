"""How long a command retries, and what starts that time again."""

import asyncio

import pytest

from app.client.errors import Overloaded, Refused
from app.client.retrying import RetryPolicy, succeeded


def busy() -> Overloaded:
    return Overloaded("Not now.")


def test_an_attempt_that_took_longer_than_the_policy_allows_is_followed_by_another() -> None:
    policy, times = RetryPolicy(0.05, first_pause=0.001), 0

    async def act() -> int:
        nonlocal times
        times += 1
        if times == 1:
            # As a large part does, that fails at its end.
            await asyncio.sleep(0.1)
            raise busy()
        return times

    assert asyncio.run(policy.until_done(act)) == 2


def test_a_success_within_an_attempt_starts_the_time_for_retries_again() -> None:
    async def failures(*, succeeds: bool) -> int:
        times = 0
        async for attempt in RetryPolicy(0.05, first_pause=0.001).attempts():
            with attempt:
                times += 1
                await asyncio.sleep(0.03)
                if times == 10:
                    break
                if succeeds:
                    succeeded(attempt)
                raise busy()
        return times

    assert asyncio.run(failures(succeeds=True)) == 10
    with pytest.raises(Overloaded):
        asyncio.run(failures(succeeds=False))


def test_what_is_retried_can_be_said() -> None:
    async def failing(error: Exception) -> int:
        times = 0
        async for attempt in RetryPolicy(20, first_pause=0.001).attempts(lambda error: isinstance(error, Refused)):
            with attempt:
                times += 1
                if times < 3:
                    raise error
        return times

    assert asyncio.run(failing(Refused("No."))) == 3
    with pytest.raises(Overloaded):
        asyncio.run(failing(busy()))
