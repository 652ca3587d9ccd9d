"""All metrics of the gateway for Prometheus, and the page that shows them.

Imports no other module of the gateway, so that every layer can count where something happens. Each process has its own
counters, which start at 0 with it; Prometheus adds them up. docs/operating.md lists the metrics and what to alert on.

The page has a bounded size, and is the same for every reader. So no label contains what a client chose (names of
operations, files, images), or anything that identifies a tenant. A scrape only reads memory: the process that runs the
schedule stores the state of the database here, and the page omits it once it is old.
"""

import threading
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    REGISTRY,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.pool import QueuePool

# Otherwise every counter would have a second line with the time of its creation.
disable_created_metrics()  # type: ignore[no-untyped-call]
# Of prometheus-client's own metrics, only memory, CPU time and open files of the process are kept (Linux).
REGISTRY.unregister(GC_COLLECTOR)
REGISTRY.unregister(PLATFORM_COLLECTOR)

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_JOB_BUCKETS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)
# How long the state of the database is shown after it was read, in seconds.
_FRESH_SECONDS = 60.0

REQUESTS = Counter("images_requests", "GraphQL operations that ended.", ["operation", "type", "outcome"])
REQUEST_SECONDS = Histogram(
    "images_request_seconds", "Duration of a query or mutation.", ["operation", "type"], buckets=_REQUEST_BUCKETS
)
ERRORS = Counter("images_errors", "Errors in responses to clients.", ["where", "code"])
SUBSCRIPTIONS = Gauge("images_subscriptions_open", "Open subscriptions.")
BYTES = Counter("images_client_bytes", "Bytes of images received from and sent to clients.", ["direction", "path"])
QUOTA_REFUSALS = Counter("images_quota_refusals", "Requests and conversions that a quota refused.", ["limit"])
IMAGES_FAILED = Counter("images_failed", "Images that ended in ERROR.", ["code"])
JOB_SECONDS = Histogram("images_job_seconds", "Duration of an attempt at a job.", ["kind"], buckets=_JOB_BUCKETS)
JOB_FAILURES = Counter("images_job_failures", "Attempts at jobs that failed.", ["kind"])
CONVERSION_SECONDS = Histogram(
    "images_conversion_seconds",
    "Duration of the job that made an image ACTIVE.",
    ["way", "format", "job"],
    buckets=_JOB_BUCKETS,
)
# Series for alerts and for rare events exist from the start, since Prometheus sees no increase in a new series.
for _code in ("DATABASE_DAMAGED", "INTERNAL", "STORAGE_UNAVAILABLE", "UNAVAILABLE"):
    ERRORS.labels("graphql", _code)
for _code in ("STORAGE_UNAVAILABLE", "STORE_FULL", "STORE_UNAVAILABLE", "UNAVAILABLE"):
    ERRORS.labels("objects", _code)
for _code in ("INVALID", "OVERLOADED", "REQUEST_TIMEOUT", "TOO_LARGE"):
    ERRORS.labels("server", _code)
for _code in ("INTERNAL", "STORAGE_UNAVAILABLE"):
    IMAGES_FAILED.labels(_code)
for _limit in (
    "images",
    "bytes",
    "converted_bytes",
    "captured_bytes",
    "servers",
    "volumes",
    "volume_bytes",
    "snapshots",
):
    QUOTA_REFUSALS.labels(_limit)

_job_began: ContextVar[float | None] = ContextVar("job_began", default=None)


def page() -> bytes:
    """All metrics as text, in the format that CONTENT_TYPE names."""
    return generate_latest(REGISTRY)


@contextmanager
def job(kind: str) -> Iterator[None]:
    """Measure an attempt at a job of this kind, during the block."""
    began = time.perf_counter()
    token = _job_began.set(began)
    try:
        yield
    finally:
        _job_began.reset(token)
        JOB_SECONDS.labels(kind).observe(time.perf_counter() - began)


def converted(way: str, format_: str, job: str) -> None:
    """Record that the measured job made an image ACTIVE. `job` is its kind."""
    began = _job_began.get()
    if began is not None:
        CONVERSION_SECONDS.labels(way, format_, job).observe(time.perf_counter() - began)


