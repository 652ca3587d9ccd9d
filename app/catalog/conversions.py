"""What workers write to the catalogue: the start and the end of a conversion, and erasures.

Every write here is fenced by the claim of the job (architecture, rule 3) and may raise LeaseLost. The image's row is
locked before the job's, in the same order as by the deletion of an image, which cancels its jobs. Whatever counts
against a quota is written with the project's row locked before both.
"""

from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog import activation, images, quotas, sources
from app.catalog.catalogue import Catalogue
from app.catalog.outcome import Outcome
from app.catalog.people.tenancy import LOCKED
from app.catalog.uploads import NO_FAILURE, give_up, handle_of
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import Conversion, Erase, InspectHead
from app.errors import ImageFailed
from app.lifecycle import DiskFormat, ImageStatus, JobKind, JobState, UploadState
from app.models import Blob, Capture, Image, Job, Project, Source, Upload, now
from app.object_keys import id_of_blob_before_0006, is_ours
from app.ports import UploadHandle

_AT_ONCE = 1000  # maximum values of one IN


@dataclass(frozen=True, slots=True)
class Assignment:
    """What to convert: object keys, the declared format, sizes in bytes and the file's declared SHA-256.

    `room` is how many bytes the result could take when this was read; `succeed` checks it again.
    """

    image_id: str
    project_id: str
    source_id: str
    source_key: str
    source_size: int
    result_id: str
    result_key: str
    declared_format: DiskFormat
    declared_sha256: str | None
    room: int


async def begin(catalogue: Catalogue, claim: Claim[Conversion]) -> Assignment | None:
    """Begin a conversion and set its image to SAVING. Returns None when nothing is left to do."""
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get(Image, claim.image_id, with_for_update=LOCKED)
        source = await tx.session.get(Source, claim.detail.source)
        if image is None or source is None or image.deleted_at or not source.kept:
            await jobs.finish(tx, claim)
            return None
        await jobs.hold(tx, claim)
        if image.status == ImageStatus.QUEUED:
            await images.move(tx, image, ImageStatus.SAVING, **NO_FAILURE)
        return Assignment(
            image_id=image.id,
            project_id=image.project_id,
            source_id=source.id,
            source_key=source.key,
            source_size=source.size,
            result_id=source.result_id,
            result_key=source.key_of_result,
            declared_format=source.declared_format,
            declared_sha256=source.declared_sha256,
            room=await quotas.room_of(tx.session, image, catalogue.settings),
        )


