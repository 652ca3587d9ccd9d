"""Exact storage prices: no database, no clock, no floating-point numbers.

A GiB stored for a whole calendar month (UTC) costs the rate of that month; stored for a part of the month, it costs
the proportional part. A rate applies from 00:00 UTC of its day until the next rate starts; before the first rate,
storage is free. Bytes and microseconds are added up as integers. In most months, a day is not a finite decimal fraction
of the month, so prices are exact fractions, and amounts are rounded once, at the end.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from math import lcm
from typing import NamedTuple

from app.settings import ArchiveRate
from app.sizes import GIB

_PLACES = 6
_MICROSECOND = timedelta(microseconds=1)
_GIB_HOUR = GIB * (timedelta(hours=1) // _MICROSECOND)


class Line(NamedTuple):
    """An entry of the ledger: `stored_size` bytes, stored from `since` until `until`; None means until now."""

    stored_size: int
    since: datetime
    until: datetime | None


class Segment(NamedTuple):
    """The price of a byte per microsecond, from `since` until the next segment begins."""

    since: datetime
    price: Fraction


@dataclass(frozen=True, slots=True)
class Amount:
    """A volume of storage, in bytes times microseconds, and its cost. Both are exact."""

    byte_microseconds: int = 0
    exact_cost: Fraction = Fraction(0)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.byte_microseconds + other.byte_microseconds, self.exact_cost + other.exact_cost)

    @property
    def gib_hours(self) -> Decimal:
        """The volume in GiB times hours, rounded half even to six places."""
        return rounded(Fraction(self.byte_microseconds, _GIB_HOUR))

    @property
    def cost(self) -> Decimal:
        """The cost in the currency of the rates, rounded half even to six places."""
        return rounded(self.exact_cost)


class Tariff:
    """Prices from `since` to `until`. Storage before and after does not count."""

    def __init__(self, rates: Sequence[ArchiveRate], since: datetime, until: datetime) -> None:
        self.since, self.until = since, until
        segments = price_segments(rates, since, until)
        self._starts = [segment.since for segment in segments]
        # Integers over one denominator: a project may have a million entries, and fractions are slow.
        self._denominator = lcm(*(segment.price.denominator for segment in segments))
        self._prices = [int(segment.price * self._denominator) for segment in segments]
        # The cost of a byte up to the beginning of each segment, so that an entry of ten years takes two lookups.
        self._paid = [0]
        for at in range(1, len(segments)):
            length = (self._starts[at] - self._starts[at - 1]) // _MICROSECOND
            self._paid.append(self._paid[-1] + self._prices[at - 1] * length)

    def amount(self, lines: Iterable[tuple[int, datetime, datetime | None]]) -> Amount:
        """The total of entries, each a `Line` or a tuple like it."""
        volume = cost = 0
        for stored_size, since, until in lines:
            begin, end = max(since, self.since), self.until if until is None else min(until, self.until)
            if begin < end:
                volume += stored_size * ((end - begin) // _MICROSECOND)
                cost += stored_size * (self._paid_until(end) - self._paid_until(begin))
        return Amount(volume, Fraction(cost, self._denominator))

    def _paid_until(self, at: datetime) -> int:
        place = bisect_right(self._starts, at) - 1
        return self._paid[place] + self._prices[place] * ((at - self._starts[place]) // _MICROSECOND)


def price_segments(rates: Sequence[ArchiveRate], since: datetime, until: datetime) -> list[Segment]:
    """The prices from `since` to `until`, in order: a new segment begins with each month and each rate.

    Empty if the interval is: this also covers intervals that have not begun yet, since the end of the last month in
    the calendar can't be computed.
    """
    if since >= until:
        return []
    starts = {since, *(at for rate in rates if since < (at := _midnight(rate.since)) < until)}
    month = _next_month(since)
    while month < until:
        starts.add(month)
        month = _next_month(month)
    return [Segment(at, Fraction(rate_at(rates, at)) / (GIB * _month_length(at))) for at in sorted(starts)]


def rate_at(rates: Sequence[ArchiveRate], at: datetime) -> Decimal:
    """The cost of a GiB for a month at the rate that applies at `at`; 0 before the first rate."""
    begun = [rate for rate in rates if _midnight(rate.since) <= at]
    return max(begun).per_gib_month if begun else Decimal(0)


def rounded(exact: Fraction) -> Decimal:
    """Round an amount half even to six places."""
    # Built from text: decimal arithmetic would round to the precision of the current context.
    return Decimal(f"{round(exact * 10**_PLACES)}E-{_PLACES}")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _month(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next_month(at: datetime) -> datetime:
    return _month(_month(at) + timedelta(days=31))


def _month_length(at: datetime) -> int:
    """The length of the month of `at`, in microseconds."""
    return (_next_month(at) - _month(at)) // _MICROSECOND
