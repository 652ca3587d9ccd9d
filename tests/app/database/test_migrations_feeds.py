"""The migration to feeds: history, cursors and positions stay, whatever the older version has written."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

from app.catalog.feed.cursors import Cursors, Mark
from app.database.migrations import migrate
from app.models import now
from app.settings import Settings
from tests.app.database.test_migrations import rows, scripts, within
from tests.servers.postgresql import PostgreSQL
from tests.support.gateway import ADMIN, Gateway, running_gateway
from tests.support.serving_servers import add_host, image, launch

BEFORE = "0006"
ORGANIZATION, ALPHA, BETA = "org_" + "0" * 26, "prj_" + "1" * 26, "prj_" + "2" * 26
IMAGE, GONE, SHARE = "img_" + "1" * 26, "img_" + "2" * 26, "shr_" + "1" * 26
FAILED_AT = "2026-11-29T10:00:00+00:00"
FAILURE = {"code": "CORRUPT_IMAGE", "message": "It is broken.", "hint": "Upload it again.", "retriable": True}
SHARED = {"share": SHARE, "project": BETA, "grant": "LAUNCH", "imageName": "disk"}
# What the older version has written, in order: the kind, the project, the image, the role and what the event says.
EVENTS: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("CREATED", ALPHA, IMAGE, "READER", {}),
    ("UPDATED", ALPHA, IMAGE, "READER", {"fields": ["upload", "progress"]}),
    ("STATUS_CHANGED", ALPHA, IMAGE, "READER", {"from": "QUEUED", "to": "SAVING"}),
    ("STATUS_CHANGED", ALPHA, IMAGE, "READER",
     {"from": "SAVING", "to": "ERROR", "failure": FAILURE | {"occurredAt": FAILED_AT}}),
    ("MEMBERS_CHANGED", ALPHA, "", "READER", {}),
    ("UPDATED", ALPHA, IMAGE, "READER",
     {"fields": ["name", "os", "labels", "protected", "visibility", "failure", "sha256"]}),
    ("SHARE_CHANGED", ALPHA, IMAGE, "READER", SHARED | {"state": "ACCEPTED", "ends": False}),
    ("SHARE_CHANGED", BETA, IMAGE, "READER", SHARED | {"state": "ACCEPTED", "ends": False}),
    ("SHARE_CHANGED", BETA, GONE, "ADMIN", SHARED | {"state": None, "ends": True}),
    ("DELETED", ALPHA, GONE, "READER", {"imageName": "gone"}),
]  # fmt: skip
# More than are rewritten at once.
OLDER = [("UPDATED", ALPHA, "img_" + "3" * 26, "READER", {"fields": ["name"]})] * 2_505
ORGANIZATION_ROW = text("INSERT INTO organization (id, name, created_at) VALUES (:id, 'old', :at)")
PROJECT_ROW = text("""INSERT INTO project (id, organization_id, name, created_at, revision)
    VALUES (:id, :organization, :name, :at, 1)""")
MEMBERSHIP_ROW = text("""INSERT INTO membership (project_id, subject, role, created_at)
    VALUES (:project, :subject, 'ADMIN', :at)""")
IMAGE_ROW = text("""INSERT INTO image (id, project_id, revision, type, status, visibility, name, name_key, labels,
    protected, created_by, created_at, updated_at, size_key, reserved_size, source_kind, source_file_name, source_size,
    warnings) VALUES (:id, :project, 4, 'CUSTOM', 'ERROR', 'SHARED', 'disk', 'disk', '[]', false, :by, :at, :at, -1, 0,
    'UPLOAD', '"disk.raw"', 1, '[]')""")
SHARE_ROW = text("""INSERT INTO image_share (id, image_id, project_id, "grant", state, revision, shared_by, created_at,
    updated_at) VALUES (:id, :image, :project, 'LAUNCH', 'ACCEPTED', 1, :by, :at, :at)""")
EVENT_ROW = text("""INSERT INTO event (occurred_at, kind, project_id, image_id, least_role, actor, detail)
    VALUES (:at, :kind, :project, :image, :role, :by, :detail)""")
HISTORY = """query ($p: ID!, $after: EventCursor) { EVENTS(projectId: $p, after: $after, first: 50) { nodes {
  __typename cursor actor ... on ImageEvent { imageId image { id } }
  ... on ImageUpdated { fields }
  ... on ImageStatusChanged { from to failure { code message hint retriable occurredAt } }
  ... on ImageShareChanged { state grant imageName project { id } } ... on ImageDeleted { imageName } } } }"""


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a gateway over an empty data folder, and its database."""
    data = tmp_path / "data"
    data.mkdir()
    if request.param == "sqlite":
        return {"data": data}
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return {"data": data, "database_url": server.new_database(migrated=False)}


