"""The ledger is mended on PostgreSQL beside others who are at the same bytes, and without going through all images."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from app.catalog import members
from app.catalog.bill import reconciling
from app.database.sessions import Database
from app.models import Blob, now
from tests.app.catalog.test_reconciling import day, deleted, stored
from tests.app.conftest import NewDatabase, new_on_server
from tests.app.database.test_postgres_ledger import FILL_IMAGES, MANY
from tests.servers.postgresql import PostgreSQL
from tests.support.contention import one_after_the_other
from tests.support.gateway import Gateway
from tests.support.plans import looked_at, reads_of, steps_of_postgresql
from tests.support.storing import Storing

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def new_database(postgresql: PostgreSQL) -> NewDatabase:
    return partial(new_on_server, postgresql)


# ------------------------------------------------------------ at once

MENDING, DELETION = "the mending first", "the deletion first"


async def beside_mending(
    gateway: Gateway, other: Database, image_id: str, act: Callable[[], Awaitable[Any]], *, mending_first: bool
) -> None:
    """Do something to the bytes of an image while they wait to be mended, or, else, before."""
    blob_id = (await gateway.image(image_id)).blob_id
    assert blob_id is not None
    acts: list[Callable[[], Awaitable[Any]]] = [lambda: reconciling.reconcile(other), act]
    outcomes = await one_after_the_other(gateway.database, Blob, blob_id, *(acts if mending_first else reversed(acts)))
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]


@pytest.mark.parametrize("first", [MENDING, DELETION])
async def test_an_image_without_a_line_that_is_deleted_meanwhile_leaves_none_open(
    storing: Storing, gateway: Gateway, other: Database, project: str, first: str
) -> None:
    base = await stored(storing, project, "base", 2, day(1))
    with capture_logs() as logs:
        await beside_mending(gateway, other, base, lambda: storing.delete(base, day(3)), mending_first=first == MENDING)
    told = [entry["opened"] for entry in logs if entry["event"] == "ledger.repaired"]
    assert told == ([base] if first == MENDING else [])
    assert await storing.lines(project) == ([("base", 2, day(1), day(3))] if first == MENDING else [])


@pytest.mark.parametrize("first", [MENDING, DELETION])
async def test_an_heir_that_is_deleted_meanwhile_leaves_no_line_open(
    storing: Storing, gateway: Gateway, other: Database, project: str, first: str
) -> None:
    base = await storing.store(project, "base", 2, day(1))
    twin = await storing.copy(base, project, "twin", day(2), created_at=day(2))
    await deleted(storing, base, day(3))
    await beside_mending(gateway, other, twin, lambda: storing.delete(twin, day(4)), mending_first=first == MENDING)
    passed_on = [("twin", 2, day(3), day(4))] if first == MENDING else []
    assert await storing.lines(project) == [("base", 2, day(1), day(3)), *passed_on]


@pytest.mark.parametrize("mending_first", [True, False])
async def test_a_copy_that_is_made_meanwhile_has_one_line(
    storing: Storing, gateway: Gateway, other: Database, project: str, mending_first: bool
) -> None:
    base = await storing.store(project, "base", 2, day(1))
    kept = await storing.copy(base, await gateway.project(), "kept", day(1))
    await deleted(storing, base, day(2))
    await beside_mending(
        gateway,
        other,
        kept,
        lambda: storing.copy(kept, project, "late", day(3), created_at=day(3)),
        mending_first=mending_first,
    )
    assert await storing.lines(project) == [("base", 2, day(1), day(2)), ("late", 2, day(3), None)]


async def test_two_that_mend_at_once_open_one_line(
    storing: Storing, gateway: Gateway, other: Database, project: str
) -> None:
    base = await stored(storing, project, "base", 2, day(1))
    await beside_mending(gateway, other, base, lambda: reconciling.reconcile(gateway.database), mending_first=True)
    assert await storing.lines(project) == [("base", 2, day(1), None)]


# ------------------------------------------------------------ from indexes

FILL_EVENTS = text("""
INSERT INTO event (occurred_at, kind, feed, subject_id, least_role, detail)
SELECT :at, 'CREATED', project_id, id, 'READER', '{}' FROM (SELECT * FROM image ORDER BY id LIMIT :many) AS changed""")
FILL_BLOBS = text("""
INSERT INTO blob (id, key, virtual_size, stored_size, file_size, created_at)
SELECT 'blb_' || substr(id, 5), id, 1, 1, 1, now() FROM image""")
FILL_ENTRIES = text("""
INSERT INTO storage_entry (id, project_id, image_id, blob_id, stored_size, since)
SELECT 'ent_' || substr(id, 5), project_id, id, blob_id, 1, now() FROM image""")


@pytest.fixture(scope="module")
async def large(postgresql: PostgreSQL) -> AsyncIterator[Database]:
    """Many images, all of which have their lines, and few of which have changed lately."""
    database = Database("postgresql+asyncpg" + postgresql.new_database().removeprefix("postgresql"))
    (project,) = await members.create_organization(database, "demo", ["alpha"], "ada")
    async with database.transaction() as tx:
        await tx.session.execute(FILL_IMAGES, {"project": project.id, "letter": "a", "many": MANY})
        await tx.session.execute(FILL_BLOBS)
        await tx.session.execute(text("UPDATE image SET blob_id = 'blb_' || substr(id, 5)"))
        await tx.session.execute(FILL_ENTRIES)
        await tx.session.execute(FILL_EVENTS, {"at": now() - timedelta(days=5), "many": MANY})
        await tx.session.execute(FILL_EVENTS, {"at": now(), "many": 50})
        await tx.session.execute(text("ANALYZE"))
    yield database
    await database.close()


async def test_few_images_are_looked_at_where_few_have_changed(large: Database) -> None:
    with reads_of(large) as seen:
        await reconciling.reconcile(large)
    steps = [step for statement in seen for step in await steps_of_postgresql(large, statement)]
    scans = [step for step in steps if "Relation Name" in step]
    indexes = {step.get("Index Name", step["Node Type"]) for step in scans}
    assert indexes == {"event_pkey", "image_pkey", "storage_entry_project", "storage_entry_open"}
    assert looked_at(scans) < 10 * 50
