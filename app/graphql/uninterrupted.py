"""Runs work to its end, or only as long as its client is connected."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect

Result = TypeVar("Result")


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end. If it is cancelled in the meantime, the cancellation is raised afterwards."""
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        if not task.cancelled():
            task.exception()  # Otherwise asyncio would log that it was never retrieved.
        raise cancellation
    return task.result()


async def while_connected(work: Awaitable[Result], disconnected: Callable[[], Awaitable[None]]) -> Result:
    """Run `work`; if `disconnected` returns first, cancel it and raise ClientDisconnect."""
    running = cast("asyncio.Task[Any]", asyncio.current_task())
    gone = finished = False

    async def watch() -> None:
        nonlocal gone
        await disconnected()
        if not finished:
            gone = True
            running.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # The request may have been cancelled from elsewhere, too; that cancellation has to be raised.
        if gone and running.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        finished = True
        watcher.cancel()