def place_of(settings: dict[str, Any]) -> str:
    return Settings(**settings).database_address


def as_it_was(place: str) -> None:
    """Make the tables of the version before, with rows as a gateway of that version has left them."""
    config = Config()
    config.set_main_option("script_location", scripts().dir)
    config.attributes["url"] = place
    command.upgrade(config, BEFORE)
    within(place, fill)


def fill(connection: Connection) -> None:
    at = now().isoformat() if connection.dialect.name == "sqlite" else now()
    connection.execute(ORGANIZATION_ROW, {"id": ORGANIZATION, "at": at})
    for id_, name in ((ALPHA, "one"), (BETA, "two")):
        connection.execute(PROJECT_ROW, {"id": id_, "organization": ORGANIZATION, "name": name, "at": at})
        connection.execute(MEMBERSHIP_ROW, {"project": id_, "subject": ADMIN, "at": at})
    connection.execute(IMAGE_ROW, {"id": IMAGE, "project": ALPHA, "by": ADMIN, "at": at})
    connection.execute(SHARE_ROW, {"id": SHARE, "image": IMAGE, "project": BETA, "by": ADMIN, "at": at})
    for kind, project, about, role, detail in [*OLDER, *EVENTS]:
        given = {"kind": kind, "project": project, "image": about, "role": role, "by": ADMIN, "at": at}
        connection.execute(EVENT_ROW, given | {"detail": json.dumps(detail)})
    # Older events are pruned, and processes of that version have run on these tables.
    connection.execute(text("DELETE FROM event WHERE seq <= 5"))
    connection.execute(text("UPDATE feed_epoch SET place = :place"), {"place": place_in(connection)})


def place_in(connection: Connection) -> str:
    """Where the tables lie, as the feed's epoch remembers it."""
    if connection.dialect.name == "sqlite":
        return str(Path(str(connection.engine.url.database)).stat().st_ino)
    return str(connection.execute(text("SELECT 'event'::regclass::oid::text")).scalar_one())


async def history(settings: dict[str, Any], project: str, after: str | None = None) -> list[dict[str, Any]]:
    """What the API says happened in a project: of images, and of everything, which is the same."""
    async with running_gateway(**settings) as gateway:
        found = await read(gateway, "projectEvents", project, after)
        assert await read(gateway, "imageEvents", project, after) == found
        return found


async def read(gateway: Gateway, events: str, project: str, after: str | None) -> list[dict[str, Any]]:
    document = HISTORY.replace("EVENTS", events)
    nodes: list[dict[str, Any]] = (await gateway.ask(document, ADMIN, p=project, after=after))[events]["nodes"]
    return nodes


