"""Freezes the file systems of a guest for a moment, through its QEMU guest agent. The guest is not trusted.

Source: QEMU's docs/interop/qemu-ga-ref and qga/qapi-schema.json (guest-sync-delimited, guest-fsfreeze-freeze, -thaw).
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog

from app.sizes import KIB
from workers.hypervisor.files import ServerFiles
from workers.hypervisor.locks import held
from workers.hypervisor.machine import AGENT
from workers.hypervisor.monitor import Monitor
from workers.qemu.sockets import connect

log = structlog.get_logger()

_LONGEST_LINE = 64 * KIB
_MOST_LINES = 64
_THAW_TRIES = 2


class AgentError(Exception):
    """Raised when the agent refuses a command, or its answer is invalid."""


@asynccontextmanager
async def frozen(server: ServerFiles, monitor: Monitor, seconds: float) -> AsyncIterator[bool]:
    """Freeze the guest's file systems during the block; yields whether that worked.

    Where no agent listens, or it does not freeze within `seconds`, the block runs without. The file systems are thawed
    in either case, since an agent may freeze late. Raises HypervisorUnavailable if another point keeps the agent.
    """
    if not await listens(monitor):
        yield False
        return
    async with held(server.agent_lock, seconds):
        try:
            yield await _try_freeze(server, seconds)
        finally:
            await _thaw(server, seconds)


async def listens(monitor: Monitor) -> bool:
    """Whether a program in the guest has opened the agent's port. Raises NotRunning, HypervisorUnavailable."""
    ports = await monitor.execute("query-chardev")
    return any(port.get("label") == AGENT and port.get("frontend-open") for port in ports)


async def _try_freeze(server: ServerFiles, seconds: float) -> bool:
    try:
        count = await _call(server, "guest-fsfreeze-freeze", seconds)
    except (AgentError, OSError, TimeoutError) as error:
        log.warning("server.not_frozen", server=server.id, reason=str(error) or "no answer")
        return False
    return isinstance(count, int) and count > 0


async def _thaw(server: ServerFiles, seconds: float) -> None:
    for _ in range(_THAW_TRIES):
        try:
            await _call(server, "guest-fsfreeze-thaw", seconds)
        except (AgentError, OSError, TimeoutError) as error:
            log.warning("server.not_thawed", server=server.id, reason=str(error) or "no answer")
        else:
            return


async def _call(server: ServerFiles, command: str, seconds: float) -> Any:
    """Connect, synchronize, and execute a command. Raises AgentError, OSError, TimeoutError."""
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_unix_connection(sock=connect(server.agent), limit=_LONGEST_LINE)
        try:
            await _synchronize(reader, writer)
            writer.write(_request(command))
            answer = await _answer(reader)
        except (ValueError, EOFError, RecursionError) as error:
            raise AgentError(f"{command}: {error}") from error
        finally:
            writer.transport.abort()
    if "return" not in answer:
        raise AgentError(f"{command}: {answer.get('error')}")
    return answer["return"]


async def _synchronize(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Skip what is left of earlier conversations: the answer that counts comes after a byte 0xFF."""
    token = secrets.randbelow(1 << 31)
    # The first byte makes the agent discard what it has received so far.
    writer.write(b"\xff" + _request("guest-sync-delimited", {"id": token}))
    for _ in range(_MOST_LINES):
        line = await _line(reader)
        if line.startswith(b"\xff") and _parsed(line.lstrip(b"\xff")).get("return") == token:
            return
    raise AgentError("the agent does not synchronize")


async def _answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    return _parsed(await _line(reader))


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next line. Raises EOFError, and ValueError if it is too long."""
    line = await reader.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the connection was closed")
    return line


def _parsed(line: bytes) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise AgentError("the answer is not an object")
    return found


def _request(command: str, arguments: dict[str, object] | None = None) -> bytes:
    return json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})}).encode() + b"\n"
