"""The bill in the API: what was stored, by image and in total, and what an image costs per month."""

import tempfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.models import StorageEntry
from app.sizes import GIB
from tests.app.conftest import NewDatabase
from tests.support.gateway import ADMIN, READER, STRANGER, Gateway, running_gateway
from tests.support.sharing import done, share

pytestmark = pytest.mark.anyio

USAGE = """query ($id: ID!, $from: DateTime!, $to: DateTime!, $first: Int! = 10, $after: String) { project(id: $id) {
  usage(from: $from, to: $to) { from to gibHours cost { amount currency }
    byImage(first: $first, after: $after) { totalCount pageInfo { hasNextPage endCursor }
      nodes { imageName image { id } gibHours cost { amount currency } } } } } }"""
COST = "query ($id: ID!) { image(by: {id: $id}) { monthlyCost { amount currency } } }"
JUNE, JULY = datetime(2026, 6, 1, tzinfo=UTC), datetime(2026, 7, 1, tzinfo=UTC)
RATES = "2020-01-01=0.36"


@pytest.fixture(scope="module")
async def gateway(new_database: NewDatabase, module_folder: Path) -> AsyncIterator[Gateway]:
    data = Path(tempfile.mkdtemp(dir=module_folder)) / "data"
    prices = {"archive_rates": RATES, "archive_currency": "CHF"}
    async with running_gateway(data, **new_database(data), **prices) as running:
        yield running


async def kept(gateway: Gateway, image: dict[str, Any], gib: int, since: datetime, until: datetime | None) -> None:
    """Add a ledger entry: an image stored this many bytes in this interval."""
    async with gateway.database.transaction() as tx:
        line = update(StorageEntry).where(col(StorageEntry.image_id) == image["id"])
        await tx.session.execute(line.values(stored_size=gib * GIB, since=since, until=until))


async def usage(gateway: Gateway, project: str, subject: str = ADMIN, **given: Any) -> Any:
    given = {"from": JUNE.isoformat(), "to": JULY.isoformat()} | given
    return (await gateway.ask(USAGE, subject, id=project, **given))["project"]["usage"]


async def test_a_month_is_billed_by_image_and_in_total_including_deleted_images(gateway: Gateway) -> None:
    project = await gateway.project()
    kept_on = await gateway.active(projectId=project, name="kept on")
    deleted = await gateway.active(projectId=project, name="deleted")
    await done(gateway, "deleteImage", imageId=deleted["id"])
    await kept(gateway, kept_on, 10, datetime(2026, 1, 1, tzinfo=UTC), None)
    # June has 30 days: 5 GiB for 6 of them.
    await kept(gateway, deleted, 5, datetime(2026, 6, 10, tzinfo=UTC), datetime(2026, 6, 16, tzinfo=UTC))
    bill = await usage(gateway, project)
    assert (bill["from"], bill["to"]) == ("2026-06-01T00:00:00Z", "2026-07-01T00:00:00Z")
    assert bill["gibHours"] == 10 * 30 * 24 + 5 * 6 * 24
    assert bill["cost"] == {"amount": "3.960000", "currency": "CHF"}  # 10 * 0.36 + 5 * 0.36 * 6 / 30
    assert bill["byImage"]["totalCount"] == 2
    assert bill["byImage"]["nodes"] == [
        {"imageName": "kept on", "image": {"id": kept_on["id"]}, "gibHours": 7200.0,
         "cost": {"amount": "3.600000", "currency": "CHF"}},
        {"imageName": "deleted", "image": None, "gibHours": 720.0,
         "cost": {"amount": "0.360000", "currency": "CHF"}},
    ]  # fmt: skip


async def test_the_lines_of_a_bill_are_paged(gateway: Gateway) -> None:
    project = await gateway.project()
    names = ["a", "b", "c"]
    for name in names:
        await kept(gateway, await gateway.active(projectId=project, name=name), 1, JUNE, None)
    first = (await usage(gateway, project, first=2))["byImage"]
    rest = (await usage(gateway, project, first=2, after=first["pageInfo"]["endCursor"]))["byImage"]
    assert [node["imageName"] for node in first["nodes"] + rest["nodes"]] == names
    assert (first["pageInfo"]["hasNextPage"], rest["pageInfo"]["hasNextPage"]) == (True, False)


