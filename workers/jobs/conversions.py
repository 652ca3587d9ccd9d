"""The jobs of a conversion: start it, do all of it or one range, and record the outcome."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import structlog

from app import metrics
from app.catalog import conversions, split_conversions
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Assemble, Conversion, Convert, Split, StreamRange
from app.errors import ImageFailed
from app.lifecycle import FailureCode, ImagePhase
from app.ports import Wakeups
from workers.convert.split_plan import SplitPlan
from workers.errors import Cancelled, SplitLost
from workers.jobs.converters import Converter, Order
from workers.jobs.progress import ProgressReporter
from workers.jobs.turn_clock import TurnClock

if TYPE_CHECKING:
    from workers.jobs.store_converter import StoreConverter

log = structlog.get_logger()

T = TypeVar("T")

# How often a split conversion is started before a loss of its parts fails the image.
_MOST_STARTS = 3


@dataclass(frozen=True, slots=True)
class Conversions:
    """Does the jobs of conversions. Every method raises errors that another attempt may resolve."""

    catalogue: Catalogue
    wakeups: Wakeups
    converter: Converter

    async def convert(self, claim: Claim[Convert], cancelled: threading.Event) -> None:
        """Convert a source to qcow2, or split the conversion among several workers."""
        assignment = await self._begin(claim)
        if assignment is None:
            return
        try:
            made = await self._in_turn(claim, assignment, cancelled, self.converter.convert)
            if isinstance(made, Outcome):
                await self._succeed(claim, assignment, made)
        except ImageFailed as failure:
            await self._free_if_over_quota(claim, assignment, cancelled, failure)
            await conversions.fail(self.catalogue, claim, assignment, failure)
            return
        if isinstance(made, SplitPlan):
            log.info("image.split", image=assignment.image_id, ranges=made.count)
            await split_conversions.split(self.catalogue, claim, made.as_json(), made.count)

    async def stream_range(self, claim: Claim[StreamRange], cancelled: threading.Event) -> None:
        """Stream one range of a split conversion."""
        split, index = SplitPlan.from_json(claim.detail.shared), claim.detail.range
        finished = await split_conversions.finished_ranges(self.catalogue, claim)
        before = sum(split.bytes_of(done) for done in finished)

        async def stream(converter: "StoreConverter", assignment: Assignment) -> None:
            def work(order: Order) -> int:
                def report_done(done: int) -> None:
                    order.report(ImagePhase.CONVERTING, before + done, split.virtual_size)

                return converter.stream_range(order, split, index, report_done)

            taken = await split_conversions.stored_so_far(self.catalogue, claim)
            left = replace(assignment, room=assignment.room - taken)
            stored = await self._in_turn(claim, left, cancelled, work)
            await split_conversions.finish_range(self.catalogue, claim, stored)

        await self._do_together(claim, cancelled, stream)

    async def assemble(self, claim: Claim[Assemble], cancelled: threading.Event) -> None:
        """Finish a split conversion whose ranges are all done."""
        split = SplitPlan.from_json(claim.detail.shared)

        async def finish(converter: "StoreConverter", assignment: Assignment) -> None:
            made = await self._in_turn(claim, assignment, cancelled, lambda order: converter.assemble(order, split))
            await self._succeed(claim, assignment, made)

        await self._do_together(claim, cancelled, finish)

    async def _do_together(
        self,
        claim: Claim[Split],
        cancelled: threading.Event,
        work: "Callable[[StoreConverter, Assignment], Awaitable[None]]",
    ) -> None:
        """Do a job of a split conversion; if that is impossible, fail the image or start the conversion over."""
        converter = self.converter.ranges
        if converter is None:
            raise TypeError("only conversions within an S3 store are split")
        assignment = await self._begin(claim)
        if assignment is None:
            return
        try:
            return await work(converter, assignment)
        except ImageFailed as failed:
            failure = failed
            await self._free_if_over_quota(claim, assignment, cancelled, failure)
        except SplitLost as loss:
            log.warning("image.split_lost", image=assignment.image_id, reason=str(loss))
            if claim.detail.times < _MOST_STARTS:
                await split_conversions.restart(self.catalogue, claim)
                return
            failure = too_many_attempts(FailureCode.STORAGE_UNAVAILABLE)
        await split_conversions.fail(self.catalogue, claim, assignment, failure)
        await asyncio.to_thread(
            converter.discard_split, assignment.result_key, SplitPlan.from_json(claim.detail.shared)
        )

    async def _begin(self, claim: Claim[Conversion]) -> Assignment | None:
        return await conversions.begin(self.catalogue, claim)

    async def _free_if_over_quota(
        self, claim: Claim[Conversion], assignment: Assignment, cancelled: threading.Event, failure: ImageFailed
    ) -> None:
        """Delete the result of an image that exceeds its project's quota; only the upload stays.

        This happens before the image is set to ERROR, while no other worker can have the job: a retry would find the
        result and mistake it for its own. If the worker is killed in between, the job runs again and checks the quota
        itself. Other workers on the image are stopped first, since they would miss the deleted data and start over.
        Raises LeaseLost, and then has deleted nothing.
        """
        if failure.code is not FailureCode.QUOTA_EXCEEDED:
            return
        log.info("image.over_quota", image=assignment.image_id)
        await split_conversions.end_others(self.catalogue, claim)

        def undo(order: Order) -> None:
            # This may have waited for a free thread.
            if cancelled.is_set():
                raise Cancelled("before anything was deleted")
            self.converter.undo(order)

        await jobs.renew(self.catalogue.database, claim, timedelta(seconds=self.catalogue.settings.lease_seconds))
        await self._at_work(claim, assignment, cancelled, undo)

    async def _in_turn(
        self, claim: Claim[Conversion], assignment: Assignment, cancelled: threading.Event, work: Callable[[Order], T]
    ) -> T:
        """Like `_at_work`, while it is this conversion's turn. Raises TurnLost."""
        async with TurnClock(self.catalogue.database, self.catalogue.settings, claim, assignment, cancelled).running():
            return await self._at_work(claim, assignment, cancelled, work)

    async def _at_work(
        self, claim: Claim[Conversion], assignment: Assignment, cancelled: threading.Event, work: Callable[[Order], T]
    ) -> T:
        """Do `work` in a thread, and report progress to the image's watchers."""
        seconds = self.catalogue.settings.progress_seconds
        reporter = ProgressReporter(self.wakeups, assignment.image_id, assignment.project_id, seconds)
        order = Order(assignment, claim.job_id, claim.token, reporter.report, cancelled)
        async with reporter.regularly():
            return await asyncio.to_thread(work, order)

    async def _succeed(self, claim: Claim[Conversion], assignment: Assignment, made: Outcome) -> None:
        """Record the outcome. Raises ImageFailed if the project has no room for the result."""
        log.info("image.converted", image=assignment.image_id, way=made.way, format=made.detected_format)
        await conversions.succeed(self.catalogue, claim, assignment, made)
        metrics.converted(made.way, made.detected_format, claim.kind)

    async def give_up(self, claim: Claim[Conversion], failure: ImageFailed) -> None:
        """Set the image of a job that was attempted too often to ERROR."""
        assignment = await self._begin(claim)
        if assignment is None:
            return
        fail = split_conversions.fail if isinstance(claim.detail, Split) else conversions.fail
        await fail(self.catalogue, claim, assignment, failure)


def too_many_attempts(code: FailureCode) -> ImageFailed:
    """The failure of an image whose conversion was attempted too often."""
    if code is FailureCode.STORAGE_UNAVAILABLE:
        return ImageFailed(
            code,
            "The gateway could not read from or write to its storage.",
            "Try again later with retryImage: the uploaded bytes are kept.",
            retriable=True,
        )
    return ImageFailed(
        code,
        "The conversion failed because of an internal error in the gateway.",
        "Try again with retryImage: the uploaded bytes are kept. If it fails again, contact the operator.",
        retriable=True,
    )


def retry_delay(attempt: int) -> timedelta:
    """The delay before a job is retried after its `attempt`-th failure: 1, 2, 4 … seconds, at most five minutes."""
    return timedelta(seconds=min(300, 2 ** (attempt - 1)))
