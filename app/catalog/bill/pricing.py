"""What storage costs, exactly: no database, no clock, no binary fractions.

A GiB that is kept for a whole calendar month (UTC) costs the rate of the month; kept for a part of it, that part of
the month's length. A rate holds from 00:00 UTC of its day until that of the next one; before the first, storage is
free. Bytes and microseconds are added up as whole numbers. A day is no finite decimal of most months, so that prices
are kept as fractions, and what is shown is rounded once, in the very end.
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
    """So many bytes were stored from one instant to another, or, without the latter, still are."""

    stored_size: int
    since: datetime
    until: datetime | None


class Segment(NamedTuple):
    """From this instant on, until the next segment begins, a byte costs so much a microsecond."""

    since: datetime
    price: Fraction


@dataclass(frozen=True, slots=True)
class Amount:
    """How much was stored for how long, in bytes times microseconds, and what it costs; both exact."""

    byte_microseconds: int = 0
    exact_cost: Fraction = Fraction(0)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(self.byte_microseconds + other.byte_microseconds, self.exact_cost + other.exact_cost)

    @property
    def gib_hours(self) -> Decimal:
        """In GiB times hours, rounded half even to six places."""
        return rounded(Fraction(self.byte_microseconds, _GIB_HOUR))

    @property
    def cost(self) -> Decimal:
        """In the currency of the rates, rounded half even to six places."""
        return rounded(self.exact_cost)


class Tariff:
    """Prices over the time from `since` to `until`; what was stored before or after does not count."""

    def __init__(self, rates: Sequence[ArchiveRate], since: datetime, until: datetime) -> None:
        self.since, self.until = since, until
        segments = price_segments(rates, since, until)
        self._starts = [segment.since for segment in segments]
        # As whole numbers over one denominator: a project may have a million lines, and fractions are slow.
        self._denominator = lcm(*(segment.price.denominator for segment in segments))
        self._prices = [int(segment.price * self._denominator) for segment in segments]
        # What a byte has cost up to the beginning of each segment: with it, a line of ten years costs two look-ups.
        self._paid = [0]
        for at in range(1, len(segments)):
            length = (self._starts[at] - self._starts[at - 1]) // _MICROSECOND
            self._paid.append(self._paid[-1] + self._prices[at - 1] * length)

    def amount(self, lines: Iterable[tuple[int, datetime, datetime | None]]) -> Amount:
        """What these lines come to, each a `Line` or like one."""
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
    """The prices that hold from `since` to `until`, in order: a new one with each month and each rate.

    None of a time that has not begun: nothing is stored in it, and of the last years of the calendar no month can be
    told in which they end.
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
    """What a GiB costs for a month, at the rate that holds at an instant."""
    begun = [rate for rate in rates if _midnight(rate.since) <= at]
    return max(begun).per_gib_month if begun else Decimal(0)


def rounded(exact: Fraction) -> Decimal:
    """An amount to six places, rounded half even."""
    # Written out: arithmetic of decimals would round to the digits of whatever context it finds.
    return Decimal(f"{round(exact * 10**_PLACES)}E-{_PLACES}")


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def _month(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next_month(at: datetime) -> datetime:
    return _month(_month(at) + timedelta(days=31))


def _month_length(at: datetime) -> int:
    """In microseconds."""
    return (_next_month(at) - _month(at)) // _MICROSECOND
