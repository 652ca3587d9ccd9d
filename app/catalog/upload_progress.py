"""Progress of open uploads: counts bytes that pass through this process, and polls the store for the others."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import structlog
from sqlalchemy import bindparam
from sqlmodel import col, select

from app.catalog import uploads
from app.catalog.catalogue import Catalogue
from app.catalog.feed.progress import Throttle
from app.errors import StoreError
from app.lifecycle import ImagePhase, UploadState
from app.models import Image, Source, Upload, now
from app.ports import ProgressReport, Wakeups

log = structlog.get_logger()

# Maximum uploads whose bytes are counted at a time.
_METERED = 1_000
# Maximum uploads per poll, and concurrent requests to the store.
_AT_MOST = 1_000
_AT_ONCE = 8
# Idle uploads are polled at growing intervals, up to this one.
_SELDOM_SECONDS = 60.0
# Built once: every upload that begins needs it.
_UPLOAD_OF_KEY = (
    select(Upload, Image.project_id)
    .join(Image)
    .join(Source, col(Source.id) == Upload.source_id)
    .where(Source.key == bindparam("key"))
)


@dataclass(slots=True)
class _Meter:
    image_id: str
    project_id: str
    size: int
    received: int


@dataclass(slots=True)
class UploadMeter:
    """Counts arriving bytes and reports progress, at most once per upload and throttle interval."""

    catalogue: Catalogue
    wakeups: Wakeups
    throttle: Throttle
    _arrived: dict[str, int] = field(default_factory=dict)
    _meters: OrderedDict[str, _Meter] = field(default_factory=OrderedDict)
    _reporting: set[asyncio.Task[None]] = field(default_factory=set)

    def arrived(self, upload_key: str, count: int) -> None:
        """Count `count` more bytes of an upload."""
        self._arrived[upload_key] = self._arrived.get(upload_key, 0) + count
        if self.throttle.passes(upload_key):
            task = asyncio.create_task(self._report(upload_key))
            self._reporting.add(task)
            task.add_done_callback(self._reporting.discard)

    async def _report(self, upload_key: str) -> None:
        meter = self._meters.get(upload_key) or await self._meter_of(upload_key)
        if meter is None:
            return
        # A part that is sent twice counts twice; the report never exceeds the size.
        meter.received = min(meter.size, meter.received + self._arrived.pop(upload_key, 0))
        self.wakeups.progressed(
            ProgressReport(meter.image_id, meter.project_id, ImagePhase.UPLOADING, meter.received, meter.size, now())
        )

    async def _meter_of(self, upload_key: str) -> _Meter | None:
        async with self.catalogue.database.read() as session:
            found = (await session.execute(_UPLOAD_OF_KEY, {"key": upload_key})).one_or_none()
        if found is None:
            return None
        upload, project_id = found
        self._arrived.pop(upload_key, None)
        before = await uploads.received_bytes(self.catalogue, upload)
        meter = _Meter(upload.image_id, project_id, upload.source.size, before)
        self._meters[upload_key] = meter
        while len(self._meters) > _METERED:
            forgotten, _ = self._meters.popitem(last=False)
            self.throttle.forget(forgotten)
        return meter


@dataclass(slots=True)
class _Seen:
    """Bytes received at the last poll, when the next poll is due by the clock, and the interval in seconds."""

    received: int
    next_poll: float
    pause: float


@dataclass(slots=True)
class UploadPolling:
    """Polls the store for received bytes and reports progress. Several processes can do it at the same time."""

    catalogue: Catalogue
    wakeups: Wakeups
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Seen] = field(default_factory=dict)

    async def poll(self) -> None:
        """Report every open upload that has progressed since the last poll."""
        found = await self._open()
        self._seen = {upload.id: self._seen[upload.id] for upload, _ in found if upload.id in self._seen}
        at = self.clock()
        due = [pair for pair in found if pair[0].id not in self._seen or self._seen[pair[0].id].next_poll <= at]
        slots = asyncio.Semaphore(_AT_ONCE)

        async def poll(upload: Upload, project_id: str) -> None:
            async with slots:
                await self._poll(upload, project_id)

        await asyncio.gather(*(poll(upload, project_id) for upload, project_id in due))

    async def _open(self) -> Sequence[tuple[Upload, str]]:
        query = (
            select(Upload, Image.project_id)
            .join(Image)
            .where(Upload.state == UploadState.OPEN)
            .order_by(col(Upload.created_at).desc())
            .limit(_AT_MOST)
        )
        async with self.catalogue.database.read() as session:
            return [(upload, project_id) for upload, project_id in (await session.execute(query)).all()]

    async def _poll(self, upload: Upload, project_id: str) -> None:
        try:
            received = await uploads.received_bytes(self.catalogue, upload)
        except StoreError:  # it is polled again next time
            log.warning("upload.unreadable", upload=upload.id, exc_info=True)
            return
        before = self._seen.get(upload.id, _Seen(0, 0.0, self.seconds))
        grown = received != before.received
        pause = self.seconds if grown else min(2 * before.pause, _SELDOM_SECONDS)
        self._seen[upload.id] = _Seen(received, self.clock() + pause, pause)
        if grown:
            self.wakeups.progressed(
                ProgressReport(upload.image_id, project_id, ImagePhase.UPLOADING, received, upload.source.size, now())
            )
