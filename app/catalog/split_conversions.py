"""What workers that convert one image together do to the catalogue: share it out, finish a range, fail as one.

As in `conversions`, every write is fenced by the claim of a job and may raise LeaseLost, and the image's row is locked
first: of all that finish, just one finds itself to be the last.
"""

from typing import Any

from sqlalchemy import func
from sqlmodel import col, select

from app.catalog import images
from app.catalog.conversions import Assignment
from app.catalog.people.tenancy import LOCKED
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.errors import ImageFailed
from app.lifecycle import JobKind, JobState
from app.models import Image, Job


async def share(database: Database, claim: Claim, shared: dict[str, Any], count: int) -> None:
    """Instead of one job that converts, from now on `count` jobs stream a range each. `shared` is for all of them."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        for index in range(count):
            detail = {**_for_all(claim), "shared": shared, "range": index}
            jobs.start(tx, JobKind.STREAM_RANGE, image_id=claim.image_id, **detail)


async def finished_ranges(database: Database, claim: Claim) -> list[int]:
    """Which ranges of the image are done."""
    return [job.detail["range"] for job in await _finished(database, claim)]


async def stored_so_far(database: Database, claim: Claim) -> int:
    """How many bytes those ranges of the image take that are done."""
    return sum(job.detail["stored"] for job in await _finished(database, claim))


async def _finished(database: Database, claim: Claim) -> list[Job]:
    query = select(Job).where(
        Job.image_id == claim.image_id, Job.kind == JobKind.STREAM_RANGE, Job.state == JobState.DONE
    )
    async with database.read() as session:
        done = (await session.execute(query)).scalars().all()
        # Of those that were ended before they had finished, it is not known how much they have stored.
        return [job for job in done if job.detail["shared"] == claim.detail["shared"] and "stored" in job.detail]


async def finish_range(database: Database, claim: Claim, stored: int) -> None:
    """A range is in the store, and takes `stored` bytes there. The last one of an image has them assembled."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim, stored=stored)
        open_ones = select(func.count()).where(
            col(Job.image_id) == claim.image_id,
            col(Job.kind) == JobKind.STREAM_RANGE,
            col(Job.state) != JobState.DONE,
        )
        if not (await tx.session.execute(open_ones)).scalar_one():
            jobs.start(tx, JobKind.ASSEMBLE, image_id=claim.image_id, **_for_all(claim))


def _for_all(claim: Claim) -> dict[str, Any]:
    """What a job's detail says of the whole conversion, and not of this job alone."""
    return {name: value for name, value in claim.detail.items() if name not in ("range", "lost")}


async def begin_anew(database: Database, claim: Claim) -> int:
    """What was made together is lost: end what is left of it, and convert once more. Gives how often that was so."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await jobs.cancel_of_image(tx, str(claim.image_id))
        times: int = claim.detail.get("times", 0) + 1
        jobs.start(tx, JobKind.CONVERT, image_id=claim.image_id, source=claim.detail["source"], times=times)
        return times


async def end_others(database: Database, claim: Claim) -> None:
    """Of all jobs of an image, this one alone goes on: whoever does another finds its lease lost."""
    async with database.transaction() as tx:
        await tx.session.get_one(Image, claim.image_id, with_for_update=LOCKED)
        await jobs.hold(tx, claim)
        await jobs.cancel_of_image(tx, str(claim.image_id), but=claim.job_id)


async def fail(database: Database, claim: Claim, assignment: Assignment, failure: ImageFailed) -> None:
    """One range is enough for the image to fail; the others are not wanted any more. The source stays."""
    async with database.transaction() as tx:
        image = await tx.session.get_one(Image, assignment.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await jobs.cancel_of_image(tx, image.id)
        await images.fail(tx, image, failure)
