"""The ledger: one line for the bytes that a project stores, from when it has them until it lets them go."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlmodel import select

from app.catalog import conversions, deletion
from app.catalog.bill import ledger
from app.errors import LeaseLost, ProtectedImage
from app.lifecycle import ImageType
from app.models import Blob, Image, StorageEntry
from tests.support.gateway import Gateway, outcome
from tests.support.storing import ADA, Storing

pytestmark = pytest.mark.anyio


def day(number: int) -> datetime:
    return datetime(2026, 4, number, tzinfo=UTC)


async def test_an_image_is_billed_from_when_it_is_active_until_it_is_deleted(storing: Storing, project: str) -> None:
    image = await storing.store(project, "base", 2, day(1))
    assert await storing.lines(project) == [("base", 2, day(1), None)]
    await storing.delete(image, day(3))
    assert await storing.lines(project) == [("base", 2, day(1), day(3))]


async def test_an_image_without_bytes_in_the_store_is_not_billed(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    waiting = await gateway.uploaded(projectId=project)
    failed = await gateway.failed(projectId=project)
    for image in (waiting, failed):
        await storing.delete(image["id"], day(1))
    assert await storing.lines(project) == []


async def test_a_worker_that_lost_its_lease_bills_nothing(gateway: Gateway, project: str) -> None:
    made = await gateway.uploaded(projectId=project)
    claim, assignment = await gateway.begun(made["id"])
    await deletion.delete_image(gateway.catalogue, ADA, made["id"], None)
    with pytest.raises(LeaseLost):
        await conversions.succeed(gateway.catalogue, claim, assignment, outcome())
    async with gateway.database.read() as session:
        assert (await session.execute(select(StorageEntry).where(StorageEntry.project_id == project))).all() == []


async def test_a_deletion_that_is_refused_leaves_the_line_open(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    image = await storing.store(project, "base", 2, day(1))
    await gateway.change(Image, image, protected=True)
    with pytest.raises(ProtectedImage):
        await storing.delete(image, day(2))
    assert await storing.lines(project) == [("base", 2, day(1), None)]


async def test_an_image_that_grows_has_a_line_for_each_size(storing: Storing, project: str) -> None:
    image = await storing.store(project, "base", 2, day(1))
    await storing.grow(image, 2, day(2))
    assert await storing.lines(project) == [("base", 2, day(1), None)]
    await storing.grow(image, 5, day(3))
    assert await storing.lines(project) == [("base", 2, day(1), day(3)), ("base", 5, day(3), None)]


async def test_bytes_that_images_of_a_project_share_are_billed_once(storing: Storing, project: str) -> None:
    image = await storing.store(project, "base", 2, day(1))
    twin = await storing.copy(image, project, "twin", day(2))
    assert await storing.lines(project) == [("base", 2, day(1), None)]
    # Through whichever image it is found that they have grown: who pays goes on to pay.
    await storing.grow(twin, 3, day(3))
    assert await storing.lines(project) == [("base", 2, day(1), day(3)), ("base", 3, day(3), None)]


async def test_a_copy_that_goes_before_its_origin_changes_nothing(storing: Storing, project: str) -> None:
    image = await storing.store(project, "base", 2, day(1))
    await storing.delete(await storing.copy(image, project, "twin", day(2)), day(3))
    assert await storing.lines(project) == [("base", 2, day(1), None)]


async def test_the_line_of_a_deleted_image_passes_on_to_the_oldest_copy_without_a_gap(
    storing: Storing, project: str
) -> None:
    image = await storing.store(project, "base", 2, day(1))
    # In the order of their ids they stand the other way round.
    younger = await storing.copy(image, project, "younger", day(2), created_at=day(2) + timedelta(hours=1))
    elder = await storing.copy(image, project, "elder", day(2), created_at=day(2))
    await storing.delete(image, day(3))
    await storing.delete(elder, day(4))
    await storing.delete(younger, day(5))
    assert await storing.lines(project) == [
        ("base", 2, day(1), day(3)),
        ("elder", 2, day(3), day(4)),
        ("younger", 2, day(4), day(5)),
    ]


async def test_the_line_passes_on_to_nobody_who_is_deleted_or_of_the_stock(storing: Storing, project: str) -> None:
    image = await storing.store(project, "base", 2, day(1))
    await storing.copy(image, project, "tombstone", day(2), deleted_at=day(2), created_at=day(1))
    await storing.copy(image, project, "stock", day(2), type=ImageType.STOCK, created_at=day(1))
    await storing.delete(image, day(3))
    assert await storing.lines(project) == [("base", 2, day(1), day(3))]


async def test_what_is_offered_to_everybody_is_not_billed_and_a_snapshot_is(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    other = await gateway.project()
    image = await storing.store(other, "base", 2, day(1))
    await storing.copy(image, project, "stock", day(2), type=ImageType.STOCK)
    await storing.copy(image, project, "snapshot", day(3), type=ImageType.SNAPSHOT)
    assert await storing.lines(project) == [("snapshot", 2, day(3), None)]


async def test_projects_that_share_bytes_pay_each_for_themselves(
    storing: Storing, gateway: Gateway, project: str
) -> None:
    other = await gateway.project()
    image = await storing.store(project, "base", 2, day(1))
    copy = await storing.copy(image, other, "copy", day(2))
    await storing.delete(image, day(3))
    assert await storing.lines(project) == [("base", 2, day(1), day(3))]
    assert await storing.lines(other) == [("copy", 2, day(2), None)]
    await storing.delete(copy, day(4))
    assert await storing.lines(other) == [("copy", 2, day(2), day(4))]


async def test_an_image_that_gets_other_bytes_pays_for_them_from_the_same_instant(
    storing: Storing, gateway: Gateway, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_id = await storing.store(project, "base", 2, day(1))
    ticks = iter(day(2) + timedelta(microseconds=step) for step in range(100))
    monkeypatch.setattr(ledger, "now", lambda: next(ticks))
    async with gateway.database.transaction() as tx:
        image = await tx.session.get_one(Image, image_id)
        old, blob = image.blob_id, Blob(key=f"blobs/{image_id}", virtual_size=1, stored_size=1, file_size=1)
        assert old is not None
        tx.session.add(blob)
        await tx.session.flush()
        image.blob_id = blob.id
        await ledger.released(tx, image, old)
        await ledger.stored(tx, image)
    assert await storing.lines(project) == [("base", 2, day(1), day(2)), ("base", 2, day(2), None)]


async def test_a_line_does_not_end_before_it_begins_where_clocks_differ(storing: Storing, project: str) -> None:
    image = await storing.store(project, "base", 2, day(2))
    await storing.copy(image, project, "twin", day(2))
    await storing.delete(image, day(1))
    assert await storing.lines(project) == [("base", 2, day(2), day(2)), ("twin", 2, day(2), None)]
