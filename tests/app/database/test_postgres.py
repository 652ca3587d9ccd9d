"""PostgreSQL as it behaves on bad days: wrong addresses, restarts, kills, statements that hang, tables that change."""

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlmodel import select

from app.catalog import members
from app.database import postgres
from app.database.sessions import Database
from app.errors import DatabaseFull, DatabaseUnavailable
from app.lifecycle import ProjectRole
from app.models import Organization
from tests.conftest import require_programs
from tests.servers.postgresql import PASSWORD, PostgreSQL, programs

pytestmark = pytest.mark.anyio


def address(url: str) -> str:
    return "postgresql+asyncpg" + url.removeprefix("postgresql")


@asynccontextmanager
async def opened(url: str, connections: int = 4) -> AsyncIterator[Database]:
    database = Database(address(url), connections=connections)
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(postgresql: PostgreSQL) -> AsyncIterator[Database]:
    async with opened(postgresql.new_database()) as found:
        yield found


@pytest.fixture
def own_server(tmp_path: Path) -> PostgreSQL:
    """A server that only this test talks to, and may kill."""
    if programs() is None:
        require_programs(["postgres"])
    return PostgreSQL(tmp_path / "postgresql")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "_PATIENCE_SECONDS", 0.2)


async def names(database: Database) -> list[str]:
    async with database.read() as session:
        return list((await session.execute(select(Organization.name).order_by(Organization.name))).scalars())


# ------------------------------------------------------------ what can be wrong with an address


@pytest.mark.parametrize(
    ("given", "instead", "told"),
    [
        ("a%2Fpassword", "another", "refuses the user or the password"),
        ("gateway:", "nobody:", "refuses the user or the password"),
        ("/test_", "/nothing_", "does not have the database in IMAGES_DATABASE_URL"),
        ("127.0.0.1", "nowhere.invalid", "can't be reached"),
        ("127.0.0.1", "127.0.0.1:1,127.0.0.1", None),
        ("?", "?sslmode=require", "does not support TLS"),
        ("?", "?sslmode=nonsense", "IMAGES_DATABASE_URL is not valid"),
    ],
)
@pytest.mark.usefixtures("impatient")
async def test_a_wrong_address_is_told_with_its_reason_and_without_the_password(
    postgresql: PostgreSQL, given: str, instead: str, told: str | None
) -> None:
    url = (postgresql.new_database() + "?").replace(given, instead, 1).rstrip("?")
    async with opened(url) as database:
        if told is None:  # the second host serves
            await database.check()
            return
        with pytest.raises(DatabaseUnavailable, match=told) as raised:
            await database.check()
    assert PASSWORD not in str(raised.value)
    assert "127.0.0.1" not in str(raised.value)


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_does_not_run_is_told(own_server: PostgreSQL) -> None:
    async with opened(own_server.url) as database:
        with pytest.raises(DatabaseUnavailable, match="Connection refused"):
            await database.check()


async def test_a_database_without_tables_says_what_to_do(postgresql: PostgreSQL) -> None:
    async with opened(postgresql.new_database(migrated=False)) as database:
        with pytest.raises(DatabaseUnavailable, match="images migrate"):
            await database.check()


async def test_the_password_is_not_in_what_a_log_may_show(database: Database) -> None:
    assert "password" in database.url
    assert "password" not in repr(database)


