"""The duties of a conversion: begin it, do all of it or a range of it, and write down what came of it."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

import structlog

from app import metrics
from app.catalog import conversions, split_conversions
from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Assemble, Conversion, Convert, Split, StreamRange
from app.database.sessions import Database
from app.errors import ImageFailed
from app.lifecycle import FailureCode, ImagePhase
from app.ports import Wakeups
from app.settings import Settings
from workers.errors import Cancelled, ShareLost
from workers.jobs.converters import Converter, Order, StoreConverter
from workers.jobs.progress import Telling
from workers.jobs.turn_clock import TurnClock
from workers.store.ranges import Shared

log = structlog.get_logger()

T = TypeVar("T")

# A conversion that several workers share and whose parts get lost is begun anew so often.
_BEGINNINGS = 3


@dataclass(frozen=True, slots=True)
class Conversions:
    """What is done for the jobs of conversions. All of it raises what another attempt may mend."""

    database: Database
    wakeups: Wakeups
    converter: Converter
    settings: Settings

    async def convert(self, claim: Claim[Convert], cancelled: threading.Event) -> None:
        """Make a qcow2 of an upload's bytes, or find that it is worth sharing among several workers."""
        assignment = await self._begin(claim)
        if assignment is None:
            return
        try:
            made = await self._in_turn(claim, assignment, cancelled, self.converter.convert)
            if isinstance(made, Outcome):
                await self._succeed(claim, assignment, made)
        except ImageFailed as failure:
            await self._free_if_over_quota(claim, assignment, cancelled, failure)
            await conversions.fail(self.database, claim, assignment, failure)
            return
        if isinstance(made, Shared):
            log.info("image.shared", image=assignment.image_id, ranges=made.count)
            await split_conversions.share(self.database, claim, made.as_json(), made.count)

    async def stream_range(self, claim: Claim[StreamRange], cancelled: threading.Event) -> None:
        """Do one range of a shared conversion."""
        shared, index = Shared.from_json(claim.detail.shared), claim.detail.range
        finished = await split_conversions.finished_ranges(self.database, claim)
        before = sum(shared.bytes_of(done) for done in finished)

        async def stream(converter: StoreConverter, assignment: Assignment) -> None:
            def work(order: Order) -> int:
                def tell(done: int) -> None:
                    order.report(ImagePhase.CONVERTING, before + done, shared.virtual_size)

                return converter.stream_range(order, shared, index, tell)

            taken = await split_conversions.stored_so_far(self.database, claim)
            left = replace(assignment, room=assignment.room - taken)
            stored = await self._in_turn(claim, left, cancelled, work)
            await split_conversions.finish_range(self.database, claim, stored)

        await self._do_together(claim, cancelled, stream)

    async def assemble(self, claim: Claim[Assemble], cancelled: threading.Event) -> None:
        """Finish a shared conversion, of which all ranges are done."""
        shared = Shared.from_json(claim.detail.shared)

        async def finish(converter: StoreConverter, assignment: Assignment) -> None:
            made = await self._in_turn(claim, assignment, cancelled, lambda order: converter.assemble(order, shared))
            await self._succeed(claim, assignment, made)

        await self._do_together(claim, cancelled, finish)

    async def _do_together(
        self,
        claim: Claim[Split],
        cancelled: threading.Event,
        work: Callable[[StoreConverter, Assignment], Awaitable[None]],
    ) -> None:
        """Do a part of a shared conversion; where that can't be, end the conversion, or have it begin anew."""
        converter = self.converter.ranges
        if converter is None:
            raise TypeError("only conversions within an S3 store are shared")
        assignment = await self._begin(claim)
        if assignment is None:
            return
        try:
            return await work(converter, assignment)
        except ImageFailed as failed:
            failure = failed
            await self._free_if_over_quota(claim, assignment, cancelled, failure)
        except ShareLost as loss:
            log.warning("image.share_lost", image=assignment.image_id, reason=str(loss))
            if claim.detail.times < _BEGINNINGS:
                await split_conversions.begin_anew(self.database, claim)
                return
            failure = given_up(FailureCode.STORAGE_UNAVAILABLE)
        await split_conversions.fail(self.database, claim, assignment, failure)
        await asyncio.to_thread(converter.let_go, assignment.result_key, Shared.from_json(claim.detail.shared))

    async def _begin(self, claim: Claim[Conversion]) -> Assignment | None:
        return await conversions.begin(self.database, claim, self.settings)

    async def _free_if_over_quota(
        self, claim: Claim[Conversion], assignment: Assignment, cancelled: threading.Event, failure: ImageFailed
    ) -> None:
        """Of an image that its project has no room for, free what has been made; the upload alone stays.

        That comes before the image is in ERROR, while nobody else can have the job: a retry would find the result and
        take it for its own. Killed in between, the job is done once more, and finds out for itself how much room there
        is. Others that work on the image are ended first, since they would miss what is freed, and begin anew. Raises
        LeaseLost, and then has freed nothing.
        """
        if failure.code is not FailureCode.QUOTA_EXCEEDED:
            return
        log.info("image.over_quota", image=assignment.image_id)
        await split_conversions.end_others(self.database, claim)

        def undo(order: Order) -> None:
            # Threads are few, and this may have waited for one.
            if cancelled.is_set():
                raise Cancelled("before anything was freed")
            self.converter.undo(order)

        await jobs.renew(self.database, claim, timedelta(seconds=self.settings.lease_seconds))
        await self._at_work(claim, assignment, cancelled, undo)

    async def _in_turn(
        self, claim: Claim[Conversion], assignment: Assignment, cancelled: threading.Event, work: Callable[[Order], T]
    ) -> T:
        """As `_at_work`, as long as it is this conversion's turn. Raises TurnLost."""
        async with TurnClock(self.database, self.settings, claim, assignment, cancelled).running():
            return await self._at_work(claim, assignment, cancelled, work)

    async def _at_work(
        self, claim: Claim[Conversion], assignment: Assignment, cancelled: threading.Event, work: Callable[[Order], T]
    ) -> T:
        """Do something in a thread, and tell the image's watchers how far it is."""
        seconds = self.settings.progress_seconds
        telling = Telling(self.wakeups, assignment.image_id, assignment.project_id, seconds)
        order = Order(assignment, claim.job_id, claim.token, telling.report, cancelled)
        async with telling.regularly():
            return await asyncio.to_thread(work, order)

    async def _succeed(self, claim: Claim[Conversion], assignment: Assignment, made: Outcome) -> None:
        """Write down what was made. Raises ImageFailed when the project has no room for it."""
        log.info("image.converted", image=assignment.image_id, way=made.way, format=made.detected_format)
        await conversions.succeed(self.database, claim, assignment, made, self.settings)
        metrics.converted(made.way, made.detected_format, claim.kind)

    async def give_up(self, claim: Claim[Conversion], failure: ImageFailed) -> None:
        """End the image of a job that was tried too often in ERROR."""
        assignment = await self._begin(claim)
        if assignment is None:
            return
        fail = split_conversions.fail if isinstance(claim.detail, Split) else conversions.fail
        await fail(self.database, claim, assignment, failure)


def given_up(code: FailureCode) -> ImageFailed:
    """The failure of an image whose conversion was begun too often."""
    if code is FailureCode.STORAGE_UNAVAILABLE:
        return ImageFailed(
            code,
            "The storage could not take or give the bytes.",
            "Try again later with retryImage; the uploaded bytes are kept.",
            retriable=True,
        )
    return ImageFailed(
        code,
        "The conversion failed for a reason of the gateway's own.",
        "Try again with retryImage; the uploaded bytes are kept. If it fails again, tell the operator.",
        retriable=True,
    )


def pause(attempt: int) -> timedelta:
    """How long a job rests after its `attempt`-th failure: 1, 2, 4 … seconds, at most five minutes."""
    return timedelta(seconds=min(300, 2 ** (attempt - 1)))
