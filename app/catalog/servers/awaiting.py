"""Waits for what another process writes into the database, such as the result of a job."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

# The first and the longest interval between two looks, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.1


async def awaited(look: Callable[[], Awaitable[T | None]], seconds: float) -> T | None:
    """The first result of `look` that is not None. It is called at growing intervals; None after `seconds`.

    `look` must not keep a session open between calls: it reads what was committed meanwhile.
    """
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + seconds, _FIRST_PAUSE
    while (found := await look()) is None:
        left = deadline - loop.time()
        if left <= 0:
            return None
        await asyncio.sleep(min(pause, left))
        pause = min(2 * pause, _LONGEST_PAUSE)
    return found
