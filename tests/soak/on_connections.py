"""Attacks on connections: heads without end, requests that never finish, and connections that say nothing."""

import asyncio
from collections.abc import Awaitable, Callable

from tests.soak.target import Target
from tests.soak.wire import Wire, connected, head

# More than any buffer of the kernel holds: who has sent it has had it read.
_ENDLESS = 16 << 20
_HALF_OPEN = 60
_LIMIT_SECONDS = 60.0
_BURST = 100


async def endless_head(target: Target) -> str:
    """Header lines until the gateway closes the connection."""
    lines = b"X-Filler: " + b"a" * 8000 + b"\r\n"
    async with connected(target) as wire:
        await wire.send(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n")
        for _ in range(_ENDLESS // len(lines)):
            if not await wire.send(lines) or wire.reader.at_eof():
                return "closed"
        return "took 16 MiB"


async def many_fields(target: Target) -> str:
    """A head of 3,000 short lines."""
    async with connected(target) as wire:
        await wire.send(head(target, "GET", "/healthz", **{f"x_{number}": "1" for number in range(3000)}))
        return await wire.status()


async def half_open_heads(target: Target) -> str:
    """Sixty heads at once that are never finished."""
    return await _held_open(target, lambda wire: wire.send(b"GET /healthz HTTP/1.1\r\nHost: gateway\r\n"))


async def half_sent_bodies(target: Target) -> str:
    """Sixty anonymous bodies at once, half of each never sent."""
    given = {"content_type": "application/json", "content_length": "200000"}
    request = head(target, "POST", "/graphql", **given) + b'{"query": "' + b"#" * 100_000
    return await _held_open(target, lambda wire: wire.send(request))


async def half_sent_bodies_of_a_member(target: Target) -> str:
    """The same with a token that is good."""
    given = {"content_type": "application/json", "content_length": "200000"}
    caller = {"authorization": f"Bearer {target.attacker}"}
    request = head(target, "POST", "/graphql", **given, **caller) + b'{"query": "' + b"#" * 100_000
    return await _held_open(target, lambda wire: wire.send(request))


async def silent_connections(target: Target) -> str:
    """A hundred connections that say nothing, gone after two seconds."""

    async def silent() -> None:
        async with connected(target) as wire:
            await wire.status(2)

    done = await asyncio.gather(*(silent() for _ in range(_BURST)), return_exceptions=True)
    return "some refused" if any(isinstance(each, BaseException) for each in done) else "let in"


async def _held_open(target: Target, begin: Callable[[Wire], Awaitable[bool]]) -> str:
    """What became of sixty requests that were begun: the worst of it."""

    async def one() -> str:
        async with connected(target) as wire:
            await begin(wire)
            return await wire.status(_LIMIT_SECONDS)

    done = await asyncio.gather(*(one() for _ in range(_HALF_OPEN)), return_exceptions=True)
    said = [str(each) if isinstance(each, str) else "refused" for each in done]
    return max(said, key=lambda text: text == "no answer")
