"""Consoles through the API: hosts read them when someone asks, and nobody waits for a host that is gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from app.catalog.servers import consoles
from app.lifecycle import JobKind
from app.models import Host, Job, ServerConsole, now
from app.sizes import KIB
from tests.support.gateway import ADMIN, MEMBER, READER, STRANGER, Gateway
from tests.support.host_bench import host_bench, working
from tests.support.memory_hypervisor import MemoryHypervisor
from tests.support.serving_servers import image, jobs_of, launch
from tests.support.sharing import done
from workers.hypervisor.port import HypervisorUnavailable
from workers.jobs.host_runner import HostRunner

pytestmark = pytest.mark.anyio

CONSOLE = """query ($id: ID!, $kib: Int! = 64) { node(id: $id) { ... on Server { id
  console(lastKib: $kib) { text truncated readAt } } } }"""
OF_ALL = """query ($project: ID!) { project(id: $project) { servers(first: 100) { nodes { id
  console(lastKib: 1) { text } } } } }"""


@dataclass
class Hosted:
    """A host that works, with a server on it."""

    gateway: Gateway
    host: str
    project: str
    disk: dict[str, Any]
    hypervisor: MemoryHypervisor
    runner: HostRunner
    server: str = ""

    async def console(self, subject: str = ADMIN, **given: Any) -> dict[str, Any]:
        found: dict[str, Any] = (await self.gateway.ask(CONSOLE, subject, **{"id": self.server} | given))["node"]
        return found["console"]  # type: ignore[no-any-return]

    async def refused(self, subject: str = ADMIN, **given: Any) -> dict[str, Any]:
        """The error instead of a console; the rest of the server is there."""
        answer = await self.gateway.answer(CONSOLE, subject, **{"id": self.server} | given)
        assert answer["data"]["node"] == {"id": self.server, "console": None}
        (error,) = answer["errors"]
        assert error["path"] == ["node", "console"]
        return {"message": error["message"], **error["extensions"]}

    async def row(self) -> ServerConsole | None:
        async with self.gateway.database.read() as session:
            return await session.get(ServerConsole, self.server)

    async def grow_old(self) -> None:
        """Let the answer be older than others may be given."""
        await self.gateway.change(ServerConsole, self.server, requested_at=now() - timedelta(minutes=1))


@pytest.fixture
async def hosted(gateway: Gateway, project: str, tmp_path: Path) -> AsyncIterator[Hosted]:
    async with host_bench(gateway, tmp_path) as bench:
        bench.hypervisor.console_of_all = b""
        disk = await image(gateway, project)
        made = Hosted(gateway, bench.host_id, project, disk, bench.hypervisor, bench.runner)
        made.server = (await launch(gateway, project, disk["id"]))["id"]
        await bench.work()
        async with working(bench):
            yield made


def reads(hosted: Hosted) -> int:
    """How often the host has read the console."""
    return hosted.hypervisor.done.count(f"console {hosted.server}")


async def test_a_console_is_read_by_the_host_and_shown_without_what_is_dangerous(hosted: Hosted) -> None:
    hosted.hypervisor.consoles[hosted.server] = b"\x1b[31mboot\r\n\xffok\x00"
    found = await hosted.console()
    assert (found["text"], found["truncated"]) == ("boot\n\ufffdok", False)
    assert datetime.now(UTC) - datetime.fromisoformat(found["readAt"]) < timedelta(minutes=1)


async def test_a_server_that_wrote_nothing_has_an_empty_console(hosted: Hosted) -> None:
    found = await hosted.console()
    assert (found["text"], found["truncated"]) == ("", False)


async def test_what_was_read_a_moment_ago_answers_others_and_later_it_is_read_again(hosted: Hosted) -> None:
    hosted.hypervisor.consoles[hosted.server] = b"one"
    texts = [found["text"] for found in await asyncio.gather(*(hosted.console() for _ in range(5)))]
    assert (texts, reads(hosted)) == (["one"] * 5, 1)
    hosted.hypervisor.consoles[hosted.server] = b"two"
    await hosted.grow_old()
    assert ((await hosted.console())["text"], reads(hosted)) == ("two", 2)
    # Reading leaves no jobs behind, however often a console is looked at.
    async with hosted.gateway.database.read() as session:
        kinds = (await session.execute(select(Job.kind).where(Job.host_id == hosted.host))).scalars().all()
    assert JobKind.READ_CONSOLE not in kinds


async def test_the_end_of_a_long_console_is_shown_as_far_as_it_is_wanted(hosted: Hosted) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(60_000))
    hosted.hypervisor.consoles[hosted.server] = lines
    for kib in (1, 64, consoles.MAXIMUM_KIB):
        found = await hosted.console(kib=kib)
        assert found["text"].encode() == lines[-kib * KIB :]
        assert found["truncated"]
    hosted.hypervisor.consoles[hosted.server] = lines[-consoles.MAXIMUM_KIB * KIB :]
    await hosted.grow_old()
    assert not (await hosted.console(kib=consoles.MAXIMUM_KIB))["truncated"]


@pytest.mark.parametrize("kib", [0, -1, consoles.MAXIMUM_KIB + 1])
async def test_a_size_that_is_not_allowed_is_refused(hosted: Hosted, kib: int) -> None:
    mistake = await hosted.refused(kib=kib)
    assert (mistake["code"], mistake["field"]) == ("INVALID", ["lastKib"])
    assert str(consoles.MAXIMUM_KIB) in mistake["message"]
    assert reads(hosted) == 0


async def test_members_read_consoles_and_readers_do_not(gateway: Gateway, hosted: Hosted) -> None:
    for subject, role in ((READER, "READER"), (MEMBER, "MEMBER")):
        await done(gateway, "setProjectMember", projectId=hosted.project, subject=subject, role=role)
    mistake = await hosted.refused(READER)
    assert mistake["code"] == "FORBIDDEN"
    assert mistake["message"] == (
        "You need the role MEMBER in this project to read the consoles of servers; yours is READER."
    )
    assert reads(hosted) == 0
    assert (await hosted.console(MEMBER))["text"] == ""
    assert (await gateway.refused(CONSOLE, STRANGER, id=hosted.server))["code"] == "NOT_FOUND"


async def test_the_consoles_of_many_servers_are_read_together(hosted: Hosted) -> None:
    servers = [hosted.server]
    servers += [(await launch(hosted.gateway, hosted.project, hosted.disk["id"]))["id"] for _ in range(5)]
    hosted.hypervisor.consoles |= {server: server.encode() for server in servers}
    found = (await hosted.gateway.ask(OF_ALL, project=hosted.project))["project"]["servers"]["nodes"]
    assert [(node["id"], node["console"]["text"]) for node in found] == [(server, server) for server in servers]


async def test_each_kib_of_a_console_costs_as_much_as_a_node(hosted: Hosted) -> None:
    cost = (await hosted.gateway.answer(CONSOLE, id=hosted.server, kib=200))["extensions"]["cost"]
    assert cost["requested"] == 201
    document = OF_ALL.replace("lastKib: 1", "lastKib: 256")
    assert (await hosted.gateway.refused(document, project=hosted.project))["code"] == "QUERY_TOO_EXPENSIVE"


# ------------------------------------------------------------ hosts that do not answer


async def test_nobody_waits_for_a_host_that_is_gone(hosted: Hosted) -> None:
    await hosted.gateway.change(Host, hosted.host, seen_at=now() - timedelta(days=1))
    mistake = await hosted.refused()
    assert mistake["code"] == "HOST_UNAVAILABLE"
    assert mistake["message"] == "The host of the server does not answer."
    assert mistake["hint"]
    assert await hosted.row() is None


async def test_a_host_that_does_not_answer_in_time_answers_the_next_one(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosted.hypervisor.consoles[hosted.server] = b"late"
    hosted.hypervisor.hold("console")
    with monkeypatch.context() as hasty:
        hasty.setattr(consoles, "_WAIT_SECONDS", 0.01)
        assert (await hosted.refused())["code"] == "HOST_UNAVAILABLE"
        assert (await hosted.refused())["code"] == "HOST_UNAVAILABLE"
    (job,) = await jobs_of(hosted.gateway, hosted.host)
    assert job.kind == JobKind.READ_CONSOLE
    hosted.hypervisor.held.pop("console").set()
    assert (await hosted.console())["text"] == "late"
    assert await jobs_of(hosted.gateway, hosted.host) == []


async def test_a_console_that_can_not_be_read_is_an_error_and_is_tried_again(hosted: Hosted) -> None:
    hosted.hypervisor.failing["console"] = HypervisorUnavailable("/secret/path")
    hosted.runner.settings = hosted.gateway.settings.model_copy(update={"job_attempts": 1})
    mistake = await hosted.refused()
    assert mistake["code"] == "HOST_UNAVAILABLE"
    assert "secret" not in str(mistake)
    hosted.hypervisor.failing.clear()
    await hosted.grow_old()
    assert (await hosted.console())["text"] == ""


async def test_a_console_is_deleted_with_its_server(hosted: Hosted) -> None:
    hosted.hypervisor.consoles[hosted.server] = b"secret"
    await hosted.console()
    await hosted.grow_old()
    hosted.hypervisor.hold("console")
    asking = asyncio.create_task(hosted.gateway.answer(CONSOLE, id=hosted.server))
    await hosted.hypervisor.reached["console"].wait()
    await done(hosted.gateway, "deleteServer", serverId=hosted.server)
    assert await hosted.row() is None
    hosted.hypervisor.held.pop("console").set()
    await hosted.runner.idle()
    assert await hosted.row() is None
    asking.cancel()
    with suppress(asyncio.CancelledError):
        await asking
