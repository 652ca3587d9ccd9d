"""The ledger on PostgreSQL: two who let go of the same bytes at once, and bills that are read from an index."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import select

from app.catalog import deletion, members
from app.catalog.bill import billing
from app.catalog.bill.billing import ImageUsage
from app.catalog.pages import Page, Place, Window
from app.database.sessions import Database
from app.models import Blob, Image, Project
from app.settings import ArchiveRate, Settings
from tests.app.conftest import NewDatabase, new_on_server
from tests.servers.postgresql import PostgreSQL
from tests.support.contention import one_after_the_other
from tests.support.gateway import Gateway
from tests.support.plans import looked_at, reads_of, steps_of_postgresql
from tests.support.storing import ADA, Storing

T = TypeVar("T")

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def new_database(postgresql: PostgreSQL) -> NewDatabase:
    return partial(new_on_server, postgresql)


# ------------------------------------------------------------ at once


def days_ago(number: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=number)


@pytest.mark.parametrize("payer_first", [True, False], ids=["the payer first", "its copy first"])
async def test_a_payer_and_its_copy_that_are_deleted_at_once_leave_no_line_open(
    gateway: Gateway, other: Database, payer_first: bool
) -> None:
    project, storing = await gateway.project(), Storing(gateway)
    base = await storing.store(project, "base", 2, days_ago(2))
    twin = await storing.copy(base, project, "twin", days_ago(1))
    blob_id = (await gateway.image(base)).blob_id
    assert blob_id is not None
    first, second = (base, twin) if payer_first else (twin, base)
    deleted = await one_after_the_other(
        gateway.database,
        Blob,
        blob_id,
        lambda: deletion.delete_image(gateway.catalogue, ADA, first, None),
        lambda: deletion.delete_image(replace(gateway.catalogue, database=other), ADA, second, None),
    )
    assert [written.row.id for written in deleted] == [first, second]
    lines = await storing.lines(project)
    assert [name for name, *_ in lines] == (["base", "twin"] if payer_first else ["base"])
    assert all(until is not None for *_, until in lines)
    # What one line ends with the next one begins.
    assert [until for *_, until in lines][:-1] == [since for *_, since, _ in lines][1:]
    async with gateway.database.read() as session:
        assert await session.get(Blob, blob_id) is None


async def test_an_image_that_is_deleted_while_its_bytes_are_copied_passes_its_line_on(
    gateway: Gateway, other: Database
) -> None:
    project, storing = await gateway.project(), Storing(gateway)
    base = await storing.store(project, "base", 2, days_ago(2))
    blob_id = (await gateway.image(base)).blob_id
    assert blob_id is not None
    await one_after_the_other(
        gateway.database,
        Blob,
        blob_id,
        lambda: storing.copy(base, project, "twin", days_ago(1)),
        lambda: deletion.delete_image(replace(gateway.catalogue, database=other), ADA, base, None),
    )
    (first, second) = await storing.lines(project)
    assert (first[0], second[0]) == ("base", "twin")
    assert (first[3], second[3]) == (second[2], None)


# ------------------------------------------------------------ from an index

MANY = 20_000
MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
SETTINGS = Settings(archive_rates=(ArchiveRate(date(2026, 1, 1), Decimal("0.31")),))
# Three lines an image, the last of which is open. The images of the two projects share their bytes.
FILL_IMAGES = text("""
INSERT INTO image (id, project_id, revision, type, status, visibility, name, name_key, labels, protected, created_by,
  created_at, updated_at, size_key, reserved_size, source_kind, source_file_name, source_size, warnings)
