"""Pages of images on PostgreSQL come out of an index, in order, wherever in a large project they begin."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text

from app.catalog import images, members
from app.catalog.images import ImageFilter, ImageOrder
from app.catalog.pages import Place, Window
from app.database.sessions import Database
from app.lifecycle import ImageStatus, ImageType
from app.models import Project
from app.viewer import Viewer
from tests.servers.postgresql import PostgreSQL
from tests.support.plans import looked_at, reads_of, steps_of_postgresql

VIEWER = Viewer("ada")
MANY = 20_000
# Ninety of a hundred are ACTIVE, and a third have one and the same name.
FILL = text("""
INSERT INTO image (id, project_id, revision, type, status, visibility, name, name_key, labels, protected, created_by,
  created_at, updated_at, size_key, reserved_size, source_file_name, source_size, warnings)
SELECT 'img_' || lpad(n::text, 26, '0'), :project, 1, CASE n % 10 WHEN 0 THEN 'SNAPSHOT' ELSE 'CUSTOM' END,
  CASE WHEN n % 10 < 9 THEN 'ACTIVE' ELSE 'ERROR' END, 'PROJECT', 'disk',
  'disk ' || CASE n % 3 WHEN 0 THEN 0 ELSE n END,
  '[]', false, 'ada', timestamptz '2026-01-01' + n * interval '1 second', now(), n % 53, 0, '"disk.raw"', 1, '[]'
FROM generate_series(1, :many) AS n""")

pytestmark = [pytest.mark.anyio]


@pytest.fixture(scope="module")
async def large(postgresql: PostgreSQL) -> AsyncIterator[tuple[Database, Project]]:
    """A project with many images, beside another with as many."""
    database = Database("postgresql+asyncpg" + postgresql.new_database().removeprefix("postgresql"))
    projects = await members.create_organization(database, "demo", ["alpha", "beta"], "ada")
    async with database.transaction() as tx:
        for project in projects:
            # Ids are unique in all of the table.
            statement = text(FILL.text.replace("'img_'", f"'img_{project.name[0]}'").replace("26", "25"))
            await tx.session.execute(statement, {"project": project.id, "many": MANY})
        await tx.session.execute(text("ANALYZE"))
    yield database, projects[0]
    await database.close()


async def walked(database: Database, project: Project, order: ImageOrder, window: Window, **given: Any) -> list[str]:
    """Read a page; gives the indexes of images that it came from. Fails when more rows were looked at than needed."""
    descending, wanted = given.pop("descending", False), ImageFilter(**given)
    with reads_of(database) as seen:
        async with database.read() as session:
            page = await images.list_images(session, VIEWER, project.id, wanted, order, window, descending=descending)
    assert len(page.rows) == window.limit
    (statement,) = seen
    steps = await steps_of_postgresql(database, statement)
    scans = [step for step in steps if step.get("Alias") == "image"]
    # Beside these it is looked whether there are public images: there are none.
    assert looked_at(step for step in steps if step.get("Alias") == "any_image") == 0
    assert looked_at(scans) < 40 * window.limit, steps
    return [step.get("Index Name", step["Node Type"]) for step in scans]


async def middle(database: Database, project: Project, order: ImageOrder) -> Place:
    """Where the image in the middle of all stands in an order."""
    column = images._SORT_KEYS[order]
    table = column.table.c
    query = images._COLUMNS.where(table.project_id == project.id).order_by(column, table.id).offset(MANY // 2).limit(1)
    async with database.read() as session:
        row: Any = (await session.execute(query)).one()
    return Place(images.sort_key(row, order), row.id)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", list(ImageOrder))
async def test_every_order_is_read_from_its_own_index_at_the_beginning_and_in_the_middle(
    large: tuple[Database, Project], order: ImageOrder, descending: bool
) -> None:
    database, project = large
    index = f"image_by_{order.lower()}"
    assert await walked(database, project, order, Window(50), descending=descending) == [index]
    place = await middle(database, project, order)
    for window in (Window(50, after=place), Window(50, before=place, backward=True)):
        assert await walked(database, project, order, window, descending=descending) == [index]


@pytest.mark.parametrize("order", [ImageOrder.NAME, ImageOrder.CREATED_AT, ImageOrder.SIZE])
@pytest.mark.parametrize(
    "wanted",
    [
        {"statuses": [ImageStatus.ACTIVE]},
        {"types": [ImageType.SNAPSHOT]},
        {"launchable": True},
        {"name_contains": "DISK"},
    ],
    ids=lambda wanted: next(iter(wanted)),
)
async def test_a_filtered_page_does_not_look_at_many_more_images_than_it_has(
    large: tuple[Database, Project], order: ImageOrder, wanted: dict[str, Any]
) -> None:
    database, project = large
    place = await middle(database, project, order)
    for window in (Window(50), Window(50, after=place)):
        assert "Seq Scan" not in await walked(database, project, order, window, **wanted)


async def test_pages_follow_each_other_without_a_gap_among_equal_keys(large: tuple[Database, Project]) -> None:
    database, project = large
    seen: list[str] = []
    place: Place | None = None
    async with database.read() as session:
        for _ in range(20):
            window = Window(500, after=place)
            page = await images.list_images(
                session, VIEWER, project.id, ImageFilter(), ImageOrder.STATUS, window, descending=False
            )
            seen += [image.id for image in page.rows]
            last = page.rows[-1]
            place = Place(last.status, last.id)
    assert seen == sorted(seen)
    assert len(set(seen)) == 20 * 500
