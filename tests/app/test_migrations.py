"""The migrations make what the models say, from nothing, and twice is harmless."""

import sqlite3
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

import app.migrations
from app.migrations import migrate
from app.models import TABLES, Instant, Word


def test_an_empty_database_becomes_what_the_models_say(tmp_path: Path) -> None:
    path = tmp_path / "images.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "target_metadata": TABLES})
        differences = compare_metadata(context, TABLES)
    engine.dispose()
    assert differences == []


def test_indexes_and_their_conditions_are_those_of_the_models(tmp_path: Path) -> None:
    """Alembic does not compare what an index of SQLite is limited to."""
    made, modelled = tmp_path / "made.db", tmp_path / "modelled.db"
    migrate(f"sqlite+aiosqlite:///{made}")
    engine = create_engine(f"sqlite:///{modelled}")
    TABLES.create_all(engine)
    engine.dispose()
    assert indexes(made) == indexes(modelled)
    assert len(indexes(made)) >= 12


def indexes(path: Path) -> set[tuple[str, str]]:
    query = "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL AND name NOT LIKE 'alembic%'"
    database = sqlite3.connect(path)
    found = {(name, " ".join(sql.split())) for name, sql in database.execute(query)}
    database.close()
    return found


def test_events_keep_their_numbers_to_themselves(tmp_path: Path) -> None:
    """Without AUTOINCREMENT the number of a row that was deleted last would be given again."""
    path = tmp_path / "images.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    database = sqlite3.connect(path)
    (sql,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'event'").fetchone()
    database.close()
    assert "AUTOINCREMENT" in sql


def test_to_migrate_twice_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / "images.db"
    migrate(f"sqlite+aiosqlite:///{path}")
    database = sqlite3.connect(path)
    database.execute("INSERT INTO organization (id, name, created_at) VALUES ('org_1', 'demo', '2026-01-01')")
    database.commit()
    migrate(f"sqlite+aiosqlite:///{path}")
    assert database.execute("SELECT name FROM organization").fetchall() == [("demo",)]
    assert len(database.execute("SELECT version_num FROM alembic_version").fetchall()) == 1
    database.close()


def test_there_is_one_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(app.migrations.__file__).parent))
    assert len(ScriptDirectory.from_config(config).get_heads()) == 1


def test_own_column_types_are_written_into_migrations_as_what_they_are_in_the_database() -> None:
    folder = Path(app.migrations.__file__).parent / "versions"
    for path in folder.glob("[0-9]*.py"):
        assert not any(kind.__name__ in path.read_text() for kind in (Instant, Word)), path
