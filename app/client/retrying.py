"""How long a command retries while a gateway does not answer, and how long it waits between attempts."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import AsyncRetrying, AttemptManager, RetryCallState, retry_if_exception, wait_random_exponential

from app.client.errors import ClientError

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """After `seconds` of failures without a success among them, a command gives up.

    Pauses are random, so that those who were cut off together do not come back together: the first takes up to
    `first_pause` seconds, each later one up to twice as long as the one before, and none longer than `longest_pause`.
    """

    seconds: float
    first_pause: float = 0.25
    longest_pause: float = 10

    async def until_done(self, act: Callable[[], Awaitable[Given]]) -> Given:
        """What `act` gives, once it does not fail for a reason that passes by itself. Raises ClientError."""
        async for attempt in self.attempts():
            with attempt:
                return await act()
        raise AssertionError("the last attempt returns or raises")

    def attempts(self, passes: Callable[[ClientError], bool] = lambda error: error.temporary) -> AsyncRetrying:
        """Attempts up to the first success, or the first error that does not pass by itself: `passes` decides."""
        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClientError) and passes(error)),
            wait=wait_random_exponential(multiplier=self.first_pause, max=self.longest_pause),
            stop=_Deadline(self.seconds),
            reraise=True,
        )


def succeeded(attempt: AttemptManager) -> None:
    """Count what fails from here on in this attempt as the first failure: part of its work has succeeded."""
    attempt.retry_state.attempt_number = 1


class _Deadline:
    """Stops a retry that would begin more than `seconds` after the first failure. The first attempt may take hours."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._at = 0.0

    def __call__(self, state: RetryCallState) -> bool:
        failed_at = state.outcome_timestamp or 0.0
        if state.attempt_number == 1:
            self._at = failed_at + self._seconds
        return failed_at + state.upcoming_sleep > self._at
