"""A page of few images among many is read without looking at the many, in every order and wherever it begins."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from sqlalchemy import delete, insert, text
from sqlmodel import col

from app.catalog import images, members
from app.catalog.images import ImageFilter, ImageOrder
from app.catalog.pages import Place, Window
from app.database.sessions import Database
from app.lifecycle import ImageStatus, ImageType, ImageVisibility, ShareGrant, ShareState
from app.models import Image, ImageShare, new_id
from app.settings import load_settings
from app.viewer import Viewer
from tests.app.conftest import NewDatabase
from tests.bench.filling import ADMIN, fill, middle_of
from tests.support.plans import (
    Statement,
    instructions_of_sqlite,
    looked_at,
    plan_of_sqlite,
    reads_of,
    steps_of_postgresql,
)

pytestmark = pytest.mark.anyio

MANY = 20_000
PAGE = 10
PUBLIC = 3_000
ORDERS = (ImageOrder.NAME, ImageOrder.CREATED_AT, ImageOrder.SIZE)
# These let a hundred images through, some fifty, 2,000, 700 and almost all.
FILTERS = {
    "ERROR": ImageFilter(statuses=[ImageStatus.ERROR]),
    "ERROR or SAVING, SNAPSHOT": ImageFilter(
        statuses=[ImageStatus.ERROR, ImageStatus.SAVING], types=[ImageType.SNAPSHOT]
    ),
    "SNAPSHOT": ImageFilter(types=[ImageType.SNAPSHOT]),
    "not launchable": ImageFilter(launchable=False),
    "ACTIVE": ImageFilter(statuses=[ImageStatus.ACTIVE]),
}


@dataclass(frozen=True, slots=True)
class Large:
    """A project with many images, and where the middle of them is in each order."""

    address: str
    database: Database
    project_id: str
    middles: Mapping[ImageOrder, Place]

    @property
    def on_sqlite(self) -> bool:
        return self.address.startswith("sqlite")


@pytest.fixture(scope="module")
async def large(new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Large]:
    folder = tmp_path_factory.mktemp("pages") / "data"
    address = load_settings(data=folder, **new_database(folder)).database_address
    project_id = await fill(address, MANY)
    middles = {}
    for order in ORDERS:
        middle = await middle_of(address, project_id, order, MANY)
        middles[order] = Place(middle.key, middle.id)
    database = Database(address)
    yield Large(address, database, project_id, middles)
    await database.close()


async def reads(large: Large, wanted: ImageFilter, *, rows: int = PAGE, others: bool = False) -> list[Statement]:
    """How pages are read in every order and direction: the first, the last, and those beside the middle.

    `others` says that there are others than the project's own: then a page of these is read as well.
    """
    pages = list(product(ORDERS, (False, True), (False, True), (False, True)))
    with reads_of(large.database) as found:
        for order, descending, backward, inside in pages:
            place = large.middles[order] if inside else None
            after, before = (None, place) if backward else (place, None)
            window = Window(PAGE, after, before, backward)
            async with large.database.read() as session:
                page = await images.list_images(
                    session, Viewer(ADMIN), large.project_id, wanted, order, window, descending=descending
                )
            assert len(page.rows) == rows
    # Where there are no rows, it is asked whether the project may be seen, and whether anything is shared with it.
    each = 2 if others else 1 if rows else 3
    assert len(found) == each * len(pages)
    return found if others else found[::each]


@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
async def test_a_filtered_page_looks_at_few_images_more_than_it_has(large: Large, wanted: ImageFilter) -> None:
    for read in await reads(large, wanted):
        if large.on_sqlite:
            # To look at each of the images takes several steps: at all of those that could match, or to sort them.
            assert instructions_of_sqlite(large.database, read) < MANY / 2, read
            continue
        scans = [
            step for step in await steps_of_postgresql(large.database, read) if step.get("Relation Name") == "image"
        ]
        # One of each kind, those of the page, and these again by their ids.
        assert looked_at(scans) <= 12 + 2 * (PAGE + 1), read
        assert all("Index" in step["Node Type"] for step in scans), read


@pytest.mark.parametrize("wanted", FILTERS.values(), ids=FILTERS)
async def test_kinds_are_merged_in_their_order_and_no_more_is_sorted_than_a_page(
    large: Large, wanted: ImageFilter
) -> None:
    for read in await reads(large, wanted):
        if large.on_sqlite:
            told = await plan_of_sqlite(large.database, read)
            assert "MERGE (UNION ALL)" in told
            # Nothing but what has been limited to a page: what each kind gives, and what is found by its id.
            assert not any(step.startswith("SCAN image") for step in told)
            assert sum("TEMP B-TREE" in step for step in told) == sum("MERGE" in step for step in told) + 2
            continue
        steps = await steps_of_postgresql(large.database, read)
        assert "Merge Append" in [step["Node Type"] for step in steps]
        assert all(step["Actual Rows"] <= PAGE + 1 for step in steps if "Sort" in step["Node Type"])


async def test_a_filter_that_no_image_can_pass_looks_at_none(large: Large) -> None:
    for wanted in (ImageFilter(types=[]), ImageFilter(statuses=[ImageStatus.ERROR], launchable=True)):
        for read in await reads(large, wanted, rows=0):
            if large.on_sqlite:
                # What it takes to begin; each image would take some more.
                assert instructions_of_sqlite(large.database, read) < MANY / 20, read
            else:
                assert all(step.get("Alias") != "image" for step in await steps_of_postgresql(large.database, read)), (
                    read
                )


@pytest.fixture
async def sharing(large: Large) -> AsyncIterator[None]:
    """Three images of another project are shared with the large one."""
    (other,) = await members.create_organization(large.database, "bench", ["other"], None)
    rows = [_image(other.id, number) for number in range(3)]
    shares = [
        ImageShare(
            image_id=row.id,
            project_id=large.project_id,
            grant=ShareGrant.LAUNCH,
            state=ShareState.ACCEPTED,
            shared_by="a",
        )
        for row in rows
    ]
    async with large.database.transaction() as tx:
        tx.session.add_all(rows)
        await tx.session.flush()
        tx.session.add_all(shares)
    yield
    async with large.database.transaction() as tx:
        await tx.session.execute(delete(ImageShare))
        await tx.session.execute(delete(Image).where(col(Image.project_id) == other.id))


def _image(project_id: str, number: int) -> Image:
    return Image(
        project_id=project_id, name=str(number), name_key=str(number), size_key=1, virtual_size=1,
        status=ImageStatus.ACTIVE, created_by="a", source_file_name="a", source_size=1,
    )  # fmt: skip


@pytest.mark.usefixtures("sharing")
@pytest.mark.parametrize("wanted", [ImageFilter(), FILTERS["ACTIVE"]], ids=["all", "ACTIVE"])
async def test_with_shared_images_a_page_looks_at_these_and_few_more_than_it_has(
    large: Large, wanted: ImageFilter
) -> None:
    for read in await reads(large, wanted, others=True):
        if large.on_sqlite:
            assert instructions_of_sqlite(large.database, read) < MANY / 2, read
            continue
        steps = await steps_of_postgresql(large.database, read)
        scans = [step for step in steps if step.get("Relation Name") == "image"]
        assert looked_at(scans) <= 12 + 3 + 3 * (PAGE + 1), read


# ---------------------------------------------------------------- with public images


@pytest.fixture
async def public(large: Large, sharing: None) -> AsyncIterator[None]:
    """Many images of another project are public, beside the few that are shared."""
    (vendor,) = await members.create_organization(large.database, "bench", ["vendor"], None)
    # To make an object of each takes seconds.
    template = _image(vendor.id, 0).model_dump() | {"visibility": ImageVisibility.PUBLIC, "type": ImageType.STOCK}
    rows = [
        template
        | {
            "id": new_id("img"),
            "name": str(number),
            "name_key": str(number),
            "size_key": (7 * number) << 25,
            "status": ImageStatus.ERROR if number % 100 == 0 else ImageStatus.ACTIVE,
            "created_at": datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=5 * number),
        }
        for number in range(PUBLIC)
    ]
    async with large.database.transaction() as tx:
        await tx.session.execute(insert(Image), rows)
        if not large.on_sqlite:
            await tx.session.execute(text("ANALYZE"))
    yield
    async with large.database.transaction() as tx:
        await tx.session.execute(delete(Image).where(col(Image.project_id) == vendor.id))


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("wanted", [ImageFilter(), *FILTERS.values()], ids=["all", *FILTERS])
async def test_with_public_images_a_page_looks_at_few_more_of_each_than_it_has(
    large: Large, wanted: ImageFilter
) -> None:
    for read in await reads(large, wanted, others=True):
        if large.on_sqlite:
            # To go through the public images would take several times as many.
            assert instructions_of_sqlite(large.database, read) < 2 * PUBLIC, read
            told = await plan_of_sqlite(large.database, read)
            assert not any(step.startswith("SCAN image") for step in told), told
            continue
        steps = await steps_of_postgresql(large.database, read)
        scans = [step for step in steps if step.get("Relation Name") == "image"]
        assert looked_at(scans) <= 12 + 12 + 3 + 4 * (PAGE + 1), read
        assert not any(step["Node Type"] == "Seq Scan" for step in scans), steps
        assert all(step["Actual Rows"] <= PAGE + 1 for step in steps if "Sort" in step["Node Type"]), steps


async def test_without_public_images_one_probe_of_an_empty_index_is_all_that_they_cost(large: Large) -> None:
    for read in await reads(large, ImageFilter()):
        if large.on_sqlite:
            told = await plan_of_sqlite(large.database, read)
            (probe,) = [step for step in told if "any_image" in step]
            assert probe.startswith("SEARCH any_image USING"), told
            assert "INDEX image_public_of_kind_by_created_at" in probe
            continue
        steps = await steps_of_postgresql(large.database, read)
        (scan,) = [step for step in steps if step.get("Alias") == "any_image"]
        assert scan["Index Name"] == "image_public_of_kind_by_created_at"
        assert looked_at([scan]) == 0