@pytest.mark.parametrize(
    ("given", "field"),
    [({"to": JUNE.isoformat()}, "to"), ({"from": "2010-01-01T00:00:00Z"}, "from")],
)
async def test_an_interval_that_can_not_be_billed_is_refused(
    gateway: Gateway, given: dict[str, str], field: str
) -> None:
    given = {"from": JUNE.isoformat(), "to": JULY.isoformat()} | given
    refused = await gateway.refused(USAGE, id=gateway.alpha, **given)
    assert (refused["code"], refused["field"]) == ("INVALID", [field])


@pytest.mark.parametrize(
    ("begin", "end"),
    [("9999-12-01T00:00:00Z", "9999-12-31T23:59:59Z"), ("0001-01-01T00:00:00Z", "0002-01-01T00:00:00Z")],
)
async def test_at_the_ends_of_the_calendar_nothing_is_stored(gateway: Gateway, begin: str, end: str) -> None:
    project = await gateway.project()
    await gateway.active(projectId=project)
    bill = await usage(gateway, project, **{"from": begin, "to": end})
    assert (bill["gibHours"], bill["cost"]["amount"], bill["byImage"]["nodes"]) == (0, "0.000000", [])


async def test_a_reader_sees_the_bill_and_callers_from_outside_do_not(gateway: Gateway) -> None:
    assert await usage(gateway, gateway.alpha, READER) is not None
    given = {"from": JUNE.isoformat(), "to": JULY.isoformat()}
    assert (await gateway.refused(USAGE, STRANGER, id=gateway.alpha, **given))["code"] == "NOT_FOUND"


async def test_sharing_costs_the_owner_alone_and_a_copy_elsewhere_is_paid_for_there(gateway: Gateway) -> None:
    project, other = await gateway.project(), await gateway.project()
    origin = await gateway.active(projectId=project)
    await share(gateway, origin, other)
    given = {"projectId": other, "name": "pinned", "source": {"image": {"imageId": origin["id"]}}}
    now = datetime.now(UTC)
    year = {"from": (now - timedelta(days=1)).isoformat(), "to": (now + timedelta(days=1)).isoformat()}
    assert (await usage(gateway, other, **year))["byImage"]["nodes"] == []
    await done(gateway, "createImage", give="image { id }", **given)
    assert [node["imageName"] for node in (await usage(gateway, other, **year))["byImage"]["nodes"]] == ["pinned"]
    assert [node["imageName"] for node in (await usage(gateway, project, **year))["byImage"]["nodes"]] == ["disk"]


async def test_a_month_of_an_image_costs_nothing_where_another_of_its_project_pays(gateway: Gateway) -> None:
    project, other = await gateway.project(), await gateway.project()
    origin, waiting = await gateway.active(projectId=project), await gateway.create(projectId=project)
    given = {"name": "pinned", "source": {"image": {"imageId": origin["id"]}}}
    await share(gateway, origin, other)
    here = await done(gateway, "createImage", give="image { id }", projectId=project, **given)
    there = await done(gateway, "createImage", give="image { id }", projectId=other, **given)
    costs = [(await gateway.ask(COST, id=image["id"]))["image"]["monthlyCost"] for image in (origin, here, there)]
    price = {"amount": "0.000352", "currency": "CHF"}  # 0.36 * 1 MiB / 1024, rounded half even
    assert costs == [price, price | {"amount": "0.000000"}, price]
    assert (await gateway.ask(COST, id=waiting["id"]))["image"]["monthlyCost"] is None
    await done(gateway, "deleteImage", imageId=origin["id"])
    assert (await gateway.ask(COST, id=here["id"]))["image"]["monthlyCost"] == price


async def test_through_a_share_one_sees_no_cost(gateway: Gateway) -> None:
    image = await gateway.active()
    made = await share(gateway, image, gateway.beta, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    assert (await gateway.ask(COST, STRANGER, id=image["id"]))["image"]["monthlyCost"] is None
