"""The ledger after a rolling upgrade: what processes of the version before have not written is made good."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from app.catalog.bill import ledger, reconciling
from app.catalog.feed import event_log
from app.catalog.feed.details import Created
from app.lifecycle import ImageType
from app.models import Event, Image, now
from tests.support.gateway import Gateway, until
from tests.support.storing import Storing

pytestmark = pytest.mark.anyio


def day(number: int) -> datetime:
    return datetime(2026, 4, number, tzinfo=UTC)


@contextmanager
def version_before() -> Iterator[None]:
    """What happens meanwhile is done by a process that knows nothing of the ledger."""

    async def unwritten(*_given: object) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledger, "stored", unwritten)
        patch.setattr(ledger, "released", unwritten)
        yield


async def deleted(storing: Storing, image_id: str, at: datetime) -> None:
    """An image that the version before has deleted at an instant."""
    with version_before():
        await storing.delete(image_id, at)
    await storing.gateway.change(Image, image_id, deleted_at=at, updated_at=at)


async def stored(storing: Storing, project: str, name: str, gib: int, at: datetime) -> str:
    """An image that the version before has made ACTIVE, and that has not changed since an instant; gives its id."""
    with version_before():
        image_id = await storing.store(project, name, gib, at)
    await storing.gateway.change(Image, image_id, created_at=at - timedelta(hours=1), updated_at=at)
    return image_id


async def copied(storing: Storing, image_id: str, project: str, name: str, at: datetime, **given: Any) -> str:
    """A copy that nobody has written into the ledger, and that has not changed since an instant; gives its id."""
    with version_before():
        copy = await storing.copy(image_id, project, name, at, created_at=at, updated_at=at, **given)
    async with storing.gateway.database.transaction() as tx:
        await event_log.append(tx, await tx.session.get_one(Image, copy), Created(), actor=None)
    return copy


async def mended(gateway: Gateway) -> list[dict[str, object]]:
    """What is said to be mended."""
    with capture_logs() as logs:
        await reconciling.reconcile(gateway.database)
    return [dict(entry) for entry in logs]


async def test_where_nothing_is_astray_nothing_is_written(storing: Storing, gateway: Gateway, project: str) -> None:
    other = await gateway.project()
    base = await storing.store(project, "base", 2, day(1))
    await storing.copy(base, project, "twin", day(2))
    await storing.copy(base, other, "copy", day(2))
    await storing.copy(base, await gateway.project(), "stock", day(2), type=ImageType.STOCK)
    await storing.delete(await storing.store(project, "gone", 3, day(2)), day(3))
    await gateway.uploaded(projectId=project)
    await gateway.failed(projectId=project)
    before = await gateway.everything()
    assert await mended(gateway) == []
    assert await gateway.everything() == before


async def test_a_line_ends_when_its_image_was_deleted(storing: Storing, gateway: Gateway, project: str) -> None:
    base = await storing.store(project, "base", 2, day(1))
    blob_id = (await gateway.image(base)).blob_id
    await deleted(storing, base, day(3))
    assert await storing.lines(project) == [("base", 2, day(1), None)]
    told = {"event": "ledger.repaired", "log_level": "info", "project": project, "blob": blob_id}
    assert await mended(gateway) == [{**told, "closed": base, "opened": None}]
    assert await storing.lines(project) == [("base", 2, day(1), day(3))]
    # There is nothing left to do.
    assert await mended(gateway) == []


async def test_a_line_does_not_end_before_it_begins_where_clocks_differ(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    await deleted(storing, await storing.store(project, "base", 2, day(3)), day(2))
    await mended(gateway)
    assert await storing.lines(project) == [("base", 2, day(3), day(3))]


async def test_the_oldest_copy_takes_over_the_line_of_a_deleted_image_at_its_deletion(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    base = await storing.store(project, "base", 2, day(1))
    # In the order of their ids they stand the other way round.
    await storing.copy(base, project, "younger", day(2), created_at=day(2) + timedelta(hours=1))
    elder = await storing.copy(base, project, "elder", day(2), created_at=day(2))
    await deleted(storing, base, day(3))
    # That an heir has a new name since then changes nothing of what it has had.
    await gateway.change(Image, elder, updated_at=day(9))
    (told,) = await mended(gateway)
    assert (told["closed"], told["opened"]) == (base, elder)
    assert await storing.lines(project) == [("base", 2, day(1), day(3)), ("elder", 2, day(3), None)]


async def test_a_copy_that_was_made_after_the_deletion_pays_from_then_on(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    base = await storing.store(project, "base", 2, day(1))
    kept = await storing.copy(base, await gateway.project(), "kept", day(2))
    await deleted(storing, base, day(3))
    await storing.copy(kept, project, "late", day(5), created_at=day(5))
    await mended(gateway)
    assert await storing.lines(project) == [("base", 2, day(1), day(3)), ("late", 2, day(5), None)]


async def test_the_line_passes_on_to_no_other_project(storing: Storing, gateway: Gateway, project: str) -> None:
    other = await gateway.project()
    base = await storing.store(project, "base", 2, day(1))
    await storing.copy(base, other, "copy", day(2))
    await deleted(storing, base, day(3))
    await mended(gateway)
    assert await storing.lines(project) == [("base", 2, day(1), day(3))]
    assert await storing.lines(other) == [("copy", 2, day(2), None)]


async def test_an_image_without_a_line_gets_one_from_when_it_changed_last(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    base = await stored(storing, project, "base", 2, day(4))
    assert await storing.lines(project) == []
    blob_id = (await gateway.image(base)).blob_id
    told = {"event": "ledger.repaired", "log_level": "info", "project": project, "blob": blob_id}
    assert await mended(gateway) == [{**told, "closed": None, "opened": base}]
    assert await storing.lines(project) == [("base", 2, day(4), None)]
    assert await mended(gateway) == []


async def test_images_of_the_same_bytes_get_one_line_and_each_project_one_of_its_own(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    other = await gateway.project()
    base = await stored(storing, project, "base", 2, day(1))
    await copied(storing, base, project, "twin", day(2))
    await copied(storing, base, other, "stock", day(1), type=ImageType.STOCK)
    await copied(storing, base, other, "snapshot", day(3), type=ImageType.SNAPSHOT)
    await mended(gateway)
    assert await storing.lines(project) == [("base", 2, day(1), None)]
    assert await storing.lines(other) == [("snapshot", 2, day(3), None)]


async def test_a_line_that_was_missing_begins_where_an_earlier_one_ends(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    base = await storing.store(project, "base", 2, day(1))
    kept = await storing.copy(base, await gateway.project(), "kept", day(1))
    # What another project has paid for the same bytes counts for that one alone.
    elsewhere = await storing.copy(base, await gateway.project(), "elsewhere", day(1))
    await storing.delete(base, day(5))
    await storing.delete(elsewhere, day(8))
    await copied(storing, kept, project, "again", day(4))
    await mended(gateway)
    assert await storing.lines(project) == [("base", 2, day(1), day(5)), ("again", 2, day(5), None)]


async def test_what_nothing_was_told_of_for_days_is_not_looked_at(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    old = await stored(storing, project, "old", 2, day(3))
    async with gateway.database.transaction() as tx:
        await tx.session.execute(update(Event).values(occurred_at=now() - timedelta(days=3)))
    base = await stored(storing, project, "base", 2, day(4))
    assert [told["opened"] for told in await mended(gateway)] == [base]
    await gateway.mutate("updateImage", {"imageId": old, "name": "other"})
    assert [told["opened"] for told in await mended(gateway)] == [old]


async def test_it_is_done_by_the_clock(storing: Storing, gateway: Gateway, project: str) -> None:
    await stored(storing, project, "base", 2, day(4))
    async with gateway.working():
        assert await until(lambda: storing.lines(project)) == [("base", 2, day(4), None)]