async def succeed(catalogue: Catalogue, claim: Claim[Conversion], assignment: Assignment, outcome: Outcome) -> None:
    """Set an image whose result is stored and verified to ACTIVE, drop its source, and start the jobs that examine it.

    Raises ImageFailed when the project has no room for it; then nothing is written, and the job is still held.
    """
    async with catalogue.database.transaction() as tx:
        # The lock makes conversions of a project check one after the other how much room is left.
        await tx.session.get_one(Project, assignment.project_id, with_for_update=LOCKED)
        image = await tx.session.get_one(Image, assignment.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        if outcome.stored_size > await quotas.room_of(tx.session, image, catalogue.settings):
            raise await quotas.overrun(tx.session, image, catalogue.settings, outcome.stored_size)
        blob = Blob(
            id=assignment.result_id,
            key=assignment.result_key,
            virtual_size=outcome.virtual_size,
            stored_size=outcome.stored_size,
            file_size=outcome.file_size,
        )
        await activation.activate(
            tx, image, blob, source_detected_format=outcome.detected_format, warnings=list(outcome.warnings)
        )
        await sources.drop_source(tx, image, UploadState.COMPLETED)


async def fail(catalogue: Catalogue, claim: Claim[Conversion], assignment: Assignment, failure: ImageFailed) -> None:
    """Set the image of a failed conversion to ERROR. The source is kept for a retry."""
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get_one(Image, assignment.image_id, with_for_update=LOCKED)
        await jobs.finish(tx, claim)
        await images.fail(tx, image, failure)


async def refuse_early(catalogue: Catalogue, claim: Claim[InspectHead], failure: ImageFailed | None) -> None:
    """Finish the inspection of an upload's beginning; with a failure, refuse the upload before the rest arrives."""
    async with catalogue.database.transaction() as tx:
        image = await tx.session.get(Image, claim.image_id, with_for_update=LOCKED)
        query = select(Upload).where(Upload.source_id == claim.detail.source, Upload.state == UploadState.OPEN)
        upload = (await tx.session.execute(query)).scalar_one_or_none()
        await jobs.finish(tx, claim)
        if failure is not None and image is not None and upload is not None:
            await give_up(tx, image, UploadState.REFUSED, failure)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an ERASE job has to free: uploads that may be open in the store, objects, and files next to results."""

    uploads: list[UploadHandle]
    keys: list[str]
    results: list[str]


async def to_erase(catalogue: Catalogue, claim: Claim[Erase]) -> Erasure:
    """What an ERASE job has to free.

    For each source, this includes the result of a conversion that ended too late to be used.
    """
    ids = claim.detail.sources
    async with catalogue.database.read() as session:
        found = (await session.execute(select(Source).where(col(Source.id).in_(ids)))).scalars().all()
        uploads = (await session.execute(select(Upload).where(col(Upload.source_id).in_(ids)))).scalars().all()
        results = [source.key_of_result for source in found]
        blobs = set((await session.execute(select(Blob.key).where(col(Blob.key).in_(results)))).scalars())
    unwanted = [key for key in results if key not in blobs]
    keys = [*claim.detail.keys, *unwanted, *(source.key for source in found)]
    return Erasure([handle_of(upload) for upload in uploads], keys, results)


async def orphans(catalogue: Catalogue, age: timedelta, owner_of: Callable[[str], str]) -> AsyncIterator[str]:
    """Keys of objects and open uploads that have not changed for `age`, and whose owner no row names.

    `owner_of` returns the key that an object belongs to. Other programs' objects in the same store are ignored. Raises
    StoreUnavailable.
    """
    async for batch in catalogue.store.batches():
        before = now() - age
        owners = {key: owner_of(key) for key, changed in batch if changed < before and is_ours(key)}
        if not owners:
            continue
        # Read after the objects were listed: an object gets its row before it is older than `age`.
        named = await named_keys(catalogue, set(owners.values()))
        for key in [key for key, owner in owners.items() if owner not in named]:
            yield key


async def named_keys(catalogue: Catalogue, keys: Collection[str]) -> set[str]:
    """The keys that a row names, or that a job is about to erase."""
    old_ids = [blob_id for key in keys if (blob_id := id_of_blob_before_0006(key))]
    of_source = or_(
        col(Source.key).in_(keys),
        col(Source.result_key).in_(keys),
        and_(col(Source.result_key).is_(None), col(Source.result_id).in_(old_ids)),
    )
    async with catalogue.database.read() as session:
        named = set((await session.execute(select(Blob.key).where(col(Blob.key).in_(keys)))).scalars())
        captured = select(Capture.result_key).where(col(Capture.result_key).in_(keys))
        named |= set((await session.execute(captured)).scalars())
        kept = select(Source).where(of_source, col(Source.kept).is_(True))
        for source in (await session.execute(kept)).scalars():
            named |= {source.key, source.key_of_result}
        if named.issuperset(keys):
            return named
        return named | await _keys_being_erased(session)


async def _keys_being_erased(session: AsyncSession) -> set[str]:
    query = select(Job.detail).where(Job.kind == JobKind.ERASE, col(Job.state) != JobState.DONE)
    details = [Erase.from_row(row) for row in (await session.execute(query)).scalars()]
    ids = [source for detail in details for source in detail.sources]
    keys = {key for detail in details for key in detail.keys}
    for start in range(0, len(ids), _AT_ONCE):
        chunk = select(Source).where(col(Source.id).in_(ids[start : start + _AT_ONCE]))
        for source in (await session.execute(chunk)).scalars():
            keys |= {source.key, source.key_of_result}
    return keys
