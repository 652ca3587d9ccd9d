"""Interrupts the work of a job when it is cancelled, in the event loop and in threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
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


@asynccontextmanager
async def in_threads(cancelled: asyncio.Event) -> AsyncIterator[threading.Event]:
    """An event for threads that is set when `cancelled` is, during the block."""
    stop = threading.Event()

    async def relay() -> None:
        await cancelled.wait()
        stop.set()

    relaying = asyncio.create_task(relay())
    try:
        yield stop
    finally:
        relaying.cancel()
