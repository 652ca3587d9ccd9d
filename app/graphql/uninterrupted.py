"""Work that is finished even when the caller who asked for it has gone."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast

from starlette.requests import ClientDisconnect

Result = TypeVar("Result")


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Run `work` to its end. A cancellation in the meantime takes effect only then."""
    task = asyncio.create_task(work)
    cancellation: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancellation = error
    if cancellation is not None:
        if not task.cancelled():
            task.exception()  # Retrieved, or asyncio would report it as forgotten.
        raise cancellation
    return task.result()


async def while_connected(work: Awaitable[Result], disconnected: Callable[[], Awaitable[None]]) -> Result:
    """Run `work`, and cancel it as soon as `disconnected` returns. Raises ClientDisconnect then."""
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
        # Somebody else may have cancelled the request as well, and that has to go on.
        if gone and running.uncancel() == 0:
            raise ClientDisconnect from None
        raise
    finally:
        finished = True
        watcher.cancel()
