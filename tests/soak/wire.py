"""Connections of attackers: bytes as they like them, from an address of their own, with what came back in a word."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

from tests.soak.target import Target

# Attackers come from another address than users, as they would: all of 127.0.0.0/8 is this machine.
_FROM = ("127.0.0.2", 0)
_ANSWER_SECONDS = 60.0
_MASK = bytes(4)


class Wire:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, content: bytes) -> bool:
        """Send bytes; False once the other side has gone."""
        with suppress(ConnectionError):
            self.writer.write(content)
            await self.writer.drain()
            return True
        return False

    async def status(self, patience: float = _ANSWER_SECONDS) -> str:
        """`401`, or `400 SOME_CODE` with the code of the first error, `closed`, or `no answer` within `patience` s."""
        try:
            async with asyncio.timeout(patience):
                return await self._answer()
        except (ConnectionError, asyncio.IncompleteReadError):
            return "closed"
        except asyncio.LimitOverrunError:
            return "an endless answer"
        except TimeoutError:
            return "no answer"

    async def _answer(self) -> str:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = head.split()[1]
        length = next((line for line in head.lower().splitlines() if line.startswith("content-length:")), None)
        body = await self.reader.readexactly(int(length.split(":")[1])) if length else b""
        code = _code(body)
        return f"{status} {code}" if code else status

    async def frame(self, patience: float) -> tuple[int, bytes]:
        """The next frame of a WebSocket. Raises TimeoutError, ConnectionError, asyncio.IncompleteReadError."""
        async with asyncio.timeout(patience):
            first, second = await self.reader.readexactly(2)
            size = second & 0x7F
            if size >= 126:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8), "big")
            return first & 0x0F, await self.reader.readexactly(size)

    async def text(self, message: Mapping[str, object]) -> bool:
        """Send a message over a WebSocket; False once the other side has gone."""
        payload = json.dumps(message).encode()
        size = len(payload)
        length = bytes([0x80 | size]) if size < 126 else bytes([0xFE]) + size.to_bytes(2, "big")
        return await self.send(bytes([0x81]) + length + _MASK + payload)


def _code(body: bytes) -> str:
    """The code of the first error in an answer; of userErrors, too."""
    try:
        answer = json.loads(body)
        errors = answer.get("errors") or []
        payloads = [each for each in (answer.get("data") or {}).values() if isinstance(each, dict)]
    except (ValueError, AttributeError):
        return ""
    found = [error.get("extensions", {}).get("code", "") for error in errors]
    found += [error.get("code", "") for payload in payloads for error in payload.get("userErrors") or []]
    return str(found[0]) if found else ""


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Wire]:
    """A connection to the gateway. Raises ConnectionError."""
    async with asyncio.timeout(_ANSWER_SECONDS):
        reader, writer = await asyncio.open_connection(*target.host, local_addr=_FROM, limit=1 << 20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def head(target: Target, method: str, path: str, **headers: str) -> bytes:
    """The head of a request; `_` in the names of headers stands for `-`."""
    lines = [f"{method} {path} HTTP/1.1", "Host: {}:{}".format(*target.host)]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def operation(target: Target, token: str, query: str, variables: Mapping[str, object] | None = None) -> bytes:
    """A whole GraphQL request."""
    body = json.dumps({"query": query, "variables": variables or {}}, separators=(",", ":")).encode()
    caller = {"authorization": f"Bearer {token}"} if token else {}
    given = {"content_type": "application/json", "accept": "application/json", "content_length": str(len(body))}
    return head(target, "POST", "/graphql", **given, **caller) + body


async def ask(target: Target, token: str, query: str, variables: Mapping[str, object] | None = None) -> str:
    """Make a GraphQL request over a connection of its own; what came back."""
    async with connected(target) as wire:
        await wire.send(operation(target, token, query, variables))
        return await wire.status()


async def shake_hands(target: Target, wire: Wire) -> str:
    """Ask for a WebSocket; what came back, `101` when it is there."""
    given = {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec_websocket_key": base64.b64encode(os.urandom(16)).decode(),
        "sec_websocket_version": "13",
        "sec_websocket_protocol": "graphql-transport-ws",
    }
    await wire.send(head(target, "GET", "/graphql", **given))
    return await wire.status()
