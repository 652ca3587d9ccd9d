"""Conversions of one image by several workers: split it into ranges, finish a range, assemble or fail as one.

As in `conversions`, every write is fenced by the claim of a job and may raise LeaseLost, and the image's row is locked
first, so that only one of the workers that finish a range finds that it was the last one.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from app.catalog import images
from app.catalog.catalogue import Catalogue
from app.catalog.conversions import Assignment
from app.catalog.people.tenancy import LOCKED
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Assemble, Conversion, Convert, Split, StreamRange
from app.errors import ImageFailed
from app.lifecycle import JobKind, JobState
from app.models import Image, Job


async def split(catalogue: Catalogue, claim: Claim[Conversion], shared: dict[str, Any], count: int) -> None:
    """Replace a conversion's job by `count` jobs that stream one range each. All of them get the plan `shared`."""
    async with catalogue.database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        for index in range(count):
            detail = StreamRange(source=claim.detail.source, times=claim.detail.times, shared=shared, range=index)
            jobs.start(tx, detail, image_id=claim.image_id)


async def finished_ranges(catalogue: Catalogue, claim: Claim[StreamRange]) -> list[int]:
    """The numbers of the image's ranges that are finished."""
    return [done.range for done in await _finished(catalogue, claim)]


async def stored_so_far(catalogue: Catalogue, claim: Claim[StreamRange]) -> int:
    """The bytes that the finished ranges of the image take in the store."""
    return sum(done.stored or 0 for done in await _finished(catalogue, claim))


async def _finished(catalogue: Catalogue, claim: Claim[StreamRange]) -> list[StreamRange]:
    query = select(Job.detail).where(
        Job.image_id == claim.image_id, Job.kind == JobKind.STREAM_RANGE, Job.state == JobState.DONE
    )
    async with catalogue.database.read() as session:
        done = [StreamRange.from_row(row) for row in (await session.execute(query)).scalars()]
    # A job that was cancelled before its range was finished has no `stored`.
    return [detail for detail in done if detail.shared == claim.detail.shared and detail.stored is not None]


async def finish_range(catalogue: Catalogue, claim: Claim[StreamRange], stored: int) -> None:
    """Finish a range that takes `stored` bytes in the store. The last range of an image starts its assembly."""
    async with catalogue.database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim, replace(claim.detail, stored=stored))
        open_ones = select(func.count()).where(
            col(Job.image_id) == claim.image_id,
            col(Job.kind) == JobKind.STREAM_RANGE,
            col(Job.state) != JobState.DONE,
        )
        if not (await tx.session.execute(open_ones)).scalar_one():
            detail = claim.detail
            whole = Assemble(source=detail.source, times=detail.times, shared=detail.shared)
            jobs.start(tx, whole, image_id=claim.image_id)


async def restart(catalogue: Catalogue, claim: Claim[Split]) -> int:
    """Cancel the jobs of a split whose stored ranges are lost, and convert again. Returns how often that happened."""
    async with catalogue.database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await jobs.cancel_of_image(tx, str(claim.image_id))
        times = claim.detail.times + 1
        jobs.start(tx, Convert(source=claim.detail.source, times=times), image_id=claim.image_id)
        return times


async def end_others(catalogue: Catalogue, claim: Claim[Conversion]) -> None:
    """Cancel all other jobs of the image: their workers find that they have lost their leases."""
    async with catalogue.database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.hold(tx, claim)
        await jobs.cancel_of_image(tx, str(claim.image_id), but=claim.job_id)


async def fail(catalogue: Catalogue, claim: Claim[Conversion], assignment: Assignment, failure: ImageFailed) -> None:
    """Set the image to ERROR because of one range, and cancel the others. The source is kept."""
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get_one(Image, assignment.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await jobs.cancel_of_image(tx, image.id)
        await images.fail(tx, image, failure)