async def test_more_connections_than_allowed_are_never_opened(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    async with opened(url, connections=3) as database:
        async with asyncio.timeout(30):
            await asyncio.gather(*(names(database) for _ in range(20)))
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
        # psql is the fourth.
        assert postgresql.sql(count, database=url.rpartition("/")[2]) == "4"


# ------------------------------------------------------------ restarts and what hangs


@pytest.mark.parametrize("end", [PostgreSQL.kill, PostgreSQL.stop])
async def test_reads_and_writes_go_on_after_a_restart_as_if_nothing_had_been(
    own_server: PostgreSQL, end: Callable[[PostgreSQL], None]
) -> None:
    with own_server:
        async with opened(await asyncio.to_thread(own_server.new_database)) as database:
            await asyncio.gather(*(names(database) for _ in range(4)))
            await members.create_organization(database, "before", [], "ada")
            await asyncio.to_thread(end, own_server)
            await asyncio.to_thread(own_server.start)
            assert await asyncio.gather(*(names(database) for _ in range(8))) == [["before"]] * 8
            await members.create_organization(database, "after", [], "ada")
            assert await names(database) == ["after", "before"]


async def test_who_reads_while_the_server_starts_waits_for_it(
    own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_PATIENCE_SECONDS", 60)
    with own_server:
        async with opened(await asyncio.to_thread(own_server.new_database)) as database:
            own_server.kill()
            reading = asyncio.create_task(names(database))
            await asyncio.to_thread(own_server.start)
            assert await reading == []


async def test_a_transaction_that_loses_its_connection_changes_nothing_and_may_be_retried(
    database: Database,
) -> None:
    async def interrupted() -> None:
        async with database.transaction() as tx:
            tx.session.add(Organization(name="lost"))
            await tx.session.flush()
            pid = (await tx.session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            async with database.read() as other:
                await other.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})

    with pytest.raises(DatabaseUnavailable, match="try again"):
        await interrupted()
    assert await names(database) == []
    await members.create_organization(database, "kept", [], "ada")
    assert await names(database) == ["kept"]


async def test_a_statement_that_takes_too_long_is_ended_and_its_connection_is_good_again(database: Database) -> None:
    async def sleep() -> None:
        async with database.read() as session:
            await session.execute(text("SET LOCAL statement_timeout = '50ms'"))
            await session.execute(text("SELECT pg_sleep(60)"))

    with pytest.raises(DatabaseUnavailable, match="took too long"):
        await sleep()
    assert await names(database) == []


async def test_a_server_that_stops_answering_is_not_waited_for_for_ever(
    own_server: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "_DRIVER_SECONDS", 0.3)
    with own_server:
        async with opened(await asyncio.to_thread(own_server.new_database), connections=1) as database:
            async with database.read() as session:
                pid = (await session.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            os.kill(pid, signal.SIGSTOP)
            with pytest.raises(DatabaseUnavailable):
                await names(database)
            # The others of the pool are not bound to it.
            async with asyncio.timeout(30):
                assert await names(database) == []
            os.kill(pid, signal.SIGCONT)


async def test_a_read_can_not_write_and_sees_one_state(database: Database) -> None:
    async def write() -> None:
        async with database.read() as session:
            session.add(Organization(name="written"))
            await session.flush()

    with pytest.raises(DatabaseUnavailable, match="accepts no writes"):
        await write()
    async with database.read() as session:
        query = select(Organization.name)
        assert (await session.execute(query)).all() == []
        await members.create_organization(database, "new", [], "ada")
        assert (await session.execute(query)).all() == []
    assert await names(database) == ["new"]


async def test_postgresql_stops_a_search_that_its_client_can_not_stop(database: Database) -> None:
    async with database.read_within(1.5) as session:
        found = (await session.execute(text("SHOW statement_timeout"))).scalar_one()
    assert found == "1500ms"
    async with database.read() as session:
        assert (await session.execute(text("SHOW statement_timeout"))).scalar_one() == "1min"


async def test_a_statement_that_was_prepared_before_a_migration_is_prepared_anew(database: Database) -> None:
    for _ in range(3):
        await names(database)
    async with database.transaction() as tx:
        await tx.session.execute(text("ALTER TABLE organization ADD COLUMN later integer"))
    assert await names(database) == []
    async with database.transaction() as tx:
        await tx.session.execute(text("ALTER TABLE organization ALTER COLUMN name TYPE varchar(99)"))
    # Whoever comes first finds out; nobody does after that.
    with pytest.raises(DatabaseUnavailable, match="tables have just changed"):
        await names(database)
    assert await asyncio.gather(*(names(database) for _ in range(6))) == [[]] * 6


# ------------------------------------------------------------ the same answers as SQLite's


async def test_names_are_sorted_by_code_points_whatever_the_language_of_the_database(database: Database) -> None:
    given = ["a", "B", "_", "b", "A", "é", "z", "Z", "a b", "ab", "ß", "\U0001f4bf"]
    await members.create_organization(database, "demo", given, "ada")
    async with database.read() as session:
        found = (await session.execute(text("SELECT name FROM project ORDER BY name"))).scalars().all()
        language = (await session.execute(text("SELECT 'a' < 'B'"))).scalar_one()
    assert found == sorted(given)
    assert language is True  # the database itself would sort otherwise


async def test_two_that_found_the_same_at_once_make_it_once(postgresql: PostgreSQL) -> None:
    url = postgresql.new_database()
    async with opened(url) as one, opened(url) as other:
        made = await asyncio.gather(
            *(members.create_organization(here, "demo", ["alpha", "beta"], "ada") for here in (one, other) * 5)
        )
        assert len({project.id for projects in made for project in projects}) == 2
        await asyncio.gather(*(members.grant_role(one, "alpha", "max", ProjectRole.MEMBER) for _ in range(5)))


@pytest.fixture
def small_place(postgresql: PostgreSQL) -> Iterator[Path]:
    """A file system of 1 MiB that the server may write to."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    place = postgresql.folder / "small"
    place.mkdir()
    owner = postgresql.data.stat()
    options = f"size=1M,mode=700,uid={owner.st_uid},gid={owner.st_gid}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        place.rmdir()
        pytest.skip("can't mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)
    place.rmdir()


@pytest.mark.needs_program("mount")
async def test_a_full_disk_is_told_as_one_and_undoes_the_transaction(postgresql: PostgreSQL, small_place: Path) -> None:
    url = postgresql.new_database()
    name = url.rpartition("/")[2]
    postgresql.sql(f"CREATE TABLESPACE small LOCATION '{small_place}'")
    postgresql.sql("ALTER TABLE organization SET TABLESPACE small", database=name)
    made: list[str] = []

    async def fill(database: Database) -> None:
        for number in range(3_000):
            async with database.transaction() as tx:
                # What can be compressed takes no room.
                tx.session.add(Organization(name=f"{number:04} {os.urandom(1_000).hex()}"))
            made.append(f"{number:04}")

    try:
        async with opened(url) as database:
            with pytest.raises(DatabaseFull, match="full"):
                await fill(database)
            assert [known[:4] for known in await names(database)] == made
    finally:
        postgresql.sql("ALTER TABLE organization SET TABLESPACE pg_default", database=name)
        postgresql.sql("DROP TABLESPACE small")
