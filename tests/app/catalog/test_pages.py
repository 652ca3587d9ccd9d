"""Pages of images in every order, direction and window and by every filter are what sorting them all would give."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import product
from random import Random
from typing import Any

import pytest

from app.catalog import images, members
from app.catalog.images import ImageFilter, ImageOrder, sort_key
from app.catalog.pages import Page, Place, Window
from app.catalog.texts import name_key
from app.database.sessions import Database
from app.errors import NotFound
from app.lifecycle import ImageStatus, ImageType, ImageVisibility, ShareGrant, ShareState
from app.models import Image, ImageRow, ImageShare, now
from app.settings import load_settings
from app.viewer import Viewer
from tests.app.conftest import NewDatabase

pytestmark = pytest.mark.anyio

ADA, EVE = Viewer("ada"), Viewer("eve")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NAMES = ("alpha", "Alpha beta", "beta", "Éclair", "zeta 100%")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """A project of ada's with images of few different keys, so that the ids decide, and what else it sees.

    `name` tells it from the others.
    """

    name: str
    database: Database
    project_id: str
    images: Sequence[Image]


def image(project_id: str, at: int, kind: tuple[ImageStatus, ImageType], deleted_at: datetime | None = None) -> Image:
    """Each of its keys recurs after a number of images that has nothing to do with the others."""
    size = (None, 5, 9)[at % 3]
    return Image(
        project_id=project_id,
        status=kind[0],
        type=kind[1],
        name=NAMES[at % 5],
        name_key=name_key(NAMES[at % 5]),
        visibility=list(ImageVisibility)[at % 2],
        os_family=(None, "ubuntu", "rocky")[at // 2 % 3],
        virtual_size=size,
        size_key=-1 if size is None else size,
        created_at=NOON + timedelta(hours=at % 7),
        deleted_at=deleted_at,
        created_by="ada",
        source_file_name="disk.raw",
        source_size=1,
    )


def seen_of_others(ways: str, project_id: str, kinds: list[tuple[ImageStatus, ImageType]]) -> list[Image]:
    """Images of another project that are seen in the given ways."""
    found = []
    for visibility in (ImageVisibility.PUBLIC, ImageVisibility.SHARED):
        if ways in (visibility.lower(), "all"):
            rows = [image(project_id, at, kind) for at, kind in enumerate(kinds * 2)]
            for row in rows:
                row.visibility = visibility
            found += rows
    return found


def share(image_id: str, project_id: str) -> ImageShare:
    return ImageShare(
        image_id=image_id,
        project_id=project_id,
        grant=ShareGrant.LAUNCH,
        state=ShareState.ACCEPTED,
        shared_by="ada",
    )


@pytest.fixture(scope="module", params=["own", "public", "shared", "all"])
async def catalogue(
    request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Catalogue]:
    folder = tmp_path_factory.mktemp("pages") / "data"
    database = Database(load_settings(data=folder, **new_database(folder)).database_address)
    alpha, beta = await members.create_organization(database, "demo", ["alpha", "beta"], "ada")
    # No snapshot is in ERROR, so that a kind of which there is none is asked for, too.
    kinds = [kind for kind in product(ImageStatus, ImageType) if kind != (ImageStatus.ERROR, ImageType.SNAPSHOT)]
    kept = [image(alpha.id, at, kind) for at, kind in enumerate(kinds * 5)]
    others = [image(beta.id, at, kind) for at, kind in enumerate(kinds)]
    others += [image(alpha.id, at, kind, deleted_at=now()) for at, kind in enumerate(kinds)]
    async with database.transaction() as tx:
        tx.session.add_all([*kept, *others])
        await tx.session.flush()
        seen = seen_of_others(request.param, beta.id, kinds)
        tx.session.add_all(seen)
        await tx.session.flush()
        tx.session.add_all(share(row.id, alpha.id) for row in seen if row.visibility == ImageVisibility.SHARED)
        # A share does not show an image twice that is public as well, nor to those who see it anyway.
        tx.session.add_all(share(row.id, alpha.id) for row in seen[::3] if row.visibility == ImageVisibility.PUBLIC)
        if request.param in ("public", "all"):
            for row in kept[::11]:
                row.visibility = ImageVisibility.PUBLIC
    kept += seen
    yield Catalogue(f"{request.param} {database.many_writers}", database, alpha.id, kept)
    await database.close()


def chosen(chance: Random, *values: Any) -> Any:
    """One of the values or, as often as not, None."""
    return chance.choice(values) if chance.random() < 0.5 else None


def some(chance: Random, members: type[StrEnum]) -> Any:
    """Up to three members, one of them twice perhaps; or None."""
    return chosen(chance, chance.choices(list(members), k=chance.randint(0, 3)))


def any_filter(chance: Random) -> ImageFilter:
    return ImageFilter(
        types=some(chance, ImageType),
        statuses=some(chance, ImageStatus),
        visibilities=chosen(chance, [ImageVisibility.PROJECT], [ImageVisibility.PUBLIC, ImageVisibility.SHARED]),
        os_families=chosen(chance, ["Ubuntu", "plan9"]),
        name_contains=chosen(chance, "", "ALPHA", "É", "%", "a", "nowhere"),
        launchable=chosen(chance, True, False),
        created_after=chosen(chance, NOON + timedelta(hours=1)),
        created_before=chosen(chance, NOON + timedelta(hours=6)),
    )


def any_window(chance: Random, places: Sequence[Place]) -> Window:
    """Between any two images, which need not match, nor be of a kind that is asked for."""
    after, before = chosen(chance, *places), chosen(chance, *places)
    return Window(chance.randint(1, 12), after, before, backward=chance.random() < 0.5)


def matches(image: Image, wanted: ImageFilter) -> bool:
    return (
        (wanted.types is None or image.type in wanted.types)
        and (wanted.statuses is None or image.status in wanted.statuses)
        and (wanted.visibilities is None or image.visibility in wanted.visibilities)
        and (wanted.os_families is None or image.os_family in [name.lower() for name in wanted.os_families])
        and name_key(wanted.name_contains or "") in image.name_key
        and wanted.launchable in (None, image.status == ImageStatus.ACTIVE)
        and (wanted.created_after is None or image.created_at > wanted.created_after)
        and (wanted.created_before is None or image.created_at < wanted.created_before)
    )


def expected(
    matching: Sequence[Image], order: ImageOrder, window: Window, *, descending: bool
) -> tuple[list[str], bool, bool]:
    """The ids of a page and whether there is more after and before it, found by sorting all that match."""

    def stands(place: Place) -> tuple[Any, str]:
        return place.key, place.id

    sign = -1 if descending else 1
    places = sorted((Place(sort_key(image, order), image.id) for image in matching), key=stands)[::sign]
    if (after := window.after) is not None:
        places = [place for place in places if (stands(place) > stands(after)) != descending and place != after]
    if (before := window.before) is not None:
        places = [place for place in places if (stands(place) < stands(before)) != descending and place != before]
    more = len(places) > window.limit
    if window.backward:
        return [place.id for place in places[-window.limit :]], window.before is not None, more
    return [place.id for place in places[: window.limit]], more, window.after is not None


async def read(
    catalogue: Catalogue, wanted: ImageFilter, order: ImageOrder, window: Window, *, descending: bool
) -> Page[ImageRow]:
    async with catalogue.database.read() as session:
        return await images.list_images(
            session, ADA, catalogue.project_id, wanted, order, window, descending=descending
        )


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("order", list(ImageOrder))
async def test_any_page_is_what_sorting_all_images_would_give(
    catalogue: Catalogue, order: ImageOrder, descending: bool
) -> None:
    # Others for each catalogue: together they try more than the same ones everywhere would.
    chance = Random(f"{order} {descending} {catalogue.name}")
    places = [Place(sort_key(image, order), image.id) for image in catalogue.images]
    for _ in range(20):
        wanted, window = any_filter(chance), any_window(chance, places)
        page = await read(catalogue, wanted, order, window, descending=descending)
        matching = [image for image in catalogue.images if matches(image, wanted)]
        found = ([row.id for row in page.rows], page.has_next, page.has_previous)
        assert found == expected(matching, order, window, descending=descending), (wanted, window)
        async with catalogue.database.read() as session:
            assert await images.count_images(session, catalogue.project_id, wanted) == len(matching), wanted


@pytest.mark.parametrize("order", list(ImageOrder))
async def test_who_may_not_see_a_project_gets_no_filtered_page_of_it(catalogue: Catalogue, order: ImageOrder) -> None:
    for wanted in (ImageFilter(statuses=[ImageStatus.ERROR]), ImageFilter(types=[]), ImageFilter(launchable=True)):
        async with catalogue.database.read() as session:
            with pytest.raises(NotFound):
                await images.list_images(session, EVE, catalogue.project_id, wanted, order, Window(5), descending=False)


async def test_rows_of_a_filtered_page_have_every_attribute_of_an_image(catalogue: Catalogue) -> None:
    wanted = ImageFilter(types=[ImageType.STOCK, ImageType.SNAPSHOT])
    page = await read(catalogue, wanted, ImageOrder.SIZE, Window(100), descending=True)
    by_id = {image.id: image for image in catalogue.images}
    assert len(page.rows) == len([image for image in catalogue.images if matches(image, wanted)])
    assert len(page.rows) >= 35
    for row in page.rows:
        assert {name: getattr(row, name) for name in Image.model_fields} == by_id[row.id].model_dump()
