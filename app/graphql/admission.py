"""Limits per caller and process: anonymous requests per minute, and operations and connections open at a time.

A caller is the subject of a token. Without a token it is the client's address; for IPv6 its /64 network, which is what
a provider assigns to one customer (RFC 6177).
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from app.client_network import network_of
from app.graphql.masking import CodedError
from app.graphql.turns import Turns
from app.sizes import counted
from app.viewer import Viewer

RATE_LIMITED = "RATE_LIMITED"
_TOO_MANY_SUBSCRIPTIONS = "TOO_MANY_SUBSCRIPTIONS"
# A running operation keeps its variables and its document, which takes about 30 times its length when parsed.
_OPEN_CHARACTERS = 4 * 1024 * 1024
# Operations of one caller that start or run at a time. Everything runs on one event loop: without this limit, a caller
# with a thousand operations would get a thousand times the time of a caller with one.
_RUNNING_AT_ONCE = 8
# WebSockets of one address that are authenticated at a time: a flood of them would hold up other callers at each step.
# No client can prolong what is counted here.
_GREETINGS_AT_ONCE = 4
# An address that was dropped starts with a full bucket. To exploit that, a client needs 10,000 addresses a minute.
_REMEMBERED_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits per caller and process.

    `subscriptions` counts operations on streams and sockets; `sockets` counts streams, too. `body_seconds` is how long
    the body of a request may take to arrive.
    """

    anonymous_requests_per_minute: int = 60
    subscriptions: int = 1_000
    sockets: int = 100
    body_seconds: float = 30.0


class AnonymousRequests:
    """A token bucket per client address: its capacity is the requests of one minute, and it refills evenly."""

    def __init__(
        self,
        per_minute: int,
        *,
        addresses: int = _REMEMBERED_ADDRESSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_minute = per_minute
        self._addresses = addresses
        self._clock = clock
        # Requests left and when they were counted, in order of last use.
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def admit(self, connection: HTTPConnection) -> None:
        """Count one request. Raises CodedError (RATE_LIMITED) with `retryAfter`, in whole seconds."""
        address, now = client_address(connection), self._clock()
        left, counted_at = self._buckets.pop(address, (float(self._per_minute), now))
        left = min(self._per_minute, left + (now - counted_at) * self._per_minute / 60)
        admitted = left >= 1
        self._buckets[address] = (left - 1 if admitted else left, now)
        if len(self._buckets) > self._addresses:
            self._buckets.popitem(last=False)
        if not admitted:
            raise self._refusal(math.ceil((1 - left) * 60 / self._per_minute))

    def _refusal(self, seconds: int) -> CodedError:
        return CodedError(
            f"Too many requests without a token from this address; the limit is {self._per_minute:,} per minute.",
            RATE_LIMITED,
            limit=self._per_minute,
            retryAfter=seconds,
            hint=f"Send a token, or try again in {counted(seconds, 'second')}.",
        )


class OpenSlots:
    """Counts the open operations or connections of each caller, up to `limit`."""

    def __init__(self, limit: int, code: str, things: tuple[str, str], hint: str) -> None:
        """`things` is the noun in the error message, singular and plural; `code` and `hint` are those of the error."""
        self._limit = limit
        self._code = code
        self._things = things
        self._hint = hint
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """The number of slots taken now, over all callers."""
        return self._open.total()

    @contextmanager
    def taken(self, caller: str, count: int = 1) -> Iterator[None]:
        """Take `count` of the caller's slots for the block. Raises CodedError if fewer are left."""
        if self._open.get(caller, 0) + count > self._limit:
            raise CodedError(
                f"A caller may have at most {self._limit:,} {self._things[self._limit != 1]} open on one server.",
                self._code,
                limit=self._limit,
                hint=self._hint,
            )
        self._open[caller] += count
        try:
            yield
        finally:
            self._open[caller] -= count
            if not self._open[caller]:
                del self._open[caller]


class Admission:
    """All limits per caller of one process."""

    def __init__(self, limits: CallerLimits) -> None:
        self.body_seconds = limits.body_seconds
        self.anonymous = AnonymousRequests(limits.anonymous_requests_per_minute)
        self.turns = Turns(_RUNNING_AT_ONCE)
        self.greetings = Turns(_GREETINGS_AT_ONCE)
        self.subscriptions = OpenSlots(
            limits.subscriptions,
            _TOO_MANY_SUBSCRIPTIONS,
            ("subscription", "subscriptions"),
            "Close subscriptions that you no longer need.",
        )
        self.characters = OpenSlots(
            _OPEN_CHARACTERS,
            _TOO_MANY_SUBSCRIPTIONS,
            ("character of subscription text", "characters of subscription text"),
            "Close subscriptions that you no longer need, or use shorter documents and variables.",
        )
        self.sockets = OpenSlots(
            limits.sockets,
            "TOO_MANY_CONNECTIONS",
            ("connection", "connections"),
            "Close connections that you no longer need.",
        )

    @contextmanager
    def subscription(self, caller: str, characters: int) -> Iterator[None]:
        """Count an operation that may run long, and its characters. Raises CodedError above the caller's limits."""
        with self.subscriptions.taken(caller), self.characters.taken(caller, characters):
            yield

    @contextmanager
    def stream(self, caller: str, characters: int) -> Iterator[None]:
        """Count a stream, as a connection and a subscription. Raises CodedError above the caller's limits."""
        with self.sockets.taken(caller), self.subscription(caller, characters):
            yield


def caller_key(caller: Viewer, connection: HTTPConnection) -> str:
    """The key under which the operations and connections of a caller are counted."""
    # The key of an address starts with a control character, so it never equals a subject.
    return f"\0{client_address(connection)}" if caller.anonymous else caller.subject


def client_address(connection: HTTPConnection) -> str:
    """The address or network under which a client is counted; clients without an address count as one."""
    return network_of(connection.client)
