"""The file systems of a guest are frozen for a moment, and thawed whatever its agent says."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest

from workers.hypervisor.agent import frozen
from workers.hypervisor.files import HostFiles, ServerFiles
from workers.hypervisor.monitor import Monitor

SECONDS = 20.0
# What an agent answers to a command: bytes as they are, or a value.
Answer = Callable[[str], Any]


class FakeMonitor:
    """Says whether a program in the guest listens."""

    def __init__(self, listens: bool = True) -> None:
        self._listens = listens

    async def execute(self, command: str) -> list[dict[str, object]]:
        assert command == "query-chardev"
        return [{"label": "console"}, {"label": "agent", "frontend-open": self._listens}]


class Agent:
    """A guest agent at the end of its socket. `asked` are the commands that it got, in order."""

    def __init__(self, answer: Answer, noise: bytes = b"") -> None:
        self.asked: list[str] = []
        self._answer = answer
        self._noise = noise
        self._serving: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def listening(self, server: ServerFiles) -> AsyncIterator[None]:
        # The path may be too long for an address.
        folder = os.open(server.run, os.O_PATH)
        try:
            listener = await asyncio.start_unix_server(self._accept, f"/proc/self/fd/{folder}/{server.agent.name}")
            async with listener:
                yield
            while self._serving:
                await self._serving.pop()
        finally:
            os.close(folder)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._serving.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._noise)
        with suppress(ConnectionError):
            while line := await reader.readline():
                asked = json.loads(line.lstrip(b"\xff"))
                if asked["execute"] == "guest-sync-delimited":
                    writer.write(b"\xff" + json.dumps({"return": asked["arguments"]["id"]}).encode() + b"\n")
                    continue
                self.asked.append(asked["execute"])
                answer = self._answer(asked["execute"])
                if answer is not None:
                    writer.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode() + b"\n")


@pytest.fixture
def server(tmp_path: Path) -> ServerFiles:
    host = HostFiles(tmp_path)
    host.create()
    files = host.server("S1")
    files.run.mkdir(parents=True)
    return files


async def freeze(server: ServerFiles, agent: Agent, seconds: float = SECONDS, listens: bool = True) -> bool:
    async with agent.listening(server):
        monitor = cast(Monitor, FakeMonitor(listens))
        async with frozen(server, monitor, seconds) as worked:
            agent.asked.append("the moment")
        return worked


def willing(command: str) -> Any:
    return {"return": 2}


FROZEN = ["guest-fsfreeze-freeze", "the moment", "guest-fsfreeze-thaw"]


@pytest.mark.parametrize(
    "noise", [b"", b'{"return": 1}\n', b'{"error": {"desc": "invalid 0xff"}}\nhalf', b"\xff{}\n" * 5]
)
def test_a_guest_is_frozen_at_the_moment_and_thawed_after_it(server: ServerFiles, noise: bytes) -> None:
    agent = Agent(willing, noise if noise.endswith(b"\n") or not noise else noise + b"\n")
    assert asyncio.run(freeze(server, agent))
    assert agent.asked == FROZEN


def test_a_guest_without_an_agent_is_not_frozen(server: ServerFiles) -> None:
    agent = Agent(willing)
    assert not asyncio.run(freeze(server, agent, listens=False))
    assert agent.asked == ["the moment"]


@pytest.mark.parametrize(
    "answer",
    [
        {"error": {"desc": "not supported"}},
        {"return": 0},
        {"return": "all"},
        [],
        b"\0\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b"x" * 200_000 + b"\n",
    ],
    ids=range(8),
)
def test_an_agent_that_does_not_freeze_is_thawed_all_the_same(server: ServerFiles, answer: Any) -> None:
    agent = Agent(lambda command: answer if command.endswith("freeze") else {"return": 0})
    assert not asyncio.run(freeze(server, agent))
    assert agent.asked == FROZEN


def test_an_agent_that_does_not_answer_delays_for_a_limited_time(server: ServerFiles) -> None:
    agent = Agent(lambda command: None)
    assert not asyncio.run(freeze(server, agent, seconds=0.1))
    assert agent.asked == [*FROZEN, "guest-fsfreeze-thaw"]


def test_a_guest_is_thawed_when_the_point_fails(server: ServerFiles) -> None:
    agent = Agent(willing)

    async def fail() -> None:
        async with agent.listening(server), frozen(server, cast(Monitor, FakeMonitor()), SECONDS):
            raise ValueError("no point")

    with pytest.raises(ValueError, match="no point"):
        asyncio.run(fail())
    assert agent.asked == ["guest-fsfreeze-freeze", "guest-fsfreeze-thaw"]
