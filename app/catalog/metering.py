"""Counts the bytes of uploads that arrive through this process, and reports them."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from sqlmodel import select

from app.catalog.progress import Throttle
from app.catalog.uploads import Uploads
from app.lifecycle import ImagePhase
from app.models import Image, Upload, now
from app.ports import ProgressReport, Wakeups

_METERED = 1_000


@dataclass(slots=True)
class _Meter:
    image_id: str
    project_id: str
    size: int
    received: int


@dataclass(slots=True)
class UploadMeter:
    """Turns arriving bytes into progress reports, at most one per upload and throttle interval."""

    uploads: Uploads
    wakeups: Wakeups
    throttle: Throttle
    _arrived: dict[str, int] = field(default_factory=dict)
    _meters: OrderedDict[str, _Meter] = field(default_factory=OrderedDict)
    _reporting: set[asyncio.Task[None]] = field(default_factory=set)

    def arrived(self, upload_key: str, count: int) -> None:
        """`count` more bytes of an upload are there."""
        self._arrived[upload_key] = self._arrived.get(upload_key, 0) + count
        if self.throttle.passes(upload_key):
            task = asyncio.create_task(self._report(upload_key))
            self._reporting.add(task)
            task.add_done_callback(self._reporting.discard)

    async def _report(self, upload_key: str) -> None:
        meter = self._meters.get(upload_key) or await self._meter_of(upload_key)
        if meter is None:
            return
        # A part that is sent twice counts twice; more than all is never claimed.
        meter.received = min(meter.size, meter.received + self._arrived.pop(upload_key, 0))
        self.wakeups.progressed(
            ProgressReport(meter.image_id, meter.project_id, ImagePhase.UPLOADING, meter.received, meter.size, now())
        )

    async def _meter_of(self, upload_key: str) -> _Meter | None:
        async with self.uploads.database.read() as session:
            query = select(Upload, Image).join(Image).where(Upload.key == upload_key)
            found = (await session.execute(query)).one_or_none()
        if found is None:
            return None
        upload, image = found
        self._arrived.pop(upload_key, None)
        before = await self.uploads.received_bytes(upload)
        meter = _Meter(image.id, image.project_id, upload.size, before)
        self._meters[upload_key] = meter
        while len(self._meters) > _METERED:
            forgotten, _ = self._meters.popitem(last=False)
            self.throttle.forget(forgotten)
        return meter
