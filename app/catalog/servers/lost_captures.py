"""Ends captures that their host can't finish: the image is set to ERROR, and the host undoes what it did, if it can."""

from collections.abc import Sequence
from typing import Any

from sqlmodel import col, select

from app.catalog import captures, images
from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers import hosts
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.errors import ImageFailed
from app.lifecycle import UNDONE, FailureCode, JobState
from app.models import Capture, Host, Image, Job


def source_lost(why: str) -> ImageFailed:
    """The failure of an image whose volume could not be read; `why` is a sentence for its owner."""
    return ImageFailed(FailureCode.SOURCE_UNAVAILABLE, why, "Delete this image, and create the snapshot again.")


_HOST_GONE = source_lost("The host of the volume does not answer.")
_HOST_FORGOTTEN = ImageFailed(
    FailureCode.SOURCE_UNAVAILABLE, "The host of the volume was removed, with its disks.", "Delete this image."
)


async def give_up(database: Database, image_id: str, failure: ImageFailed, claim: Claim[Any] | None = None) -> bool:
    """Set the image of a capture to ERROR, and make its job start over, to undo what it did on its host.

    Returns False when its capture has ended. Raises LeaseLost when a `claim` of the job is given, and was lost.
    """
    async with database.transaction() as tx:
        image = await tx.session.get_one(Image, image_id, with_for_update=LOCKED)
        if await tx.session.get(Capture, image_id) is None:
            return False
        if claim is not None:
            await jobs.hold(tx, claim)
        await jobs.cancel_of_image(tx, image_id)
        await images.fail(tx, image, failure)
        await captures.end(tx, image_id)
    return True


async def lose(catalogue: Catalogue) -> None:
    """Set images to ERROR whose volume is on a host that is gone. When it is back, it undoes what it did."""
    gone = select(Capture.image_id).join(Host).where(Host.seen_at < hosts.last_alive(catalogue.settings))
    async with catalogue.database.read() as session:
        lost = (await session.execute(gone)).scalars().all()
    for image_id in lost:
        await give_up(catalogue.database, image_id, _HOST_GONE)


async def forget(database: Database, host_id: str) -> None:
    """End the captures of a host that never returns, and what it should undo."""
    async with database.read() as session:
        lost = (await session.execute(select(Capture.image_id).where(Capture.host_id == host_id))).scalars().all()
    for image_id in lost:
        await give_up(database, image_id, _HOST_FORGOTTEN)
    for job_id in await _unfinished(database, host_id):
        async with database.transaction() as tx:
            await jobs.cancel(tx, job_id)


async def _unfinished(database: Database, host_id: str) -> Sequence[str]:
    query = select(Job.id).where(Job.host_id == host_id, col(Job.kind).in_(UNDONE), Job.state != JobState.DONE)
    async with database.read() as session:
        return (await session.execute(query)).scalars().all()
