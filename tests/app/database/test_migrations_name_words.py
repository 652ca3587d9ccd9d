"""The index of what names contain: PostgreSQL has it where it may have pg_trgm, and does without elsewhere."""

import pytest
from sqlalchemy.engine import make_url
from structlog.testing import capture_logs

from app.database.migrations import migrate
from tests.servers.postgresql import PostgreSQL

USER, PASSWORD = "plain", "of tests"
_INDEX = "SELECT indexdef FROM pg_indexes WHERE indexname = 'image_name_words'"
_REVISIONS = "SELECT count(*) FROM alembic_version"


@pytest.fixture(scope="module")
def server(postgresql: PostgreSQL) -> PostgreSQL:
    """One that knows somebody who is no superuser."""
    postgresql.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
    return postgresql


def new_database(server: PostgreSQL) -> tuple[str, str]:
    """A database in which that user may make tables, and nothing else: its name, and its address for them."""
    address = make_url(server.new_database(migrated=False))
    assert address.database is not None
    server.sql(f"GRANT ALL ON SCHEMA public TO {USER}", database=address.database)
    theirs = address.set(drivername="postgresql+asyncpg", username=USER, password=PASSWORD)
    return address.database, theirs.render_as_string(hide_password=False)


def migrated_with_warnings(address: str) -> list[str]:
    with capture_logs() as logs:
        migrate(address)
    assert all(entry["log_level"] == "warning" for entry in logs)
    return [entry["by_hand"] for entry in logs]


def test_who_may_not_add_the_extension_gets_all_tables_and_is_told_what_to_do(server: PostgreSQL) -> None:
    name, address = new_database(server)
    (by_hand,) = migrated_with_warnings(address)
    assert server.sql(_REVISIONS, database=name) == "1"
    assert server.sql(_INDEX, database=name) == ""
    for statement in by_hand.split("; "):
        server.sql(statement, database=name)
    whole, whole_address = new_database(server)
    server.sql("CREATE EXTENSION pg_trgm", database=whole)
    migrate(whole_address)
    assert server.sql(_INDEX, database=name) == server.sql(_INDEX, database=whole)


def test_an_extension_that_somebody_else_has_added_is_used(server: PostgreSQL) -> None:
    name, address = new_database(server)
    server.sql("CREATE EXTENSION pg_trgm", database=name)
    assert migrated_with_warnings(address) == []
    assert "gin_trgm_ops" in server.sql(_INDEX, database=name)


def test_an_extension_in_a_schema_that_is_not_looked_into_is_as_good_as_none(server: PostgreSQL) -> None:
    name, address = new_database(server)
    server.sql("CREATE SCHEMA aside", database=name)
    server.sql("CREATE EXTENSION pg_trgm SCHEMA aside", database=name)
    assert len(migrated_with_warnings(address)) == 1
    assert server.sql(_REVISIONS, database=name) == "1"
    assert server.sql(_INDEX, database=name) == ""


def test_the_owner_of_a_database_adds_the_extension_without_being_a_superuser(server: PostgreSQL) -> None:
    name, address = new_database(server)
    server.sql(f"ALTER DATABASE {name} OWNER TO {USER}")
    assert migrated_with_warnings(address) == []
    assert "gin_trgm_ops" in server.sql(_INDEX, database=name)
