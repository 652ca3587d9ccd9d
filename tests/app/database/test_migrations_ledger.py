"""The migration that opens the ledger: what is stored already counts from then on, and nothing else does."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text
from sqlmodel import Session, select

from app.database.migrations import migrate
from app.models import StorageEntry, now
from app.sizes import GIB
from tests.app.database.test_migrations import Places, new_place, scripts, within

__all__ = ["new_place"]

BEFORE = "0002"
SIZES = {"one": 1, "two": 2, "three": 5_000 * GIB, "four": 4}
# The images that there are: by name, the project and the blob of each.
IMAGES = {
    "first": ("alpha", "one"),
    "second": ("alpha", "two"),
    "other": ("beta", "three"),
    "waiting": ("alpha", None),
    "tombstone": ("alpha", "four"),
}
ORGANIZATION = text("INSERT INTO organization (id, name, created_at) VALUES ('org', 'demo', '2026-01-01')")
PROJECT = text("""INSERT INTO project (id, organization_id, name, created_at)
    VALUES (:id, 'org', :name, '2026-01-01')""")
BLOB = text("""INSERT INTO blob (id, key, virtual_size, stored_size, file_size, created_at)
    VALUES (:id, :name, 1, :size, 1, '2026-01-01')""")
IMAGE = text("""INSERT INTO image (id, project_id, revision, type, status, visibility, name, name_key, labels,
    protected, created_by, created_at, updated_at, size_key, stored_size, reserved_size, blob_id, source_file_name,
    source_size, warnings)
    VALUES (:id, :project, 1, 'CUSTOM', 'ACTIVE', 'PROJECT', :name, :name, '[]', false, 'ada', '2026-01-01',
    '2026-01-01', 1, :size, 0, :blob, '"disk.raw"', 1, '[]')""")
DELETED = text("UPDATE image SET deleted_at = '2026-01-02' WHERE name = 'tombstone'")


def as_it_was(place: str) -> None:
    """Make the tables of the version before."""
    config = Config()
    config.set_main_option("script_location", scripts().dir)
    config.attributes["url"] = place
    command.upgrade(config, BEFORE)


def fill(connection: Connection) -> None:
    """The rows that a gateway of that version has left."""
    connection.execute(ORGANIZATION)
    for project in ("alpha", "beta"):
        connection.execute(PROJECT, {"id": project, "name": project})
    for blob, bytes_stored in SIZES.items():
        connection.execute(BLOB, {"id": blob, "name": blob, "size": bytes_stored})
    for name, (project, stored) in IMAGES.items():
        size = SIZES[stored] if stored else None
        connection.execute(IMAGE, {"id": name, "name": name, "project": project, "blob": stored, "size": size})
    connection.execute(DELETED)


def ledger(connection: Connection) -> list[StorageEntry]:
    with Session(connection) as session:
        found = list(session.exec(select(StorageEntry).order_by(StorageEntry.id)))
        session.expunge_all()
    return found


def test_what_is_stored_already_counts_from_the_migration_on(new_place: Places) -> None:
    place = new_place()
    as_it_was(place)
    within(place, fill)
    before = now()
    migrate(place)
    lines = within(place, ledger)
    assert {(line.image_id, line.project_id, line.blob_id, line.stored_size, line.until) for line in lines} == {
        ("first", "alpha", "one", 1, None),
        ("second", "alpha", "two", 2, None),
        ("other", "beta", "three", 5_000 * GIB, None),
    }
    assert len(lines) == 3
    (since,) = {line.since for line in lines}
    assert before <= since <= now()
    assert all(line.id.startswith("ent_") and len(line.id) == 30 for line in lines)


def test_the_ledger_of_an_empty_catalogue_stays_empty_however_often_it_is_opened(
    new_place: Places,
) -> None:
    place = new_place()
    as_it_was(place)
    migrate(place)
    assert within(place, ledger) == []
    within(place, fill)
    migrate(place)
    assert within(place, ledger) == []
