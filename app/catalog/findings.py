"""What jobs find out about stored bytes: kept with their blob, and published for every image that has them.

Every write is fenced by the claim of the job (architecture, rule 3) and may raise LeaseLost. Images are locked before
blobs, and an image may be copied in between, so this takes several transactions: a copy is made with the blob's row
locked, so either it finds what is known about the blob, or it is found when that is published.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlmodel import col, select

from app.boot_readiness.report import BootReadiness
from app.catalog import images
from app.catalog.catalogue import Catalogue
from app.catalog.people.tenancy import LOCKED
from app.catalog.servers.boot_checks import BootCheck
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CheckReadiness, Hash, OfBlob, VerifyBoot
from app.database.sessions import Database
from app.lifecycle import Aspect, JobKind, JobState
from app.models import Blob, Image, Job, now

# How many images are changed by one transaction, and how many old images are checked at a time.
_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Change:
    """What a finding changes of an image: aspects to publish, and values of columns."""

    aspects: Sequence[Aspect]
    values: Mapping[str, Any] = field(default_factory=dict)


async def blob_of(catalogue: Catalogue, claim: Claim[OfBlob]) -> Blob | None:
    """The blob of a job; None when it is gone, so that nothing is left to do."""
    async with catalogue.database.transaction() as tx:
        blob = await tx.session.get(Blob, claim.detail.blob)
        if blob is None:
            await jobs.finish(tx, claim)
        return blob


async def keep_hash(catalogue: Catalogue, claim: Claim[Hash], sha256: str) -> None:
    """Store the SHA-256 of a blob, then set and publish it for every image that has the blob."""

    def change(image: Image) -> Change:
        return Change([] if image.sha256 else [Aspect.SHA256], {"sha256": sha256})

    await _keep(catalogue, claim, change, sha256=sha256)


async def keep_readiness(
    catalogue: Catalogue, claim: Claim[CheckReadiness], report: BootReadiness, *, again: timedelta | None = None
) -> None:
    """Store the readiness of a blob, and publish it for every image that has the blob. The job is due `again` later.

    It also sets the operating system and the architecture of images where none is stated.
    """

    def change(image: Image) -> Change:
        aspects, values = [Aspect.BOOT_READINESS], dict[str, Any]()
        if image.os_family is None and report.os_family is not None:
            aspects.append(Aspect.OS)
            values |= {"os_family": report.os_family, "os_version": report.os_version}
        if image.architecture is None and report.architecture is not None:
            aspects.append(Aspect.ARCHITECTURE)
            values["architecture"] = report.architecture
        return Change(aspects, values)

    await _keep(catalogue, claim, change, again, readiness=report.to_json())


async def keep_boot_check(catalogue: Catalogue, claim: Claim[VerifyBoot], check: BootCheck) -> None:
    """Store a boot check of a blob, and publish it for every image that has the blob."""
    await _keep(catalogue, claim, lambda _: Change([Aspect.BOOT_CHECKED]), boot_check=check.to_row())


async def _keep(
    catalogue: Catalogue,
    claim: Claim[OfBlob],
    change: Callable[[Image], Change],
    again: timedelta | None = None,
    **values: object,
) -> None:
    async with catalogue.database.transaction() as tx:
        await jobs.hold(tx, claim)
        blob = await tx.session.get(Blob, claim.detail.blob, with_for_update=LOCKED)
        for name, value in values.items() if blob is not None else ():
            setattr(blob, name, value)
    # Any number of copies may have the blob.
    last: str | None = ""
    while last is not None:
        last = await _publish(catalogue, claim, change, again, last)


async def _publish(
    catalogue: Catalogue,
    claim: Claim[OfBlob],
    change: Callable[[Image], Change],
    again: timedelta | None,
    after: str,
) -> str | None:
    """Change some of the images that have a blob, and publish that. Returns the id of the last one.

    Returns None after the last image of all, when the job is finished, or due `again` later.
    """
    async with catalogue.database.transaction() as tx:
        query = select(Image).where(
            Image.blob_id == claim.detail.blob, col(Image.deleted_at).is_(None), col(Image.id) > after
        )
        query = query.order_by(col(Image.id)).limit(_AT_ONCE).with_for_update(key_share=True)
        found = (await tx.session.execute(query)).scalars().all()
        last = found[-1].id if len(found) == _AT_ONCE else None
        await jobs.hold(tx, claim)
        if last is None and again is None:
            await jobs.finish(tx, claim)
        elif last is None and again is not None:
            await jobs.requeue_in(tx, claim, delay=again, failed=False)
        for image in found:
            changed = change(image)
            if changed.aspects:
                await images.change(tx, image, changed.aspects, **changed.values)
    return last


async def check_some(database: Database) -> None:
    """Start to check the readiness of images from before that was done, the newest first: a few at a time."""
    due = (Job.kind == JobKind.CHECK_READINESS, col(Job.state) != JobState.DONE, col(Job.due_at) <= now())
    has_image = select(Image.id).where(Image.blob_id == col(Blob.id)).exists()
    unchecked = select(Blob.id).where(col(Blob.readiness).is_(None), has_image)
    async with database.read() as session:
        if (await session.execute(select(Job.id).where(*due).limit(1))).first() is not None:
            return
        found = (await session.execute(unchecked.order_by(col(Blob.id).desc()).limit(_AT_ONCE))).scalars().all()
    if found:
        async with database.transaction() as tx:
            for blob_id in found:
                jobs.start(tx, CheckReadiness(blob=blob_id))
