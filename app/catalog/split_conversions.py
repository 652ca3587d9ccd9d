"""What workers that convert one image together do to the catalogue: share it out, finish a range, fail as one.

As in `conversions`, every write is fenced by the claim of a job and may raise LeaseLost, and the image's row is locked
first: of all that finish, just one finds itself to be the last.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from app.catalog import images
from app.catalog.conversions import Assignment
from app.catalog.people.tenancy import LOCKED
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Assemble, Conversion, Convert, Split, StreamRange
from app.database.sessions import Database
from app.errors import ImageFailed
from app.lifecycle import JobKind, JobState
from app.models import Image, Job


async def share(database: Database, claim: Claim[Conversion], shared: dict[str, Any], count: int) -> None:
    """Instead of one job that converts, from now on `count` jobs stream a range each. `shared` is for all of them."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        for index in range(count):
            detail = StreamRange(source=claim.detail.source, times=claim.detail.times, shared=shared, range=index)
            jobs.start(tx, detail, image_id=claim.image_id)


async def finished_ranges(database: Database, claim: Claim[StreamRange]) -> list[int]:
    """Which ranges of the image are done."""
    return [done.range for done in await _finished(database, claim)]


async def stored_so_far(database: Database, claim: Claim[StreamRange]) -> int:
    """How many bytes those ranges of the image take that are done."""
    return sum(done.stored or 0 for done in await _finished(database, claim))


async def _finished(database: Database, claim: Claim[StreamRange]) -> list[StreamRange]:
    query = select(Job.detail).where(
        Job.image_id == claim.image_id, Job.kind == JobKind.STREAM_RANGE, Job.state == JobState.DONE
    )
    async with database.read() as session:
        done = [StreamRange.from_row(row) for row in (await session.execute(query)).scalars()]
    # Of those that were ended before they had finished, it is not known how much they have stored.
    return [detail for detail in done if detail.shared == claim.detail.shared and detail.stored is not None]


async def finish_range(database: Database, claim: Claim[StreamRange], stored: int) -> None:
    """A range is in the store, and takes `stored` bytes there. The last one of an image has them assembled."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim, replace(claim.detail, stored=stored))
        open_ones = select(func.count()).where(
            col(Job.image_id) == claim.image_id,
            col(Job.kind) == JobKind.STREAM_RANGE,
            col(Job.state) != JobState.DONE,
        )
        if not (await tx.session.execute(open_ones)).scalar_one():
            said = claim.detail
            whole = Assemble(source=said.source, times=said.times, shared=said.shared)
            jobs.start(tx, whole, image_id=claim.image_id)


async def begin_anew(database: Database, claim: Claim[Split]) -> int:
    """What was made together is lost: end what is left of it, and convert once more. Gives how often that was so."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await jobs.cancel_of_image(tx, str(claim.image_id))
        times = claim.detail.times + 1
        jobs.start(tx, Convert(source=claim.detail.source, times=times), image_id=claim.image_id)
        return times


async def end_others(database: Database, claim: Claim[Conversion]) -> None:
    """Of all jobs of an image, this one alone goes on: whoever does another finds its lease lost."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.hold(tx, claim)
        await jobs.cancel_of_image(tx, str(claim.image_id), but=claim.job_id)


async def fail(database: Database, claim: Claim[Conversion], assignment: Assignment, failure: ImageFailed) -> None:
    """One range is enough for the image to fail; the others are not wanted any more. The source stays."""
    async with database.transaction() as tx:
        image = await tx.session.get_one(Image, assignment.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await jobs.cancel_of_image(tx, image.id)
        await images.fail(tx, image, failure)
