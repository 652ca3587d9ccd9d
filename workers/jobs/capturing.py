"""The job of a host that captures a volume: takes a point in time, has it stored, and releases it.

Killed at any step, it is repaired by the next claim. As long as the moment has not been recorded, the next claim takes
another one; from then on it reads the same point, and if that is lost, the image ends in ERROR.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import structlog

from app.catalog.catalogue import Catalogue
from app.catalog.servers import lost_captures
from app.catalog.servers.lost_captures import source_lost
from app.catalog.snapshots import capturing
from app.catalog.snapshots.capturing import CaptureOrder
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CaptureVolume
from app.errors import ImageFailed, StoreError
from app.lifecycle import FailureCode, ImagePhase
from app.models import now
from app.ports import Wakeups
from workers.capture.task import Captured, CaptureTask
from workers.convert.workspaces import workspace_of
from workers.hypervisor.port import Hypervisor, HypervisorError, Point, PointLost, VolumeMissing
from workers.inspection.refusals import check_stored_size
from workers.jobs.interrupting import in_threads, unless
from workers.jobs.progress import ProgressReporter

log = structlog.get_logger()

# How many points a host reads at once. All others are taken when they are requested, and wait.
_AT_ONCE = 4


# Stores a point as an image; see `workers.capture.capturing.capture`.
Store = Callable[[CaptureTask], Captured]


@dataclass(frozen=True, slots=True)
class Capturing:
    """Does the captures of one host. Lives in one event loop. Raises errors that another attempt may resolve."""

    catalogue: Catalogue
    hypervisor: Hypervisor
    wakeups: Wakeups
    store: Store
    # Apart from those of the event loop, since others need a thread for moments only: the launch of a server, say.
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_AT_ONCE, "capture"))

    async def capture(self, claim: Claim[CaptureVolume], cancelled: asyncio.Event) -> None:
        """Capture a volume, and undo on this host what that took. The caller keeps other captures of it away."""
        order = await capturing.order_for(self.catalogue, claim)
        if order is not None:
            await self._image(claim, order, cancelled)
        await self.undo(claim, cancelled)

    async def _image(self, claim: Claim[CaptureVolume], order: CaptureOrder, cancelled: asyncio.Event) -> None:
        """Make the image ACTIVE or set it to ERROR."""
        try:
            point = await self._point(claim, order, cancelled)
            stored = await self._stored(claim, order, point, cancelled)
            await capturing.succeed(self.catalogue, claim, order, stored)
            log.info("image.captured", image=order.image_id, bytes=stored.stored_size)
        except ImageFailed as failure:
            log.info("image.not_captured", image=order.image_id, code=failure.code)
            await capturing.fail(self.catalogue, claim, failure)
        except (PointLost, VolumeMissing) as error:
            log.info("image.source_lost", image=order.image_id, reason=str(error))
            await capturing.fail(self.catalogue, claim, _lost(error))

    async def _point(self, claim: Claim[CaptureVolume], order: CaptureOrder, cancelled: asyncio.Event) -> Point:
        """The point of the moment that was recorded; if none was, takes one and records it."""
        if order.captured_at is not None:
            return Point(order.volume_id, order.size, order.quiet)
        # A process that was killed may have taken one.
        await unless(cancelled, self.hypervisor.release(order.volume_id))
        point = await unless(cancelled, self.hypervisor.point(order.volume_id))
        await capturing.taken(self.catalogue, claim, now(), quiet=point.quiet)
        return point

    async def _stored(
        self, claim: Claim[CaptureVolume], order: CaptureOrder, point: Point, cancelled: asyncio.Event
    ) -> Captured:
        """Read the point, and store it. Raises ImageFailed for its owner."""
        seconds = self.catalogue.settings.progress_seconds
        reporter = ProgressReporter(self.wakeups, order.image_id, order.project_id, seconds)
        async with AsyncExitStack() as stack, reporter.regularly(), in_threads(cancelled) as stop:
            reader = await unless(cancelled, stack.enter_async_context(self.hypervisor.reading(point)))
            task = CaptureTask(
                reader=reader,
                base=order.base,
                key=order.key,
                workspace=workspace_of(claim.job_id, claim.token),
                progress=partial(reporter.report, ImagePhase.CAPTURING),
                cancelled=stop,
                require_room=partial(check_stored_size, room=order.room),
            )
            try:
                return await asyncio.get_running_loop().run_in_executor(self._threads, self.store, task)
            except ImageFailed as failure:
                if failure.code is not FailureCode.QUOTA_EXCEEDED:
                    raise
                raise await capturing.over_quota(self.catalogue, order) from failure

    async def undo(self, claim: Claim[CaptureVolume], cancelled: asyncio.Event) -> None:
        """Release the point, and finish the job."""
        if not await capturing.has_other(self.catalogue, claim):
            await unless(cancelled, self.hypervisor.release(claim.detail.volume))
        await capturing.undone(self.catalogue, claim)

    async def give_up(self, claim: Claim[CaptureVolume], error: Exception) -> bool:
        """Set the image of a capture that was attempted too often to ERROR. The job starts over, to undo the rest.

        Returns False when its image is not waiting for it: then the job is retried forever.
        """
        return await lost_captures.give_up(self.catalogue.database, claim.detail.image, _failure_of(error), claim)


def _lost(error: Exception) -> ImageFailed:
    if isinstance(error, VolumeMissing):
        return source_lost("The host has no disk of the volume: its server was never started, or has been deleted.")
    return source_lost(
        "The snapshot was lost before all of its bytes were stored: its server was stopped or deleted, ended by "
        "itself, or overwrote more than its host could keep."
    )


def _failure_of(error: Exception) -> ImageFailed:
    """The failure that owners of an image see for an error that kept its volume from being captured."""
    again = "Delete this image, and create the snapshot again later. If it fails again, ask the operator."
    if isinstance(error, StoreError):
        message = "The gateway could not write to or read from its storage."
        return ImageFailed(FailureCode.STORAGE_UNAVAILABLE, message, again)
    if isinstance(error, HypervisorError | OSError):
        message = "The hypervisor of the host could not take or read the snapshot."
        return ImageFailed(FailureCode.SOURCE_UNAVAILABLE, message, again)
    message = "The snapshot failed because of an internal error in the gateway."
    return ImageFailed(FailureCode.INTERNAL, message, again)
