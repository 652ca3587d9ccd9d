"""How long a command retries while the gateway does not respond, and how long it waits between attempts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, AttemptManager, RetryCallState, retry_if_exception, wait_random_exponential

from app.client.errors import ClientError

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A command gives up after `seconds` of failures without a success in between.

    Pauses are random, so that clients that lost their connections at the same time do not return at the same time. The
    first takes up to `first_pause` seconds, each later one up to twice its predecessor, and none longer than
    `longest_pause`.
    """

    seconds: float
    first_pause: float = 0.25
    longest_pause: float = 10

    async def until_done(self, act: Callable[[], Awaitable[Given]]) -> Given:
        """The result of `act`, which is retried while it fails for a temporary reason. Raises ClientError."""
        async for attempt in self.attempts():
            with attempt:
                return await act()
        raise AssertionError("the last attempt returns or raises")

    def attempts(self, passes: Callable[[ClientError], bool] = lambda error: error.temporary) -> AsyncRetrying:
        """Attempts until one succeeds, or fails with an error that is not temporary: `passes` decides."""
        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClientError) and passes(error)),
            wait=wait_random_exponential(multiplier=self.first_pause, max=self.longest_pause),
            stop=_Deadline(self.seconds),
            reraise=True,
        )


def succeeded(attempt: AttemptManager) -> None:
    """Count the next failure in this attempt as the first one, because part of its work has succeeded."""
    attempt.retry_state.attempt_number = 1


class _Deadline:
    """Prevents retries that would begin more than `seconds` after the first failure. An attempt may take hours."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = 0.0

    def __call__(self, state: RetryCallState) -> bool:
        failed_at = state.outcome_timestamp or 0.0
        if state.attempt_number == 1:
            self._at = failed_at + self._seconds
        return failed_at + state.upcoming_sleep > self._at
