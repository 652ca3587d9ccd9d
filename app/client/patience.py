"""How long a command puts up with a gateway that does not answer, and how it waits meanwhile."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from app.client.errors import ClientError

Given = TypeVar("Given")


@dataclass(frozen=True, slots=True)
class Patience:
    """After `seconds` of trouble without a break in it, a command gives up. Pauses grow up to `longest_pause`."""

    seconds: float
    first_pause: float = 0.25
    longest_pause: float = 10

    async def until_done(self, act: Callable[[], Awaitable[Given]]) -> Given:
        """What `act` gives, once it does not fail for a reason that passes by itself."""
        trouble = Trouble(self)
        while True:
            try:
                return await act()
            except ClientError as error:
                if not error.temporary:
                    raise
                await trouble.rest(error)


class Trouble:
    """One stretch of trouble: `rest` after each failure, `over` when something has succeeded."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._began: float | None = None
        self._pause = patience.first_pause

    async def rest(self, error: ClientError) -> None:
        """Wait a little longer than the last time. Raises `error` when it has lasted too long."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        if now + self._pause > self._began + self._patience.seconds:
            raise error
        # Spread, so that those who were cut off together do not come back together.
        await asyncio.sleep(self._pause * random.uniform(0.5, 1))  # noqa: S311  # nosec B311 (no secret: it only spreads retries)
        self._pause = min(2 * self._pause, self._patience.longest_pause)

    def over(self) -> None:
        """Forget the trouble."""
        self._began = None
        self._pause = self._patience.first_pause