def test_history_is_read_through_the_api_as_the_version_before_has_told_it(settings: dict[str, Any]) -> None:
    place = place_of(settings)
    as_it_was(place)
    ((key, epoch),) = rows(place, "SELECT key, epoch FROM feed_epoch")
    before = rows(place, "SELECT seq FROM event ORDER BY seq")
    migrate(place)
    assert rows(place, "SELECT seq FROM event ORDER BY seq")[: len(before)] == before

    # A cursor that a client was given by the version before: it still stands where it stood.
    def cursor(position: int) -> str:
        return Cursors(bytes.fromhex(key)).text(Mark(bytes.fromhex(epoch), position))

    first = len(OLDER) + 1
    told = asyncio.run(history(settings, ALPHA, cursor(len(OLDER))))
    image = {"imageId": IMAGE, "image": {"id": IMAGE}}
    share = {"grant": "LAUNCH", "imageName": "disk", "state": "ACCEPTED", "project": {"id": BETA}}
    aspects = ["name", "os", "labels", "protected", "visibility", "failure", "sha256"]
    assert told == [
        {"cursor": cursor(first + at), "actor": ADMIN, **event}
        for at, event in (
            (0, {"__typename": "ImageCreated", **image}),
            (1, {"__typename": "ImageUpdated", **image, "fields": ["upload", "progress"]}),
            (2, {"__typename": "ImageStatusChanged", **image, "from": "QUEUED", "to": "SAVING", "failure": None}),
            (3, {"__typename": "ImageStatusChanged", **image, "from": "SAVING", "to": "ERROR",
                 "failure": FAILURE | {"occurredAt": FAILED_AT.replace("+00:00", "Z")}}),
            (5, {"__typename": "ImageUpdated", **image, "fields": aspects}),
            (6, {"__typename": "ImageShareChanged", **image, **share}),
            (9, {"__typename": "ImageDeleted", "imageId": GONE, "image": None, "imageName": "gone"}),
        )
    ]  # fmt: skip
    told = asyncio.run(history(settings, BETA, cursor(first + 5)))
    assert [(event["cursor"], event["imageId"], event["image"], event["state"]) for event in told] == [
        (cursor(first + 7), IMAGE, {"id": IMAGE}, "ACCEPTED"),
        (cursor(first + 8), GONE, None, None),
    ]


def test_every_event_is_rewritten_once_and_counting_goes_on(settings: dict[str, Any]) -> None:
    place = place_of(settings)
    as_it_was(place)
    migrate(place)
    migrate(place)
    others = f"SELECT CAST(detail AS TEXT) FROM event WHERE kind = 'UPDATED' AND subject_id <> '{IMAGE}'"  # noqa: S608
    found = rows(place, others)
    assert [json.loads(detail) for (detail,) in found] == [{"aspects": ["NAME"]}] * (len(OLDER) - 5)
    newest = len(OLDER) + len(EVENTS)
    insert = f"""INSERT INTO event (occurred_at, kind, feed, subject_id, least_role, detail)
        VALUES ('2026-12-01', 'CREATED', 'public', '{IMAGE}', 'READER', '{{}}')"""  # noqa: S608
    within(place, lambda connection: connection.execute(text("DELETE FROM event")))
    within(place, lambda connection: connection.execute(text(insert)))
    assert rows(place, "SELECT seq, feed FROM event") == [(newest + 1, "public")]


def test_events_of_servers_follow_those_of_before_under_the_same_cursors(settings: dict[str, Any]) -> None:
    place = place_of(settings)
    as_it_was(place)
    ((key, epoch),) = rows(place, "SELECT key, epoch FROM feed_epoch")
    migrate(place)
    # The last event that the version before has published in the project.
    last = Cursors(bytes.fromhex(key)).text(Mark(bytes.fromhex(epoch), len(OLDER) + len(EVENTS) - 1))

    async def launched() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        async with running_gateway(**settings) as gateway:
            await add_host(gateway)
            await launch(gateway, ALPHA, (await image(gateway, ALPHA))["id"])
            everything = await read(gateway, "projectEvents", ALPHA, last)
            return everything, await read(gateway, "imageEvents", ALPHA, last)

    everything, of_images = asyncio.run(launched())
    kinds = [event["__typename"] for event in everything]
    assert kinds[0] == "ImageDeleted"
    assert kinds[-2:] == ["ServerCreated", "VolumeCreated"]
    assert everything[:-2] == of_images
