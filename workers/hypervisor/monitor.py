"""Commands to a running QEMU over QMP. Source: QEMU's docs/interop/qmp-spec.

A monitor serves one client at a time, and a second one would wait without an answer. So each virtual machine has
several, each with a lock.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from qemu.qmp import ExecuteError, QMPClient, QMPError

from workers.hypervisor.files import ServerFiles, read_json
from workers.hypervisor.locks import try_lock
from workers.hypervisor.machine import MONITORS
from workers.hypervisor.port import HypervisorError, HypervisorUnavailable
from workers.qemu.sockets import connect

_BETWEEN_TRIES = 0.02
# The client logs as an error what it also raises.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class NotRunning(HypervisorError):
    """Raised when the virtual machine does not run, or ended."""


class Refused(HypervisorError):
    """Raised when QEMU refuses a command."""


class Monitor:
    """A connection to a monitor. Each call takes at most `seconds`."""

    def __init__(self, client: QMPClient, seconds: float) -> None:
        self._client = client
        self._seconds = seconds

    async def execute(self, command: str, **arguments: object) -> Any:
        """Execute a command; an underscore in the name of an argument stands for a hyphen. Return QEMU's answer.

        Raises Refused, NotRunning, HypervisorUnavailable.
        """
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        with _translated(command):
            async with asyncio.timeout(self._seconds):
                return await self._client.execute(command, named)

    async def attempt(self, command: str, **arguments: object) -> bool:
        """Execute a command that may have been executed before; return whether QEMU accepted it."""
        try:
            await self.execute(command, **arguments)
        except Refused:
            return False
        return True

    async def attempt_until(self, event: str, key: str, value: str, command: str, **arguments: object) -> None:
        """Like `attempt`; if QEMU accepts, wait for the event whose data has this value."""
        with self._client.listener(event) as events:
            if await self.attempt(command, **arguments):
                with _translated(event):
                    async with asyncio.timeout(self._seconds):
                        while not _has(await events.get(), key, value):
                            pass


def _has(event: Mapping[str, object], key: str, value: str) -> bool:
    data = event.get("data")
    return isinstance(data, dict) and data.get(key) == value


@asynccontextmanager
async def connected(server: ServerFiles, seconds: float) -> AsyncIterator[Monitor]:
    """A free monitor of a server, during the block.

    Raises NotRunning; HypervisorUnavailable if QEMU does not answer within `seconds`, or all monitors are in use.
    """
    number, lock = await _free_monitor(server, seconds)
    try:
        client = QMPClient()
        try:
            await _open(client, server, number, seconds)
            yield Monitor(client, seconds)
        finally:
            # It raises again what ended the connection, if something did.
            with suppress(QMPError, OSError, EOFError):
                await client.disconnect()
    finally:
        os.close(lock)


async def _open(client: QMPClient, server: ServerFiles, number: int, seconds: float) -> None:
    try:
        connection = connect(server.monitor(number))
    except OSError as error:
        raise NotRunning(f"server {server.id} does not run: {error}") from error
    with connection, _translated("connect"):
        async with asyncio.timeout(seconds):
            # The client closes its own copy.
            await client.connect(connection.dup())
            answer = await client.execute("query-uuid")
    described = read_json(server.description)
    if described is None or not isinstance(answer, dict) or answer.get("UUID") != described["uuid"]:
        raise HypervisorUnavailable(f"another virtual machine answers for server {server.id}")


async def _free_monitor(server: ServerFiles, seconds: float) -> tuple[int, int]:
    """Lock a monitor; return its number and the descriptor of the lock."""
    deadline = time.monotonic() + seconds
    while True:
        for number in range(MONITORS):
            try:
                lock = try_lock(server.monitor_lock(number))
            except FileNotFoundError as error:
                raise NotRunning(f"server {server.id} does not exist") from error
            if lock is not None:
                return number, lock
        if time.monotonic() > deadline:
            raise HypervisorUnavailable(f"the monitors of server {server.id} have been in use for {seconds:g} s")
        await asyncio.sleep(_BETWEEN_TRIES)


@contextmanager
def _translated(command: str) -> Iterator[None]:
    """Raise the errors of the client and its connection as ours."""
    try:
        yield
    except ExecuteError as error:
        raise Refused(f"{command}: {error}") from error
    except TimeoutError as error:
        raise HypervisorUnavailable(f"QEMU did not answer {command} in time") from error
    except (QMPError, OSError, EOFError) as error:
        raise NotRunning(f"QEMU ended during {command}: {error}") from error
