"""What hosts read and write when they capture a volume.

Every write of a host is fenced by the claim of its job (architecture, rule 3) and may raise LeaseLost. The image's row
is locked before the job's, as by the deletion of an image, which makes the job start over.

A job has two parts. The first one ends with the image, ACTIVE or in ERROR. The second one undoes what was done on the
host, and it remains if the image is deleted, or given up, while the host does the first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import activation, captures, images, quotas
from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers.settling import Base, base_of
from app.catalog.snapshots import rolling
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CaptureVolume, Erase
from app.database.sessions import Transaction
from app.errors import ImageFailed
from app.lifecycle import Aspect, ImageType
from app.models import Blob, Capture, Image, Project, Volume


class Stored(Protocol):
    """What was stored of a volume, in bytes: the disk, the clusters in use, and the file."""

    @property
    def virtual_size(self) -> int: ...

    @property
    def stored_size(self) -> int: ...

    @property
    def file_size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class CaptureOrder:
    """A volume to capture, which has `size` bytes, and the key of the result.

    `captured_at` is None until the point has been taken; from then on no other one is. `quiet` is that of the point.
    `room` is how many bytes the result could take when this was read; `succeed` checks it again.
    """

    image_id: str
    project_id: str
    volume_id: str
    size: int
    base: Base | None
    key: str
    captured_at: datetime | None
    quiet: bool
    room: int


async def order_for(catalogue: Catalogue, claim: Claim[CaptureVolume]) -> CaptureOrder | None:
    """What a job has to capture; None if its capture has ended, and it only has to undo what it did on the host."""
    async with catalogue.database.read() as session:
        capture = await session.get(Capture, claim.detail.image)
        if capture is None:
            return None
        image = await session.get_one(Image, capture.image_id)
        volume = await session.get_one(Volume, capture.volume_id)
        base = await session.get_one(Blob, capture.base_id) if capture.base_id else None
        replaced = await rolling.stored_size(session, await _replaced_by(catalogue, session, image))
        return CaptureOrder(
            image_id=image.id,
            project_id=image.project_id,
            volume_id=volume.id,
            size=volume.size,
            base=base_of(base) if base else None,
            key=capture.result_key,
            captured_at=image.captured_at,
            quiet=bool(image.quiet),
            room=replaced + await quotas.room_of(session, image, catalogue.settings),
        )


async def taken(catalogue: Catalogue, claim: Claim[CaptureVolume], at: datetime, *, quiet: bool) -> None:
    """Record that the point was taken, and publish it: from now on, the image gets these bytes, or fails."""
    async with catalogue.database.transaction() as tx:
        image = await _locked(tx, claim)
        await jobs.hold(tx, claim)
        await images.change(tx, image, [Aspect.SOURCE], captured_at=at, quiet=quiet)


async def succeed(catalogue: Catalogue, claim: Claim[CaptureVolume], order: CaptureOrder, stored: Stored) -> None:
    """Set an image whose bytes are stored to ACTIVE, and start the jobs that examine it. The job is still held.

    A snapshot replaces the oldest ones of its volume beyond the limit. Raises ImageFailed when the project has no room
    for it; then nothing is written.
    """
    async with catalogue.database.transaction() as tx:
        # The lock makes those who store into a project check one after the other how much room is left.
        await tx.session.get_one(Project, order.project_id, with_for_update=LOCKED)
        image = await tx.session.get_one(Image, order.image_id)
        old = await _replaced_by(catalogue, tx.session, image)
        query = select(Image).where(col(Image.id).in_([*old, image.id])).order_by(col(Image.id))
        query = query.with_for_update(key_share=True).execution_options(populate_existing=True)
        locked = (await tx.session.execute(query)).scalars().all()
        await jobs.hold(tx, claim)
        capture = await tx.session.get_one(Capture, image.id)
        await rolling.evict(tx, [row for row in locked if row.id != image.id])
        if stored.stored_size > await quotas.room_of(tx.session, image, catalogue.settings):
            raise await quotas.captured_overrun(tx.session, image, catalogue.settings)
        blob = Blob(
            id=capture.result_id,
            key=capture.result_key,
            virtual_size=stored.virtual_size,
            stored_size=stored.stored_size,
            file_size=stored.file_size,
        )
        await activation.activate(tx, image, blob)
        await captures.end(tx, image.id)


async def fail(catalogue: Catalogue, claim: Claim[CaptureVolume], failure: ImageFailed) -> None:
    """Set the image of a failed capture to ERROR. The job is still held."""
    async with catalogue.database.transaction() as tx:
        image = await _locked(tx, claim)
        await jobs.hold(tx, claim)
        await images.fail(tx, image, failure)
        await captures.end(tx, image.id)


async def over_quota(catalogue: Catalogue, order: CaptureOrder) -> ImageFailed:
    """The failure of an image for whose bytes there is no room."""
    async with catalogue.database.read() as session:
        image = await session.get_one(Image, order.image_id)
        return await quotas.captured_overrun(session, image, catalogue.settings)


async def has_other(catalogue: Catalogue, claim: Claim[CaptureVolume]) -> bool:
    """Whether another capture of the volume has begun since: then the point on the host is, or will be, its own."""
    query = select(Capture.image_id).where(
        Capture.volume_id == claim.detail.volume, Capture.image_id != claim.detail.image
    )
    async with catalogue.database.read() as session:
        return (await session.execute(query)).first() is not None


async def undone(catalogue: Catalogue, claim: Claim[CaptureVolume]) -> None:
    """Finish a job that has left nothing on the host. Its bytes are erased unless they are those of an image."""
    async with catalogue.database.transaction() as tx:
        await jobs.finish(tx, claim)
        used = select(Blob.id).where(Blob.key == claim.detail.key)
        if (await tx.session.execute(used)).first() is None:
            jobs.start(tx, Erase(keys=(claim.detail.key,)))


async def _replaced_by(catalogue: Catalogue, session: AsyncSession, image: Image) -> Sequence[str]:
    """The ids of the snapshots that have to go when a captured image becomes ACTIVE."""
    if image.type != ImageType.SNAPSHOT or image.volume_id is None:
        return ()
    project = await session.get_one(Project, image.project_id)
    limit = quotas.snapshots_per_volume(project, catalogue.settings)
    return await rolling.surplus(session, image.volume_id, limit, but=image.id)


async def _locked(tx: Transaction, claim: Claim[CaptureVolume]) -> Image:
    return await tx.session.get_one(Image, claim.detail.image, with_for_update=LOCKED)
