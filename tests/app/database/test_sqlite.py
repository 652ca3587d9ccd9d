"""Short reads are done where they are asked for; long ones keep nobody waiting."""

import asyncio
import shutil
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, func, make_url, select, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database import sqlite
from app.database.sessions import Database
from app.database.sqlite import writers_queue
from app.errors import DatabaseDamaged, DatabaseFull, DatabaseUnavailable, StoreFull
from app.models import Organization
from app.reserve import Reserve

pytestmark = pytest.mark.anyio

# Counts to a number in steps of SQLite's machine, without reading a row.
COUNT = text(
    "SELECT max(i) FROM "
    "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :last) SELECT i FROM n)"
)


@pytest.fixture
async def database(migrated: Path, tmp_path: Path) -> AsyncIterator[Database]:
    shutil.copy(migrated, tmp_path / "images.db")
    opened = Database(f"sqlite+aiosqlite:///{tmp_path / 'images.db'}")
    yield opened
    await opened.close()


# Waits in its first step.
WAIT = text(
    "SELECT max(i) FROM "
    "(WITH RECURSIVE n(i) AS (SELECT here() UNION ALL SELECT i + 1 FROM n WHERE i < 500) SELECT i FROM n)"
)


def threads_that_count(engine: AsyncEngine, pause: float = 0.0) -> list[str]:
    """The threads in which SQLite calls `here()`, filled while statements run. Each call takes `pause` seconds."""
    names: list[str] = []

    def here() -> int:
        names.append(threading.current_thread().name)
        time.sleep(pause)
        return 1

    def prepare(connection: Any, _record: object) -> None:
        connection.driver_connection._conn.create_function("here", 0, here)

    event.listen(engine.sync_engine, "connect", prepare)
    return names


async def test_a_short_read_takes_no_other_thread(database: Database) -> None:
    names = threads_that_count(database._reading)
    async with database.read() as session:
        assert (await session.execute(text("SELECT here()"))).scalar_one() == 1
    assert names == [threading.current_thread().name]


