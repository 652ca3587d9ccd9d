"""The migration that begins the feed's first epoch: every event stays, and each database gets a key of its own."""

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from app.database.migrations import migrate
from tests.app.database.test_migrations import Places, new_place, rows, scripts, within

__all__ = ["new_place"]

BEFORE = "0003"
EVENT = text("""INSERT INTO event (occurred_at, kind, project_id, image_id, least_role, detail)
    VALUES ('2026-01-01', 'UPDATED', 'prj', 'img', 'READER', '{}')""")
ORGANIZATION = text("INSERT INTO organization (id, name, created_at) VALUES ('org', 'demo', '2026-01-01')")
PROJECT = text("""INSERT INTO project (id, organization_id, name, created_at, revision)
    VALUES ('prj', 'org', 'alpha', '2026-01-01', 1)""")


def fill(connection: Connection) -> None:
    """What a gateway of the version before has left."""
    for statement in (ORGANIZATION, PROJECT, EVENT, EVENT, EVENT):
        connection.execute(statement)


def test_an_upgrade_keeps_the_events_and_begins_an_epoch(new_place: Places) -> None:
    found = []
    for place in (new_place(), new_place()):
        config = Config()
        config.set_main_option("script_location", scripts().dir)
        config.attributes["url"] = place
        command.upgrade(config, BEFORE)
        within(place, fill)

        migrate(place)
        migrate(place)

        assert rows(place, "SELECT seq FROM event ORDER BY seq") == [(1,), (2,), (3,)]
        ((id_, key, epoch, where),) = rows(place, "SELECT id, key, epoch, place FROM feed_epoch")
        assert (id_, where, len(bytes.fromhex(key)), len(bytes.fromhex(epoch))) == (1, None, 32, 8)
        found += [key, epoch]
    assert len(set(found)) == 4
