"""Waits for what another process writes: no message says it for sure, so the row is read again and again."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from app.database.sessions import Database

T = TypeVar("T")

# Seconds between two reads: few at first, since it mostly takes some milliseconds.
_SHORTEST, _LONGEST, _GROWTH = 0.005, 0.1, 1.5


async def until(database: Database, read: Callable[[AsyncSession], Awaitable[T | None]], seconds: float) -> T | None:
    """What `read` finds, as soon as that is not None; None if it finds nothing within `seconds`.

    No transaction may be open meanwhile. Raises DatabaseUnavailable.
    """
    loop, pause = asyncio.get_running_loop(), _SHORTEST
    end = loop.time() + seconds
    while True:
        async with database.read() as session:
            found = await read(session)
        left = end - loop.time()
        if found is not None or left <= 0:
            return found
        await asyncio.sleep(min(pause, left))
        pause = min(pause * _GROWTH, _LONGEST)