SELECT 'img_' || :letter || lpad(n::text, 25, '0'), :project, 1, 'CUSTOM', 'ACTIVE', 'PROJECT', 'disk', 'disk', '[]',
  false, 'ada', now(), now(), 1, 0, 'UPLOAD', '"disk.raw"', 1, '[]' FROM generate_series(1, :many) AS n""")
FILL_ENTRIES = text("""
INSERT INTO storage_entry (id, project_id, image_id, blob_id, stored_size, since, until)
SELECT 'ent_' || substr(id, 5, 19) || m || substr(id, 25), project_id, id, 'blb_' || substr(id, 6), 1073741824,
  timestamptz '2026-02-01 00:00Z' + m * interval '30 days',
  CASE WHEN m < 2 THEN timestamptz '2026-02-01 00:00Z' + (m + 1) * interval '30 days' END
FROM image, generate_series(0, 2) AS m WHERE project_id = :project""")


@pytest.fixture(scope="module")
async def large(postgresql: PostgreSQL) -> AsyncIterator[tuple[Database, Project]]:
    """A project that has stored much, beside another that has stored as much."""
    database = Database("postgresql+asyncpg" + postgresql.new_database().removeprefix("postgresql"))
    projects = await members.create_organization(database, "demo", ["alpha", "beta"], "ada")
    async with database.transaction() as tx:
        for project in projects:
            values = {"project": project.id, "letter": project.name[0], "many": MANY}
            await tx.session.execute(FILL_IMAGES, values)
            await tx.session.execute(FILL_ENTRIES, {"project": project.id})
        await tx.session.execute(text("ANALYZE"))
    yield database, projects[0]
    await database.close()


async def read_from(
    database: Database, read: Callable[[AsyncSession], Awaitable[T]]
) -> tuple[T, list[tuple[str, int]]]:
    """What a read gives, and where its statements found lines: the index or table, and how many were looked at."""
    with reads_of(database) as seen:
        async with database.read() as session:
            result = await read(session)
    scans: list[tuple[str, int]] = []
    for statement in seen:
        for step in await steps_of_postgresql(database, statement):
            # A bitmap is made from an index by one step, and another one fetches its rows.
            name = step.get("Index Name") or (step["Node Type"] == "Seq Scan" and step["Relation Name"]) or ""
            if name.startswith("storage_entry"):
                scans.append((name, looked_at([step])))
    return result, scans


async def test_a_page_of_a_large_bill_looks_at_the_lines_of_its_images_alone(
    large: tuple[Database, Project],
) -> None:
    database, project = large
    middle = f"img_a{MANY // 2:025}"
    for window in (Window(50), Window(50, after=Place(middle, middle))):

        async def read(session: AsyncSession, window: Window = window) -> Page[ImageUsage]:
            return await billing.image_usage_page(session, project.id, MARCH, APRIL, window, SETTINGS)

        page, scans = await read_from(database, read)
        assert len(page.rows) == 50
        assert {index for index, _ in scans} == {"storage_entry_project"}
        assert sum(rows for _, rows in scans) < 10 * 50


async def test_a_large_bill_is_added_up_from_the_lines_of_its_project(large: tuple[Database, Project]) -> None:
    database, project = large
    total, scans = await read_from(
        database, lambda session: billing.usage_of(session, project.id, MARCH, APRIL, SETTINGS)
    )
    # Of each image one line up to the 3rd of March, and another one from then on.
    assert total.gib_hours == MANY * 744
    assert total.cost == MANY * Decimal("0.31")
    assert {index for index, _ in scans} == {"storage_entry_project"}
    # No part of it is looked at again and again, as it would be by offsets.
    assert sum(rows for _, rows in scans) < 2 * 3 * MANY


async def test_who_pays_is_found_by_the_blobs(large: tuple[Database, Project]) -> None:
    database, project = large
    async with database.read() as session:
        query = select(Image).where(Image.project_id == project.id).limit(50)
        page = list((await session.execute(query)).scalars())
        for image in page:
            session.expunge(image)
            image.blob_id = f"blb_{image.id[5:]}"
    paying, scans = await read_from(database, lambda session: billing.paying(session, page))
    assert paying == {image.id for image in page}
    assert {index for index, _ in scans} == {"storage_entry_open"}
    assert sum(rows for _, rows in scans) <= 50