async def test_a_short_read_takes_no_other_thread_however_long_it_waits_for_a_processor(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Much more than the statement takes of a processor, on any machine, and less than it waits.
    monkeypatch.setattr(sqlite, "_SHORT_READ_SECONDS", 0.2)
    monkeypatch.setattr(sqlite, "_LONGEST_READ_SECONDS", 60.0)
    names = threads_that_count(database._reading, pause=0.4)
    async with database.read() as session:
        assert (await session.execute(WAIT)).scalar_one() == 500
    assert names == [threading.current_thread().name]


async def test_a_read_that_waits_for_the_disk_lets_others_go_on(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_SHORT_READ_SECONDS", 60.0)
    names = threads_that_count(database._reading, pause=2 * sqlite._LONGEST_READ_SECONDS)
    async with database.read() as session:
        assert (await session.execute(WAIT)).scalar_one() == 500
    assert len(names) == 2
    assert names[0] == threading.current_thread().name != names[1]


async def test_a_transaction_does_not_wait_for_a_busy_event_loop(database: Database) -> None:
    names = threads_that_count(database._writing)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(others())
    async with database.transaction() as tx:
        tx.session.add(Organization(name="one"))
        await tx.session.flush()
        before = turns
        await tx.session.execute(text("SELECT here()"))
        await tx.session.execute(text("UPDATE organization SET name = 'two' WHERE here() = 1"))
        tx.session.add(Organization(name="three"))
        await tx.session.flush()
        assert turns == before
    busy.cancel()

    assert set(names) == {threading.current_thread().name}
    assert await names_in(database) == ["two", "three"]


async def test_a_transaction_begins_in_this_thread_unless_another_one_writes(database: Database) -> None:
    other = Database(database.url)
    began: list[bool] = []

    async def begin() -> None:
        async with other.transaction() as tx:
            await tx.session.execute(text("SELECT 1"))
            began.append(True)

    await begin()
    # Nothing but the beginning may let others go on: a connection is open, and a read takes no other thread.
    beginning = asyncio.create_task(begin())
    await asyncio.sleep(0)
    assert len(began) == 2
    await beginning

    async with database.transaction() as tx:
        await tx.session.execute(text("SELECT 1"))
        waiting = asyncio.create_task(begin())
        await until_one_waits(database)
        assert len(began) == 2
    await waiting
    await other.close()


async def test_a_transaction_waits_for_a_writer_in_another_process(database: Database) -> None:
    """A connection outside the queue of this process stands for one of another process."""
    await add(database, "first")
    with closing(sqlite3.connect(str(make_url(database.url).database))) as outside:
        outside.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(add(database, "third"))
        # The event loop goes on, though the transaction can't begin.
        await asyncio.sleep(0)
        outside.execute("INSERT INTO organization VALUES ('org_x', 'second', '2026-01-31 00:00:00.000000')")
        outside.commit()
    await waiting
    assert await names_in(database) == ["first", "second", "third"]


async def test_what_may_delete_many_rows_lets_others_go_on(database: Database) -> None:
    names = threads_that_count(database._writing)
    await add(database, "one", "two")
    async with database.transaction() as tx:
        await tx.session.execute(text("DELETE FROM organization WHERE here() = 1"))
    assert threading.current_thread().name not in names
    assert await names_in(database) == []


async def test_a_long_read_in_a_transaction_lets_others_go_on_and_undoes_nothing(database: Database) -> None:
    async with database.transaction() as tx:
        tx.session.add(Organization(name="kept"))
        await tx.session.flush()
        others = asyncio.create_task(asyncio.sleep(0))
        assert (await tx.session.execute(COUNT, {"last": 2_000_000})).scalar_one() == 2_000_000
        assert others.done()
    assert await names_in(database) == ["kept"]


async def test_a_read_begins_once_however_long_its_process_was_kept_waiting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite counts the steps of a prepared statement over all of its runs: one BEGIN in some hundred is looked at.
    monkeypatch.setattr(sqlite, "_SHORT_READ_SECONDS", -1.0)
    for _ in range(600):
        async with database.read() as session:
            assert (await session.execute(text("SELECT 1"))).scalar_one() == 1


async def test_a_long_read_is_right_and_lets_others_go_on(database: Database) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with database.read() as session:
        going_on = asyncio.create_task(others())
        counted = (await session.execute(COUNT, {"last": 2_000_000})).scalar_one()
        going_on.cancel()

    assert counted == 2_000_000
    assert turns > 10


async def test_a_long_read_stays_in_the_transaction_that_it_began_in(database: Database) -> None:
    count = text("SELECT count(*) FROM organization")
    async with database.read() as session:
        before = (await session.execute(count)).scalar_one()
        async with database.transaction() as tx:
            await tx.session.execute(
                text("INSERT INTO organization VALUES ('org_x', 'x', '2026-01-31 00:00:00.000000')")
            )
        await session.execute(COUNT, {"last": 500_000})
        assert (await session.execute(count)).scalar_one() == before
    async with database.read() as session:
        assert (await session.execute(count)).scalar_one() == before + 1


async def test_what_sqlite_refuses_is_an_error_and_no_long_read(database: Database) -> None:
    async with database.read() as session:
        with pytest.raises(OperationalError, match="no such table"):
            await session.execute(text("SELECT * FROM nowhere"))


async def test_connections_are_closed_without_a_complaint(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    async with database.read() as session:
        await session.execute(text("SELECT 1"))
    async with database.transaction() as tx:
        await tx.session.execute(text("SELECT 1"))

    await database.close()

    assert caplog.records == []


async def test_a_commit_outlasts_a_power_cut_and_readers_go_on_beside_it(database: Database) -> None:
    async with database.read() as session:
        found = [
            (await session.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert found == ["wal", 2, 1]
    async with database.transaction() as tx:
        assert (await tx.session.execute(text("PRAGMA synchronous"))).scalar() == 2


# What is wrong with the file or its disk, and not with a statement


async def add_project(database: Database, name: str) -> None:
    async with database.transaction() as tx:
        tx.session.add(Organization(name=name))


async def limit_pages(database: Database, pages: int) -> None:
    """Make SQLite find no room beyond so many pages, as it does on a full disk."""
    async with database.transaction() as tx:
        await tx.session.execute(text(f"PRAGMA max_page_count = {pages}"))


async def test_a_full_disk_is_told_as_one_and_undoes_the_transaction(database: Database) -> None:
    await limit_pages(database, 1)
    made: list[int] = []

    async def fill() -> None:
        for number in range(2_000):
            await add_project(database, f"{number} {'x' * 1_000}")
            made.append(number)

    with pytest.raises(DatabaseFull, match="full"):
        await fill()

    async with database.read() as session:
        names = (await session.execute(select(func.count()).select_from(Organization))).scalar_one()
        assert names == len(made)
    await limit_pages(database, 2**30)
    await add_project(database, "there is room again")


async def test_what_frees_room_is_tried_again_on_the_reserve(database: Database, tmp_path: Path) -> None:
    database.reserve = reserve = Reserve(tmp_path / "reserve", 64 * 1024)
    reserve.keep()
    assert reserve.path.stat().st_blocks * 512 >= 64 * 1024
    states: list[int] = []

    async def free() -> str:
        states.append(reserve.path.stat().st_size)
        if len(states) == 1:
            raise DatabaseFull("full")
        return "freed"

    assert await database.freeing(free) == "freed"
    assert states == [64 * 1024, 0]


async def test_without_a_reserve_a_full_disk_stays_full(database: Database) -> None:
    calls = 0

    async def free() -> None:
        nonlocal calls
        calls += 1
        raise DatabaseFull("full")

    with pytest.raises(DatabaseFull):
        await database.freeing(free)
    assert calls == 1


async def test_a_reserve_in_use_is_filled_again_as_soon_as_there_is_room(tmp_path: Path) -> None:
    small, huge = Reserve(tmp_path / "reserve", 64 * 1024), Reserve(tmp_path / "reserve", 2**60)
    small.keep()
    assert small.release()

    with pytest.raises(StoreFull):
        huge.require()
    with pytest.raises(DatabaseFull):
        huge.require_for_rows()
    small.require()

    assert small.path.stat().st_size == 64 * 1024


@pytest.mark.parametrize("at", [0, 4096])
async def test_a_damaged_file_is_told_as_one_by_reads_and_writes(database: Database, tmp_path: Path, at: int) -> None:
    await database.close()
    path = tmp_path / "images.db"
    content = path.read_bytes()
    path.write_bytes(b"\xa5" * 100 + content[100:] if at == 0 else content[:at] + b"\xa5" * (len(content) - at))

    damaged = Database(database.url)
    with pytest.raises(DatabaseDamaged, match="backup"):
        await damaged.check()
    with pytest.raises(DatabaseDamaged, match="backup"):
        await add_project(damaged, "demo")
    await damaged.close()


async def test_a_database_that_takes_no_writes_is_unavailable(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.session.execute(text("PRAGMA query_only = ON"))

    with pytest.raises(DatabaseUnavailable, match="read-only"):
        await add_project(database, "demo")


async def until_one_waits(database: Database) -> None:
    """Return when a connection of another Database waits for this one's transaction."""
    queue = writers_queue(str(make_url(database.url).database))
    while queue.length == 0:  # noqa: ASYNC110 (a thread of SQLite's comes to wait, and sets no event)
        await asyncio.sleep(0)


async def add(database: Database, *names: str) -> None:
    async with database.transaction() as tx:
        for name in names:
            tx.session.add(Organization(name=name))
            await tx.session.flush()


async def names_in(database: Database) -> list[str]:
    """In the order in which they were added."""
    async with database.read() as session:
        return list((await session.execute(text("SELECT name FROM organization ORDER BY rowid"))).scalars())


async def test_a_writer_waits_only_for_those_that_came_before(database: Database) -> None:
    """The API and the workers of one process write by connections of their own."""
    other = Database(database.url)
    expected = []

    for turn in range(10):
        async with database.transaction() as tx:
            tx.session.add(Organization(name=f"{turn}, before"))
            await tx.session.flush()
            waiting = asyncio.create_task(add(other, f"{turn}, waiting"))
            await until_one_waits(database)
            # It waits in the pool for the connection that writes now, which is free as soon as it has committed.
            late = asyncio.create_task(add(database, f"{turn}, late"))
        await asyncio.gather(waiting, late)
        expected += [f"{turn}, before", f"{turn}, waiting", f"{turn}, late"]

    assert await names_in(database) == expected
    await other.close()


async def test_a_writer_that_is_cancelled_while_it_waits_passes_its_turn_on(database: Database) -> None:
    other = Database(database.url)

    async with database.transaction() as tx:
        tx.session.add(Organization(name="first"))
        await tx.session.flush()
        cancelled = asyncio.create_task(add(other, "never"))
        await until_one_waits(database)
        cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    await add(database, "second")
    await add(other, "third")

    assert cancelled.cancelled()
    assert await names_in(database) == ["first", "second", "third"]
    await other.close()


async def test_a_transaction_that_sqlite_has_ended_itself_ends_the_turn_too(database: Database) -> None:
    other = Database(database.url)

    async with database.transaction() as tx:
        tx.session.add(Organization(name="undone"))
        await tx.session.flush()
        # As SQLite does when a disk gets full or breaks.
        await tx.session.execute(text("ROLLBACK"))
        await add(other, "kept")

    assert await names_in(database) == ["kept"]
    await other.close()
