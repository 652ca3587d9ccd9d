"""Reads what a server writes to its console, and follows it."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from app.client.api.gateway import Api, present
from app.client.errors import NotFound
from app.client.generated.console import ConsoleNodeServer, ConsoleNodeServerConsole
from app.client.generated.enums import ServerStatus
from app.client.retrying import RetryPolicy

# The most that the gateway returns, in KiB, and what is usually enough between two looks.
MAXIMUM_KIB = 256
_FOLLOWED_KIB = 16
# The gateway's answers may be a second old: what is asked for after this time was read after the last answer.
POLL_SECONDS = 1.0
_LIVE = (ServerStatus.STARTING, ServerStatus.RUNNING)
# What a character becomes that is cut off at the end of the text.
_REPLACED = "\ufffd"
# How much two texts have to share, in characters, to count as one after the other.
_SHARED = 16


@dataclass(frozen=True, slots=True)
class Written:
    """What a server wrote. With `gap`, it wrote more before this text, which was not read in time."""

    text: str
    read_at: str
    gap: bool = False


async def console_of(api: Api, server_id: str, kib: int) -> ConsoleNodeServerConsole:
    """The last `kib` KiB of a server's console, and whether there is more before it. Raises ClientError."""
    return present((await _read(api, server_id, kib)).console)


async def follow_console(
    api: Api, server_id: str, kib: int, policy: RetryPolicy, poll_seconds: float
) -> AsyncGenerator[Written, None]:
    """The last `kib` KiB of a server's console, then what it writes, until it stops. Raises ClientError."""
    seen = await policy.until_done(lambda: _read(api, server_id, kib))
    known = present(seen.console)
    yield Written(known.text, known.read_at)
    while True:
        # A server that has stopped may have written more since it was read.
        last = seen.status not in _LIVE
        await asyncio.sleep(poll_seconds)
        seen = await policy.until_done(lambda: _read(api, server_id, _FOLLOWED_KIB))
        new = written_since(known.text, present(seen.console).text)
        if new is None:
            seen = await policy.until_done(lambda: _read(api, server_id, MAXIMUM_KIB))
            new = written_since(known.text, present(seen.console).text)
        known = present(seen.console)
        if new != "":
            yield Written(known.text if new is None else new, known.read_at, gap=new is None)
        if last:
            return


def written_since(before: str, now: str) -> str | None:
    """What a console shows in `now` after `before`: two ends of it, the newer one last. None if they don't meet.

    Where the text repeats itself, this is the least that can have been written.
    """
    before = before.rstrip(_REPLACED)
    if now.startswith(before):
        return now[len(before) :]
    # The first line may be cut off, also within a character or an escape sequence.
    whole = now[now.find("\n") + 1 :]
    at = before.find(whole[:_SHARED])
    while 0 <= at <= len(before) - _SHARED:
        if whole.startswith(before[at:]):
            return whole[len(before) - at :]
        at = before.find(whole[:_SHARED], at + 1)
    return None


async def _read(api: Api, server_id: str, kib: int) -> ConsoleNodeServer:
    node = (await api.console(server_id, kib)).node
    if not isinstance(node, ConsoleNodeServer):
        raise NotFound("There is no such server.")
    return node
