"""What one caller may do to this process: anonymous requests per minute, and how much they have open at a time.

A caller is the subject of a token. Without a token it is the client's address; for IPv6, its /64, since that is what
one customer of a provider gets (RFC 6177).
"""

import asyncio
import math
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from app.client_network import client_network
from app.graphql.masking import CodedError
from app.graphql.protocols import Caller, Turn

RATE_LIMITED = "RATE_LIMITED"
_TOO_MANY_SUBSCRIPTIONS = "TOO_MANY_SUBSCRIPTIONS"
# An operation that runs keeps its document, parsed to some 30 times its length, and its variables.
_OPEN_CHARACTERS = 4 * 1024 * 1024
# Operations of one caller that start or run at a time. Everything runs on one event loop: a caller's thousandth
# operation would otherwise get as many turns as another caller's only one, and a thousand times as many in all.
_RUNNING_AT_ONCE = 8
# After a start of a subscription, the next one of its caller waits three times as long as that took, so that a flood of
# them leaves others most of the loop's time; but no longer than this, where something else was slow (seconds).
_REST, _LONGEST_REST = 3, 0.25
# A forgotten address starts with a full bucket. With this many, that takes a minute of 10,000 addresses.
_REMEMBERED_ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class CallerLimits:
    """Limits per caller and process. `subscriptions` are operations on streams and sockets; streams count as sockets.

    `body_seconds` is how long the body of a request may take to arrive.
    """

    anonymous_requests_per_minute: int = 60
    subscriptions: int = 1_000
    sockets: int = 100
    body_seconds: float = 30.0


class AnonymousRequests:
    """A token bucket per client address: it holds the requests of a minute and refills evenly."""

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
        # Requests left, and when that was counted; the address that was seen last comes last.
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
        wait = "1 second" if seconds == 1 else f"{seconds} seconds"
        return CodedError(
            f"Too many requests without a token from this address; {self._per_minute} per minute are allowed.",
            RATE_LIMITED,
            limit=self._per_minute,
            retryAfter=seconds,
            hint=f"Send a token, or try again in {wait}.",
        )


class OpenSlots:
    """How much of one kind each caller has open, up to `limit`."""

    def __init__(self, limit: int, code: str, things: tuple[str, str], hint: str) -> None:
        """`things` is how the message calls one and several of them; `code` and `hint` are the error's."""
        self._limit = limit
        self._code = code
        self._things = things
        self._hint = hint
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How much is open now."""
        return self._open.total()

    @contextmanager
    def taken(self, caller: str, count: int = 1) -> Iterator[None]:
        """Some of the caller's slots, for the time of the block. Raises CodedError when too few are left."""
        if self._open.get(caller, 0) + count > self._limit:
            raise CodedError(
                f"This caller may have {self._limit:,} {self._things[self._limit != 1]} open on one server.",
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


class Turns:
    """Has the operations of each caller take turns, of which there are `at_once` at a time."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._gates: dict[str, _Gates] = {}
        self._callers: Counter[str] = Counter()

    @asynccontextmanager
    async def taken(self, caller: str) -> AsyncIterator[Turn]:
        """A turn, which ends with the block, or earlier where a subscription starts to wait."""
        gates = self._gates.setdefault(caller, _Gates(asyncio.Semaphore(self._at_once)))
        self._callers[caller] += 1
        try:
            turn = _GateTurn(gates)
            try:
                await turn.begin()
                yield turn
            finally:
                turn.end()
        finally:
            self._callers[caller] -= 1
            if not self._callers[caller]:
                del self._callers[caller], self._gates[caller]


@dataclass(frozen=True, slots=True)
class _Gates:
    """What the operations of one caller pass: all of them, and those that start a subscription."""

    running: asyncio.Semaphore
    starting: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))


class _GateTurn:
    def __init__(self, gates: _Gates) -> None:
        self._gates = gates
        self._running = False
        self._started_at: float | None = None

    async def begin(self) -> None:
        await self._gates.running.acquire()
        self._running = True

    async def start_alone(self) -> None:
        # Who waits for others to start keeps no other operation of the caller from running.
        self.end()
        await self._gates.starting.acquire()
        self._started_at = asyncio.get_running_loop().time()
        await self.begin()

    def end(self) -> None:
        if self._running:
            self._running = False
            self._gates.running.release()
        if self._started_at is not None:
            loop = asyncio.get_running_loop()
            rest = min(_REST * (loop.time() - self._started_at), _LONGEST_REST)
            self._started_at = None
            loop.call_later(rest, self._gates.starting.release)


class Admission:
    """All limits of one process on its callers."""

    def __init__(self, limits: CallerLimits) -> None:
        self.body_seconds = limits.body_seconds
        self.anonymous = AnonymousRequests(limits.anonymous_requests_per_minute)
        self.turns = Turns(_RUNNING_AT_ONCE)
        self.subscriptions = OpenSlots(
            limits.subscriptions,
            _TOO_MANY_SUBSCRIPTIONS,
            ("subscription", "subscriptions"),
            "Close subscriptions that you no longer need.",
        )
        self.characters = OpenSlots(
            _OPEN_CHARACTERS,
            _TOO_MANY_SUBSCRIPTIONS,
            ("character of subscriptions", "characters of subscriptions"),
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
        """An operation of so many characters that may run for long. Raises CodedError when the caller has too many."""
        with self.subscriptions.taken(caller), self.characters.taken(caller, characters):
            yield

    @contextmanager
    def stream(self, caller: str, characters: int) -> Iterator[None]:
        """A stream holds a connection and a subscription. Raises CodedError when the caller has too many."""
        with self.sockets.taken(caller), self.subscription(caller, characters):
            yield


def caller_key(caller: Caller, connection: HTTPConnection) -> str:
    """What the open things of a caller are counted under."""
    # No subject equals the key of an address: that one starts with a control character.
    return f"\0{client_address(connection)}" if caller.anonymous else caller.subject


def client_address(connection: HTTPConnection) -> str:
    """The address that a client is counted under; without one, the same for all."""
    return client_network(connection.client.host if connection.client else "")
