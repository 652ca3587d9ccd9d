"""What storage costs: exact in every month, whatever the rates, and however the time is cut."""

import calendar
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.catalog.bill.pricing import Amount, Line, Tariff, price_segments, rate_at, rounded
from app.settings import ArchiveRate
from app.sizes import GIB

FIRST, LAST = date(2023, 1, 1), date(2028, 12, 31)
DAYS = st.dates(FIRST, LAST)
PRICES = st.decimals(0, 100, places=12)
RATES = st.lists(st.builds(ArchiveRate, DAYS, PRICES), max_size=5, unique_by=lambda rate: rate.since)
INSTANTS = st.datetimes(
    datetime.combine(FIRST, time()), datetime.combine(LAST, time()), timezones=st.just(UTC)
) | DAYS.map(lambda day: midnight(day))
SIZES = st.integers(0, 16 * 1024 * GIB)


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


@st.composite
def lines(draw: st.DrawFn) -> Line:
    begin, end = sorted(draw(st.tuples(INSTANTS, INSTANTS)))
    return Line(draw(SIZES), begin, draw(st.none() | st.just(end)))


# ------------------------------------------------------------ whatever there is


@given(RATES, st.lists(lines(), max_size=5), st.tuples(INSTANTS, INSTANTS, INSTANTS).map(sorted))
def test_to_split_an_interval_changes_no_sum(
    rates: list[ArchiveRate], stored: list[Line], instants: list[datetime]
) -> None:
    since, middle, until = instants
    parts = Tariff(rates, since, middle).amount(stored) + Tariff(rates, middle, until).amount(stored)
    assert parts == Tariff(rates, since, until).amount(stored)


@given(RATES, SIZES, st.tuples(INSTANTS, INSTANTS, INSTANTS).map(sorted))
def test_to_pass_bytes_on_changes_no_sum(rates: list[ArchiveRate], size: int, instants: list[datetime]) -> None:
    since, middle, until = instants
    tariff = Tariff(rates, midnight(FIRST), midnight(LAST))
    passed_on = [Line(size, since, middle), Line(size, middle, until)]
    assert tariff.amount(passed_on) == tariff.amount([Line(size, since, until)])


@given(st.data(), RATES, st.lists(lines(), max_size=6), st.tuples(INSTANTS, INSTANTS).map(sorted))
def test_neither_the_order_of_lines_nor_that_of_rates_matters(
    data: st.DataObject, rates: list[ArchiveRate], stored: list[Line], interval: list[datetime]
) -> None:
    since, until = interval
    amount = Tariff(rates, since, until).amount(stored)
    assert Tariff(data.draw(st.permutations(rates)), since, until).amount(data.draw(st.permutations(stored))) == amount
    assert sum((Tariff(rates, since, until).amount([line]) for line in stored), Amount()) == amount


@given(DAYS, PRICES, SIZES)
def test_a_whole_month_costs_exactly_the_rate(day: date, price: Decimal, size: int) -> None:
    days = calendar.monthrange(day.year, day.month)[1]
    since = midnight(day.replace(day=1))
    tariff = Tariff([ArchiveRate(since.date(), price)], since, since + timedelta(days=days))
    amount = tariff.amount([Line(size, since, None)])
    assert amount.exact_cost == Fraction(price) * size / GIB
    assert amount.byte_microseconds == size * days * 24 * 3600 * 10**6
    assert tariff.amount([Line(GIB, since, None)]).cost == price.quantize(Decimal("0.000001"))


@given(RATES, SIZES, st.tuples(DAYS, DAYS).map(sorted), st.tuples(DAYS, DAYS).map(sorted))
def test_the_sum_is_that_of_its_days(
    rates: list[ArchiveRate], size: int, interval: list[date], stored: list[date]
) -> None:
    tariff = Tariff(rates, *map(midnight, interval))
    expected = Fraction(0)
    for number in range(max(interval[0], stored[0]).toordinal(), min(interval[1], stored[1]).toordinal()):
        day = date.fromordinal(number)
        begun = sorted(rate for rate in rates if rate.since <= day)
        price = Fraction(begun[-1].per_gib_month) if begun else Fraction(0)
        expected += price * size / GIB / calendar.monthrange(day.year, day.month)[1]
    assert tariff.amount([Line(size, *map(midnight, stored))]).exact_cost == expected


# ------------------------------------------------------------ by hand

RATE = [ArchiveRate(date(2026, 1, 1), Decimal("0.31")), ArchiveRate(date(2026, 4, 16), Decimal("0.60"))]


def test_prices_change_with_the_month_and_with_the_rate() -> None:
    day = 24 * 3600 * 10**6
    found = price_segments(RATE, datetime(2025, 12, 15, 6, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC))
    assert [(segment.since, segment.price * GIB * day) for segment in found] == [
        (datetime(2025, 12, 15, 6, tzinfo=UTC), 0),
        (datetime(2026, 1, 1, tzinfo=UTC), Fraction("0.31") / 31),
        (datetime(2026, 2, 1, tzinfo=UTC), Fraction("0.31") / 28),
        (datetime(2026, 3, 1, tzinfo=UTC), Fraction("0.31") / 31),
        (datetime(2026, 4, 1, tzinfo=UTC), Fraction("0.31") / 30),
        (datetime(2026, 4, 16, tzinfo=UTC), Fraction("0.60") / 30),
    ]


def test_a_rate_holds_from_the_beginning_of_its_day_in_utc() -> None:
    begins = datetime(2026, 4, 16, tzinfo=UTC)
    assert rate_at(RATE, begins - timedelta(microseconds=1)) == Decimal("0.31")
    assert rate_at(RATE, begins) == Decimal("0.60")
    # 01:00 in a zone that is two hours ahead is 23:00 of the day before.
    assert rate_at(RATE, datetime(2026, 4, 16, 1, tzinfo=timezone(timedelta(hours=2)))) == Decimal("0.31")
    assert rate_at(RATE, datetime(2025, 12, 31, tzinfo=UTC)) == 0
    assert rate_at([], begins) == 0


def test_a_month_begins_in_utc_wherever_the_question_comes_from() -> None:
    zone = timezone(timedelta(hours=2))
    tariff = Tariff(RATE, datetime(2026, 3, 1, 2, tzinfo=zone), datetime(2026, 4, 1, 2, tzinfo=zone))
    assert tariff.amount([Line(GIB, datetime(2025, 1, 1, tzinfo=UTC), None)]).cost == Decimal("0.310000")


def test_lines_that_touch_an_interval_count_nothing() -> None:
    since, until = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)
    before = Line(GIB, since - timedelta(days=1), since)
    assert Tariff(RATE, since, until).amount([before, Line(GIB, until, None), Line(GIB, since, since)]) == Amount()


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        (Fraction(0), "0.000000"), (Fraction(5, 10**7), "0.000000"), (Fraction(15, 10**7), "0.000002"),
        (Fraction(25, 10**7), "0.000002"), (Fraction(5_000_001, 10**13), "0.000001"), (Fraction(1, 3), "0.333333"),
        (10**30 + Fraction(2, 3), f"{10**30}.666667"),
    ],
)  # fmt: skip
def test_amounts_have_six_places_and_are_rounded_half_even(exact: Fraction, shown: str) -> None:
    assert str(rounded(exact)) == shown
