"""The duties of a conversion: begin it, do all of it or a range of it, and write down what came of it."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog

from app.catalog import conversions, shared_conversions
from app.catalog.conversions import Assignment, Outcome
from app.catalog.jobs import Claim
from app.database import Database
from app.errors import ImageFailed
from app.lifecycle import FailureCode, ImagePhase
from app.ports import Wakeups
from workers.converters import Converter, Order, StoreConverter
from workers.errors import ShareLost
from workers.receipts import Converted
from workers.sharing import Shared
from workers.telling import Telling

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
    progress_seconds: float

    async def convert(self, claim: Claim, cancelled: threading.Event) -> None:
        """Make a qcow2 of an upload's bytes, or find that it is worth sharing among several workers."""
        assignment = await conversions.begin(self.database, claim)
        if assignment is None:
            return
        try:
            made = await self._at_work(claim, assignment, cancelled, self.converter.convert)
        except ImageFailed as failure:
            await conversions.fail(self.database, claim, assignment, failure)
            return
        if isinstance(made, Shared):
            log.info("image.shared", image=assignment.image_id, ranges=made.count)
            await shared_conversions.share(self.database, claim, made.as_json(), made.count)
        else:
            await self._succeed(claim, assignment, made)

    async def stream_range(self, claim: Claim, cancelled: threading.Event) -> None:
        """Do one range of a shared conversion."""
        shared, index = Shared.from_json(claim.detail["shared"]), claim.detail["range"]
        finished = await shared_conversions.finished_ranges(self.database, claim)
        before = sum(shared.bytes_of(done) for done in finished)

        def stream(converter: StoreConverter, order: Order) -> None:
            def tell(done: int) -> None:
                order.report(ImagePhase.CONVERTING, before + done, shared.virtual_size)

            converter.stream_range(order, shared, index, tell)

        assignment = await conversions.begin(self.database, claim)
        if assignment is not None and await self._done_together(claim, assignment, cancelled, stream):
            await shared_conversions.finish_range(self.database, claim)

    async def assemble(self, claim: Claim, cancelled: threading.Event) -> None:
        """Finish a shared conversion, of which all ranges are done."""
        made: list[Converted] = []

        def finish(converter: StoreConverter, order: Order) -> None:
            made.append(converter.assemble(order, Shared.from_json(claim.detail["shared"])))

        assignment = await conversions.begin(self.database, claim)
        if assignment is not None and await self._done_together(claim, assignment, cancelled, finish):
            await self._succeed(claim, assignment, made[0])

    async def _done_together(
        self,
        claim: Claim,
        assignment: Assignment,
        cancelled: threading.Event,
        work: Callable[[StoreConverter, Order], None],
    ) -> bool:
        """Do a part of a shared conversion; False when that has ended the conversion, or made it begin anew."""
        converter = self.converter
        if not isinstance(converter, StoreConverter):
            raise TypeError("only conversions within an S3 store are shared")
        try:
            await self._at_work(claim, assignment, cancelled, lambda order: work(converter, order))
            return True
        except ImageFailed as failed:
            failure = failed
        except ShareLost as loss:
            log.warning("image.share_lost", image=assignment.image_id, reason=str(loss))
            if claim.detail.get("times", 0) < _BEGINNINGS:
                await shared_conversions.begin_anew(self.database, claim)
                return False
            failure = given_up(FailureCode.STORAGE_UNAVAILABLE)
        await shared_conversions.fail(self.database, claim, assignment, failure)
        await asyncio.to_thread(converter.let_go, assignment.result_key, Shared.from_json(claim.detail["shared"]))
        return False

    async def _at_work(
        self, claim: Claim, assignment: Assignment, cancelled: threading.Event, work: Callable[[Order], T]
    ) -> T:
        """Do something in a thread, and tell the image's watchers how far it is."""
        telling = Telling(self.wakeups, assignment.image_id, assignment.project_id, self.progress_seconds)
        order = Order(assignment, claim.job_id, claim.token, telling.report, cancelled)
        async with telling.regularly():
            return await asyncio.to_thread(work, order)

    async def _succeed(self, claim: Claim, assignment: Assignment, made: Converted) -> None:
        log.info("image.converted", image=assignment.image_id, way=made.way, format=made.detected_format)
        outcome = Outcome(
            detected_format=made.detected_format,
            virtual_size=made.virtual_size,
            stored_size=made.stored_size,
            file_size=made.file_size,
            warnings=made.warnings,
        )
        await conversions.succeed(self.database, claim, assignment, outcome)

    async def give_up(self, claim: Claim, code: FailureCode) -> None:
        """End the image of a job that was tried too often in ERROR."""
        assignment = await conversions.begin(self.database, claim)
        if assignment is None:
            return
        if "shared" in claim.detail:
            await shared_conversions.fail(self.database, claim, assignment, given_up(code))
        else:
            await conversions.fail(self.database, claim, assignment, given_up(code))


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