def received(count: int) -> None:
    """Count bytes of an upload that arrived at this process."""
    BYTES.labels("in", "gateway").inc(count)


def received_by_store(count: int) -> None:
    """Count bytes of an upload that went to the store directly, as the store has confirmed."""
    BYTES.labels("in", "store").inc(count)


async def sent(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same chunks, counted as sent to a client."""
    bytes_out = BYTES.labels("out", "gateway")
    async for chunk in chunks:
        yield chunk
        bytes_out.inc(len(chunk))


class Feed(Collector):
    """Lag of this process in reading the feed. Empty in a process that does not read it."""

    def __init__(self) -> None:
        self._behind: int | None = None
        self._read_at = 0.0

    def read(self, behind: int) -> None:
        """Record that the feed was read now; `behind` events are still to be delivered."""
        self._behind, self._read_at = behind, time.time()

    def collect(self) -> Iterable[Metric]:
        """The metrics, for prometheus-client."""
        if self._behind is None:
            return
        yield _gauge("images_feed_lag_events", "Events that this process has not delivered yet.", self._behind)
        yield _gauge("images_feed_read_timestamp_seconds", "When the feed was last read.", self._read_at)


@dataclass(frozen=True, slots=True)
class CatalogueState:
    """Pending work, as read from the database.

    jobs             number of jobs that are not done, by kind and state
    oldest_waiting   how long the oldest waiting job has been due, in seconds, by kind
    open_uploads     number of uploads that still accept bytes
    """

    jobs: Mapping[tuple[str, str], int]
    oldest_waiting: Mapping[str, float]
    open_uploads: int
    read_at: float = field(default_factory=time.time)


class Catalogue(Collector):
    """The newest state of the catalogue that this process has read. Empty when it is old or was never read."""

    def __init__(self) -> None:
        self._state: CatalogueState | None = None

    def read(self, state: CatalogueState) -> None:
        """Store a state that was just read."""
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """The metrics, for prometheus-client."""
        state = self._state
        if state is None:
            return
        yield _gauge("images_catalogue_read_timestamp_seconds", "When the database was last read.", state.read_at)
        if time.time() - state.read_at > _FRESH_SECONDS:
            return
        jobs = GaugeMetricFamily("images_jobs", "Jobs that are not done.", labels=["kind", "state"])
        for (kind, job_state), count in state.jobs.items():
            jobs.add_metric([kind, job_state], count)
        yield jobs
        oldest = GaugeMetricFamily(
            "images_job_oldest_waiting_seconds", "How long the oldest waiting job has been due.", labels=["kind"]
        )
        for kind, seconds in state.oldest_waiting.items():
            oldest.add_metric([kind], seconds)
        yield oldest
        yield _gauge("images_uploads_open", "Uploads that still accept bytes.", state.open_uploads)


class Pools(Collector):
    """The connection pools of this process, summed by purpose."""

    def __init__(self) -> None:
        self._pools: WeakKeyDictionary[QueuePool, str] = WeakKeyDictionary()
        # One thread opens pools, another shows them.
        self._guard = threading.Lock()

    def watch(self, purpose: str, pool: QueuePool) -> None:
        """Show a pool as long as it exists."""
        with self._guard:
            self._pools[pool] = purpose

    def collect(self) -> Iterable[Metric]:
        """The metrics, for prometheus-client."""
        limits: Tally[str] = Tally()
        in_use: Tally[str] = Tally()
        with self._guard:
            pools = list(self._pools.items())
        for pool, purpose in pools:
            limits[purpose] += pool.size()
            in_use[purpose] += pool.checkedout()
        for name, text, counts in (
            ("images_database_connections_in_use", "Connections to the database in use.", in_use),
            ("images_database_connections_limit", "Maximum connections to the database.", limits),
        ):
            family = GaugeMetricFamily(name, text, labels=["pool"])
            for purpose, count in counts.items():
                family.add_metric([purpose], count)
            yield family


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)


FEED, CATALOGUE, POOLS = Feed(), Catalogue(), Pools()
for _collector in (FEED, CATALOGUE, POOLS):
    REGISTRY.register(_collector)
