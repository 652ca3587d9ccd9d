"""Searches through names: short, few at once, stopped with their callers, and never in the way of other tenants."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog import searching
from app.catalog.searching import Searches
from app.database.sessions import Database
from app.errors import NotFound, SearchTimeout, TooManySearches
from app.viewer import Viewer
from tests.support.gateway import ADMIN, MEMBER, READER, STRANGER, Gateway, until

pytestmark = pytest.mark.anyio

PAGE = """query ($project: ID!, $filter: ImageFilter, $first: Int = 9) {
  images(projectId: $project, filter: $filter, first: $first) { nodes { name } totalCount } }"""
# Runs for ever, or close to it, within the database.
ENDLESS = {
    False: "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1e15) SELECT max(i) FROM n",
    True: "SELECT pg_sleep(600)",
}


async def running_statements(database: Database) -> int:
    """How many endless statements PostgreSQL is running in this database."""
    query = """SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'"""
    async with database.read() as session:
        return int((await session.execute(text(query))).scalar_one())


async def run_endless(database: Database, session: AsyncSession) -> None:
    await session.execute(text(ENDLESS[database.many_writers]))


def threads_that_work(database: Database) -> list[threading.Thread]:
    """The threads of SQLite's connections that read, filled as they are opened."""
    found: list[threading.Thread] = []

    def opened(connection: Any, _record: object) -> None:
        found.append(connection.driver_connection._thread)

    event.listen(database._reading.sync_engine, "connect", opened)
    return found


# ---------------------------------------------------------------- one search


async def test_a_search_that_takes_too_long_is_stopped(
    gateway: Gateway, other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_SECONDS", 0.2)
    searches = Searches()

    with pytest.raises(SearchTimeout) as refused:
        async with searches.session(other, Viewer(ADMIN), gateway.alpha) as session:
            await run_endless(other, session)

    assert refused.value.message == "The search was stopped after 0.2 s."
    assert refused.value.code == "SEARCH_TIMEOUT"
    await stopped(other)
    async with searches.session(other, Viewer(ADMIN), gateway.alpha) as session:
        assert (await session.execute(text("SELECT 1"))).scalar_one() == 1


async def stopped(database: Database) -> None:
    """Wait until no statement of the test runs in the database any more. Raises TimeoutError."""
    if database.many_writers:

        async def none_runs() -> bool:
            return await running_statements(database) == 0

        await until(none_runs)
    # Every connection is free for a short read: one whose statement still ran would not be.
    async with asyncio.timeout(30), AsyncExitStack() as stack:
        for _ in range(database.connections if database.many_writers else database.readers):
            session = await stack.enter_async_context(database.read())
            assert (await session.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_search_stops_when_its_task_is_cancelled(gateway: Gateway, other: Database) -> None:
    threads = [] if other.many_writers else threads_that_work(other)
    searches, begun = Searches(), asyncio.Event()

    async def search() -> None:
        async with searches.session(other, Viewer(ADMIN), gateway.alpha) as session:
            asyncio.get_running_loop().call_later(0.1, begun.set)
            await run_endless(other, session)

    task = asyncio.create_task(search())
    await begun.wait()
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    await stopped(other)
    assert searches._running == searches._waiting == []
    # A connection that was interrupted is closed, and its thread ends.
    if threads:
        await asyncio.to_thread(threads[0].join, 30)
        assert not threads[0].is_alive()


@pytest.mark.parametrize(
    ("wanted", "length"),
    [("a" * 65, 65), ("ß" * 33, 66), ("a" * 200, 200), ("\ufdfa" * 4, 72)],
    ids=["plain", "casefolded", "long", "normalized"],
)
async def test_a_text_that_is_too_long_is_not_searched_for(gateway: Gateway, wanted: str, length: int) -> None:
    error = await gateway.refused(PAGE, project=gateway.alpha, filter={"nameContains": wanted})
    assert (error["code"], error["field"]) == ("INVALID", ["filter", "nameContains"])
    assert error["message"] == f"The text to search for has {length} characters; at most 64 are allowed."


async def test_a_text_of_64_characters_is_found(gateway: Gateway, project: str) -> None:
    name = "Ä" * 32 + "b" * 32
    await gateway.stock(project, {"name": f"x{name}y"}, {"name": name[:-1]})
    found = (await gateway.ask(PAGE, project=project, filter={"nameContains": name}))["images"]
    assert found == {"nodes": [{"name": f"x{name}y"}], "totalCount": 1}


# ---------------------------------------------------------------- turns


class Crowd:
    """Searches that go on until they are let go."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.searches = Searches()
        self.running: list[str] = []
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._done: dict[str, asyncio.Event] = {}

    def search(self, name: str, subject: str, project_id: str) -> asyncio.Task[None]:
        self._done[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._search(name, subject, project_id))
        return self._tasks[name]

    async def _search(self, name: str, subject: str, project_id: str) -> None:
        async with self.searches.session(self._gateway.database, Viewer(subject), project_id):
            self.running.append(name)
            await self._done[name].wait()
            self.running.remove(name)

    async def settle(self, running: int, waiting: int) -> None:
        async def settled() -> bool:
            searches = self.searches
            return (len(searches._running), len(searches._waiting)) == (running, waiting) and len(
                self.running
            ) == running

        await until(settled)

    async def finish(self, name: str) -> None:
        self._done[name].set()
        await self._tasks[name]

    async def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)


@pytest.fixture
async def crowd(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    monkeypatch.setattr(searching, "_SECONDS", 60)
    monkeypatch.setattr(searching, "_PATIENCE_SECONDS", 60)
    crowd = Crowd(gateway)
    yield crowd
    await crowd.end()


async def test_a_caller_or_a_project_that_searches_leaves_room_for_others(gateway: Gateway, crowd: Crowd) -> None:
    mine = await gateway.project()
    crowd.search("first", ADMIN, gateway.alpha)
    await crowd.settle(1, 0)
    crowd.search("same caller", ADMIN, mine)
    await crowd.settle(1, 1)
    crowd.search("same project", MEMBER, gateway.alpha)
    await crowd.settle(1, 2)

    crowd.search("other tenant", STRANGER, gateway.beta)

    await crowd.settle(2, 2)
    assert crowd.running == ["first", "other tenant"]
    await crowd.finish("first")
    await crowd.settle(2, 1)
    assert crowd.running == ["other tenant", "same caller"]


async def test_a_caller_whose_searches_pile_up_is_refused(gateway: Gateway, crowd: Crowd) -> None:
    for number in range(17):
        crowd.search(str(number), READER, gateway.alpha)
    await crowd.settle(1, 16)

    with pytest.raises(TooManySearches) as refused:
        await crowd.search("one more", READER, gateway.alpha)

    assert refused.value.code == "TOO_MANY_SEARCHES"
    assert refused.value.message == "16 of your searches are waiting."
    await crowd.settle(1, 16)


async def test_a_search_does_not_wait_for_ever_for_its_turn(
    gateway: Gateway, crowd: Crowd, monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd.search("first", ADMIN, gateway.alpha)
    await crowd.settle(1, 0)
    monkeypatch.setattr(searching, "_PATIENCE_SECONDS", 0.05)

    with pytest.raises(TooManySearches) as refused:
        await crowd.search("second", ADMIN, gateway.alpha)

    assert refused.value.hint == "Try again in a few seconds."
    await crowd.settle(1, 0)


async def test_an_outsider_takes_no_turn(gateway: Gateway, crowd: Crowd) -> None:
    with pytest.raises(NotFound):
        await crowd.search("outsider", STRANGER, gateway.alpha)
    assert crowd.searches._running == crowd.searches._waiting == []
