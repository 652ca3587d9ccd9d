"""The bill: two months that were worked out by hand, and what else it has to hold to."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.catalog.bill import billing
from app.catalog.bill.billing import ImageUsage
from app.catalog.pages import Page, Place, Window
from app.errors import InvalidInput
from app.lifecycle import ShareGrant, ShareState
from app.models import Image, ImageShare, StorageEntry
from app.settings import ArchiveRate, Settings
from app.sizes import GIB
from tests.support.gateway import ADMIN, Gateway
from tests.support.storing import Storing

pytestmark = pytest.mark.anyio

SETTINGS = Settings(
    archive_rates=(
        ArchiveRate(date(2026, 1, 1), Decimal("0.31")),
        # In the middle of a month of 30 days: 15 of them are before it.
        ArchiveRate(date(2026, 4, 16), Decimal("0.60")),
    ),
    archive_currency="CHF",
)
ALL = Window(100)


def march(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 3, day, hour, tzinfo=UTC)


def april(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 4, day, hour, tzinfo=UTC)


MAY = datetime(2026, 5, 1, tzinfo=UTC)
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


async def bill(
    gateway: Gateway, project: str, since: datetime, until: datetime, at: datetime = JUNE, settings: Settings = SETTINGS
) -> dict[str, tuple[str, str]]:
    """GiB-hours and cost by name, and in all under "all", as they are shown."""
    async with gateway.database.read() as session:
        total = await billing.usage_of(session, project, since, until, settings, at=at)
        page = await billing.image_usage_page(session, project, since, until, ALL, settings, at=at)
        assert await billing.count_image_usage(session, project, since, until, at=at) == len(page.rows)
    assert {row.currency for row in page.rows} <= {total.currency}
    assert (total.since, total.until, total.at, total.project_id) == (since, until, at, project)
    return {line.image_name: shown(line) for line in page.rows} | {"all": shown(total)}


def shown(line: Any) -> tuple[str, str]:
    return str(line.gib_hours), str(line.cost)


async def enter(gateway: Gateway, project: str, *lines: tuple[int, datetime, datetime | None]) -> list[str]:
    """Lines of the ledger as rows, in bytes, each of an image of its own; gives the ids of the images."""
    ids = await gateway.stock(project, *({"name": f"disk {at}"} for at in range(len(lines))))
    await enter_of(gateway, project, *zip(ids, lines, strict=True))
    return ids


async def enter_of(gateway: Gateway, project: str, *lines: tuple[str, tuple[int, datetime, datetime | None]]) -> None:
    async with gateway.database.transaction() as tx:
        for number, (image_id, (size, since, until)) in enumerate(lines):
            blob_id = f"blb_{number}_{image_id[4:]}"
            tx.session.add(
                StorageEntry(
                    project_id=project,
                    image_id=image_id,
                    blob_id=blob_id,
                    stored_size=size,
                    since=since,
                    until=until,
                )
            )


# ------------------------------------------------------------ by hand


async def two_months(storing: Storing, alpha: str, beta: str) -> None:
    """What happens in March and April, one after the other, as users do it."""
    early = await storing.store(alpha, "early", 1, march(1))
    base = await storing.store(alpha, "base", 2, march(22))
    await storing.delete(early, april(1))
    shared = await storing.store(alpha, "shared", 1, april(1))
    async with storing.gateway.database.transaction() as tx:
        tx.session.add(
            ImageShare(
                image_id=shared,
                project_id=beta,
                grant=ShareGrant.LAUNCH,
                state=ShareState.ACCEPTED,
                shared_by=ADMIN,
            )
        )
    await storing.grow(base, 3, april(6))
    twin = await storing.copy(base, alpha, "twin", april(11))
    await storing.copy(base, beta, "copy", april(11))
    short = await storing.store(alpha, "short", 8, april(16, 18))
    await storing.delete(short, april(17, 6))
    await storing.delete(base, april(21))
    await storing.delete(twin, april(26, 12))
    await storing.store(alpha, "late", 1, MAY)


async def test_two_months_are_what_they_come_to_by_hand(storing: Storing, gateway: Gateway) -> None:
    alpha, beta = await gateway.project(), await gateway.project()
    await two_months(storing, alpha, beta)

    # March has 31 days, all of them at 0.31: a GiB costs 0.31 / 31 = 0.01 a day.
    assert await bill(gateway, alpha, march(1), april(1)) == {
        "early": ("744.000000", "0.310000"),  # 1 GiB * 31 days * 24 h; the rate of a whole month
        "base": ("480.000000", "0.200000"),  # 2 GiB * 10 days * 24 h; 20 GiB days * 0.01
        "all": ("1224.000000", "0.510000"),
    }
    # April has 30 days. Up to the 15th a GiB costs 0.31 / 30 a day, from the 16th on 0.60 / 30 = 0.02.
    assert await bill(gateway, alpha, april(1), MAY) == {
        # 2 GiB * 5 days, grown to 3 GiB * 10 days, up to the 16th; then 3 GiB * 5 days, up to its deletion:
        # (10 + 30 + 15) GiB days * 24 h; 40 * 0.31 / 30 + 15 * 0.02 = 0.41333… + 0.30
        "base": ("1320.000000", "0.713333"),
        # Nothing while the origin pays; from the 21st on 3 GiB * 5.5 days = 16.5 GiB days; * 24 h; * 0.02
        "twin": ("396.000000", "0.330000"),
        # 8 GiB * 12 h; 4 GiB days * 0.02
        "short": ("96.000000", "0.080000"),
        # 1 GiB * 30 days * 24 h; half a month at each of the rates: 0.155 + 0.30
        "shared": ("720.000000", "0.455000"),
        # 0.41333… + 0.30 + 0.33 + 0.08 + 0.455
        "all": ("2532.000000", "1.578333"),
    }
    # Of what alpha shares beta pays nothing; of its copy 3 GiB * 5 days * 0.31 / 30 + 3 GiB * 15 days * 0.02.
    assert await bill(gateway, beta, april(1), MAY) == {
        "copy": ("1440.000000", "1.055000"),
        "all": ("1440.000000", "1.055000"),
    }


async def test_a_later_change_of_the_price_leaves_the_past_as_it_was(storing: Storing, gateway: Gateway) -> None:
    alpha = await gateway.project()
    await two_months(storing, alpha, await gateway.project())
    rates = (*SETTINGS.archive_rates, ArchiveRate(MAY.date(), Decimal(1000)))
    dearer = SETTINGS.model_copy(update={"archive_rates": rates})
    for since, until in ((march(1), april(1)), (april(1), MAY)):
        before = await bill(gateway, alpha, since, until)
        assert await bill(gateway, alpha, since, until, settings=dearer) == before
    assert await bill(gateway, alpha, MAY, JUNE, settings=dearer) == {
        "late": ("744.000000", "1000.000000"),
        "shared": ("744.000000", "1000.000000"),
        "all": ("1488.000000", "2000.000000"),
    }


# ------------------------------------------------------------ what counts


async def test_what_is_still_stored_counts_until_now_and_not_beyond(gateway: Gateway) -> None:
    project = await gateway.project()
    await enter(gateway, project, (GIB, march(1), None))
    assert await bill(gateway, project, march(1), MAY, at=march(11)) == {
        "disk 0": ("240.000000", "0.100000"),  # 10 days * 24 h; 10 * 0.01
        "all": ("240.000000", "0.100000"),
    }
    assert await bill(gateway, project, march(11), april(1), at=march(11)) == {"all": ("0.000000", "0.000000")}
    assert await bill(gateway, project, april(1), MAY, at=march(11)) == {"all": ("0.000000", "0.000000")}


async def test_without_an_instant_the_clock_says_what_is_now(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    project = await gateway.project()
    await enter(gateway, project, (GIB, march(1), None), (GIB, march(12), None))
    monkeypatch.setattr(billing, "now", lambda: march(11))
    async with gateway.database.read() as session:
        total = await billing.usage_of(session, project, march(1), MAY, SETTINGS)
        page = await billing.image_usage_page(session, project, march(1), MAY, ALL, SETTINGS)
        assert await billing.count_image_usage(session, project, march(1), MAY) == 1
    assert [shown(line) for line in (total, *page.rows)] == [("240.000000", "0.100000")] * 2
    assert total.at == march(11)


async def test_lines_that_only_touch_the_interval_are_not_listed(gateway: Gateway) -> None:
    project = await gateway.project()
    lines = [
        (GIB, march(1), april(1)),
        (GIB, MAY, JUNE),
        (GIB, MAY, None),
        (GIB, april(2), april(2)),
        (GIB, march(1), april(1) + timedelta(hours=1)),
        (GIB, MAY - timedelta(hours=1), MAY + timedelta(hours=1)),
    ]
    await enter(gateway, project, *lines)
    found = await bill(gateway, project, april(1), MAY)
    # An hour is 1/720 of April: 0.31 / 720, and 0.60 / 720.
    assert found == {
        "disk 4": ("1.000000", "0.000431"),
        "disk 5": ("1.000000", "0.000833"),
        "all": ("2.000000", "0.001264"),
    }


async def test_an_image_with_several_lines_is_listed_once(gateway: Gateway) -> None:
    project = await gateway.project()
    (image,) = await gateway.stock(project, {"name": "disk"})
    await enter_of(
        gateway,
        project,
        (image, (GIB, march(1), march(2))),
        (image, (2 * GIB, march(2), march(3))),
        (image, (3 * GIB, march(5), None)),
    )
    # 1 + 2 + 3 * 27 GiB days, at 0.01 each.
    assert await bill(gateway, project, march(1), april(1)) == {
        "disk": ("2016.000000", "0.840000"),
        "all": ("2016.000000", "0.840000"),
    }


async def test_the_sum_is_rounded_once_and_not_the_sum_of_what_was_rounded(gateway: Gateway) -> None:
    project = await gateway.project()
    # 0.31 / 744 an hour for a GiB: for 1/1000 of it, some 0.0000004166.
    await enter(gateway, project, *[(GIB // 1000, march(1), march(1, 1))] * 3)
    found = await bill(gateway, project, march(1), april(1))
    assert [found[f"disk {at}"][1] for at in range(3)] == ["0.000000"] * 3
    assert found["all"][1] == "0.000001"


async def test_without_rates_storage_is_counted_and_free(gateway: Gateway) -> None:
    project = await gateway.project()
    await enter(gateway, project, (GIB, march(1), None))
    free = Settings()
    assert await bill(gateway, project, march(1), march(2), settings=free) == {
        "disk 0": ("24.000000", "0.000000"),
        "all": ("24.000000", "0.000000"),
    }


async def test_others_are_on_no_bill(gateway: Gateway) -> None:
    project, other = await gateway.project(), await gateway.project()
    await enter(gateway, other, (GIB, march(1), None))
    assert await bill(gateway, project, march(1), april(1)) == {"all": ("0.000000", "0.000000")}


async def test_a_large_project_is_added_up_line_by_line(gateway: Gateway) -> None:
    project = await gateway.project()
    await enter(gateway, project, *[(GIB, march(1), march(1) + timedelta(hours=at + 1)) for at in range(60)])
    (image,) = await gateway.stock(project, {"name": "disk"})
    hours = [(image, (GIB, march(5), march(5) + timedelta(hours=1)))] * 2_500
    await enter_of(gateway, project, *hours)
    found = await bill(gateway, project, march(1), april(1))
    assert found["disk"][0] == "2500.000000"
    assert found["all"][0] == f"{sum(range(61)) + 2_500}.000000"


# ------------------------------------------------------------ what may be asked for


@pytest.mark.parametrize(
    ("since", "until", "field"),
    [
        (april(1), april(1), "to"),
        (april(2), april(1), "to"),
        (datetime(2016, 3, 31, tzinfo=UTC), datetime(2026, 4, 2, tzinfo=UTC), "from"),
    ],
    ids=["empty", "backwards", "too long"],
)
async def test_an_interval_that_is_empty_or_too_long_is_refused(
    gateway: Gateway, since: datetime, until: datetime, field: str
) -> None:
    asked = (gateway.alpha, since, until)
    async with gateway.database.read() as session:
        for ask in (
            lambda: billing.usage_of(session, *asked, SETTINGS),
            lambda: billing.image_usage_page(session, *asked, ALL, SETTINGS),
            lambda: billing.count_image_usage(session, *asked),
        ):
            with pytest.raises(InvalidInput) as refused:
                await ask()
            assert refused.value.field == (field,)


async def test_ten_years_can_be_asked_for_even_where_clocks_end(gateway: Gateway) -> None:
    project = await gateway.project()
    await enter(gateway, project, (GIB, datetime(2025, 12, 31, tzinfo=UTC), None))
    found = await bill(gateway, project, datetime(2016, 4, 1, tzinfo=UTC), april(1), at=april(1))
    # A day before the first rate is free; then three whole months.
    assert found["all"] == ("2184.000000", "0.930000")
    last = datetime(9999, 12, 31, tzinfo=UTC)
    assert await bill(gateway, project, last - timedelta(days=3650), last) == {"all": ("0.000000", "0.000000")}
    first = datetime(1, 1, 1, tzinfo=UTC)
    assert await bill(gateway, project, first, first + timedelta(days=1)) == {"all": ("0.000000", "0.000000")}


async def test_pages_follow_each_other_in_both_directions(gateway: Gateway) -> None:
    project = await gateway.project()
    ids = sorted(await enter(gateway, project, *[(GIB, march(2), None)] * 5))
    # Each has had another size before: pages are of images, not of lines.
    await enter_of(gateway, project, *[(image_id, (1, march(1), march(2))) for image_id in ids])

    async def page(window: Window) -> Page[ImageUsage]:
        async with gateway.database.read() as session:
            return await billing.image_usage_page(session, project, march(1), april(1), window, SETTINGS, at=JUNE)

    def listed(found: Page[ImageUsage]) -> Sequence[str]:
        return [row.image_id for row in found.rows]

    first = await page(Window(2))
    assert (listed(first), first.has_next, first.has_previous) == (ids[:2], True, False)
    second = await page(Window(2, after=Place(ids[1], ids[1])))
    assert (listed(second), second.has_next, second.has_previous) == (ids[2:4], True, True)
    last = await page(Window(2, after=Place(ids[3], ids[3])))
    assert (listed(last), last.has_next) == (ids[4:], False)
    back = await page(Window(2, before=Place(ids[3], ids[3]), backward=True))
    assert (listed(back), back.has_previous) == (ids[1:3], True)
    assert listed(await page(Window(2, after=Place(ids[4], ids[4])))) == []


# ------------------------------------------------------------ of one image


def test_the_cost_of_a_month_is_that_at_the_rate_of_the_day() -> None:
    assert str(billing.monthly_cost(3 * GIB, SETTINGS, april(15, 23))) == "0.930000"
    assert str(billing.monthly_cost(3 * GIB, SETTINGS, april(16))) == "1.800000"
    assert str(billing.monthly_cost(GIB // 3, SETTINGS, april(16))) == "0.200000"
    assert str(billing.monthly_cost(GIB, SETTINGS, datetime(2025, 12, 31, tzinfo=UTC))) == "0.000000"
    assert str(billing.monthly_cost(GIB, Settings(), april(16))) == "0.000000"


async def test_of_images_that_share_bytes_one_pays_in_each_project(storing: Storing, gateway: Gateway) -> None:
    alpha, beta = await gateway.project(), await gateway.project()
    base = await storing.store(alpha, "base", 2, march(1))
    twin = await storing.copy(base, alpha, "twin", march(2))
    copy = await storing.copy(base, beta, "copy", march(2))
    gone = await storing.store(alpha, "gone", 1, march(1))
    await storing.delete(gone, march(3))
    waiting = (await gateway.create(projectId=alpha))["id"]

    async def pay(*ids: str) -> set[str]:
        async with gateway.database.read() as session:
            return await billing.paying(session, [await session.get_one(Image, id_) for id_ in ids])

    assert await pay(base, twin, copy, gone, waiting) == {base, copy}
    assert await pay(twin) == set()
    assert await pay() == set()
    await storing.delete(base, march(4))
    assert await pay(base, twin, copy) == {twin, copy}
