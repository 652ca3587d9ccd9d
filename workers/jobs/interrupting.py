"""Interrupts the work of a job when it is cancelled."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from workers.errors import Cancelled

T = TypeVar("T")


async def unless(cancelled: asyncio.Event, act: Coroutine[Any, Any, T]) -> T:
    """The result of `act`, which is interrupted when `cancelled` is set: then raises Cancelled."""
    if cancelled.is_set():
        act.close()
        raise Cancelled("the job was released")
    acting = asyncio.ensure_future(act)
    waiting = asyncio.ensure_future(cancelled.wait())
    try:
        await asyncio.wait({acting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if acting.done():
            return acting.result()
        raise Cancelled("the job was released")
    finally:
        for task in (acting, waiting):
            task.cancel()
        await asyncio.gather(acting, waiting, return_exceptions=True)
