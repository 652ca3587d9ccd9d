"""The migrations make what the models say, from nothing, on every database, and twice is harmless."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine

import app.database.migrations
from app.database.migrations import is_behind, is_newest, migrate
from app.database.migrations.comparison import belongs_to
from app.errors import DatabaseUnavailable
from app.models import TABLES, Instant, Word
from tests.servers.postgresql import PostgreSQL

T = TypeVar("T")
Places = Callable[[], str]

# How each database tells of its indexes, and of what else the comparison of Alembic leaves out.
_INDEXES: Mapping[str, str] = {
    "sqlite": "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL",
    "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
}
_CONSTRAINTS = "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace"
_COLLATIONS = (
    "SELECT table_name || '.' || column_name, collation_name FROM information_schema.columns "
    "WHERE table_schema = 'public' AND data_type IN ('text', 'character varying')"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def new_place(request: pytest.FixtureRequest, tmp_path: Path) -> Places:
    """Gives the address of an empty database, another one each time."""
    if request.param == "sqlite":
        numbers = iter(range(100))
        return lambda: f"sqlite+aiosqlite:///{tmp_path / str(next(numbers))}.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return lambda: address(server.new_database(migrated=False))


def address(url: str) -> str:
    return "postgresql+asyncpg" + url.removeprefix("postgresql")


def within(url: str, act: Callable[[Connection], T]) -> T:
    """What `act` finds in a database; what it does there is committed."""

    async def run() -> T:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                return await connection.run_sync(act)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def rows(url: str, query: str) -> list[Any]:
    return within(url, lambda connection: [tuple(row) for row in connection.execute(text(query))])


def test_an_empty_database_becomes_what_the_models_say(new_place: Places) -> None:
    place = new_place()
    migrate(place)

    def differences(connection: Connection) -> Any:
        include = belongs_to(connection.dialect.name)
        opts = {"compare_type": True, "target_metadata": TABLES, "include_object": include}
        context = MigrationContext.configure(connection, opts=opts)
        return compare_metadata(context, TABLES)

    assert within(place, differences) == []


def test_indexes_and_their_conditions_are_those_of_the_models(new_place: Places) -> None:
    """Alembic does not compare what an index is limited to."""
    made, modelled = new_place(), new_place()
    migrate(made)
    within(modelled, TABLES.create_all)
    assert indexes(made) == indexes(modelled)
    assert len(indexes(made)) >= 12


def indexes(place: str) -> set[tuple[str, str]]:
    query = next(query for kind, query in _INDEXES.items() if place.startswith(kind))
    return {(name, " ".join(sql.split())) for name, sql in rows(place, query) if not name.startswith("alembic")}


def test_every_text_of_postgresql_is_sorted_by_code_points(postgresql: PostgreSQL) -> None:
    """Alembic does not compare collations either."""
    made, modelled = (address(postgresql.new_database(migrated=False)) for _ in range(2))
    migrate(made)
    within(modelled, TABLES.create_all)
    found = dict(rows(made, _COLLATIONS))
    del found["alembic_version.version_num"]
    assert found == dict(rows(modelled, _COLLATIONS))
    assert set(found.values()) == {"C"}


def test_constraints_of_postgresql_have_the_names_that_the_models_give(postgresql: PostgreSQL) -> None:
    """A table that a migration makes anew under another name would keep the names that came of that."""
    made, modelled = (address(postgresql.new_database(migrated=False)) for _ in range(2))
    migrate(made)
    within(modelled, TABLES.create_all)
    found = set(rows(made, _CONSTRAINTS)) - {("alembic_version_pkc",)}
    assert found == set(rows(modelled, _CONSTRAINTS))
    assert ("upload_source_id_key",) in found


def test_events_keep_their_numbers_to_themselves(tmp_path: Path) -> None:
    """Without AUTOINCREMENT the number of a row that was deleted last would be given again."""
    path = tmp_path / "images.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    with closing(sqlite3.connect(path)) as database:
        (sql,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'event'").fetchone()
    assert "AUTOINCREMENT" in sql


def test_numbers_of_events_are_taken_one_by_one_and_outgrow_32_bits(postgresql: PostgreSQL) -> None:
    """A sequence with a cache would give a connection numbers in advance, which then commit out of order."""
    found = rows(
        address(postgresql.new_database()), "SELECT data_type::text, cache_size, increment_by FROM pg_sequences"
    )
    assert found == [("bigint", 1, 1)]


def test_to_migrate_twice_is_harmless(new_place: Places) -> None:
    place = new_place()
    migrate(place)
    insert = text("INSERT INTO organization (id, name, created_at) VALUES ('org_1', 'demo', '2026-01-01')")
    within(place, lambda connection: connection.execute(insert))
    migrate(place)
    assert rows(place, "SELECT name FROM organization") == [("demo",)]
    assert len(rows(place, "SELECT version_num FROM alembic_version")) == 1


def test_processes_that_migrate_at_once_do_it_one_after_the_other(postgresql: PostgreSQL) -> None:
    place = address(postgresql.new_database(migrated=False))
    program = "import sys; from app.database.migrations import migrate; print(); sys.stdin.read(); migrate(sys.argv[1])"
    command, pipe = [sys.executable, "-uc", program, place], subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(4)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"  # it is ready
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]
    assert len(rows(place, "SELECT version_num FROM alembic_version")) == 1


def test_a_database_that_can_not_be_reached_is_told_without_its_password(
    postgresql: PostgreSQL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.postgres._PATIENCE_SECONDS", 0)
    with pytest.raises(DatabaseUnavailable, match="refuses the user or the password") as raised:
        migrate(address(postgresql.url).replace("a%2Fpassword", "wrong"))
    assert "wrong" not in str(raised.value)


def test_there_is_one_newest_revision() -> None:
    assert len(scripts().get_heads()) == 1


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(app.database.migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


def test_a_database_is_behind_that_was_never_migrated_or_by_an_older_version_alone() -> None:
    (newest,) = scripts().get_heads()
    assert not is_behind(newest)
    assert not is_behind("of a later version")
    assert is_behind(None)
    older = {step.revision for step in scripts().walk_revisions()} - {newest}
    assert all(is_behind(revision) for revision in older)
    assert [revision for revision in [*older, newest, "of a later version", None] if is_newest(revision)] == [newest]


def test_the_names_of_the_files_begin_with_their_revisions() -> None:
    for step in scripts().walk_revisions():
        assert Path(step.path).name.partition("_")[0] == step.revision


def test_migrations_contain_own_column_types_as_their_types_in_the_database() -> None:
    folder = Path(app.database.migrations.__file__).parent / "versions"
    for path in folder.glob("[0-9]*.py"):
        assert not any(kind.__name__ in path.read_text() for kind in (Instant, Word)), path
