"""Sources: the bytes that images are converted from, kept until they are no longer needed."""

from sqlalchemy import ColumnElement, exists
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from app.catalog.work import jobs
from app.catalog.work.kinds import Erase
from app.database.sessions import Transaction
from app.lifecycle import UploadState
from app.models import Image, Source, Upload


def is_kept() -> ColumnElement[bool]:
    """The condition that an image has a source whose bytes are kept."""
    return exists().where(col(Source.image_id) == Image.id, col(Source.kept).is_(True))


async def kept_source(session: AsyncSession, image_id: str) -> Source | None:
    """The source of an image; None if its bytes are no longer kept."""
    query = select(Source).where(Source.image_id == image_id, col(Source.kept).is_(True))
    return (await session.execute(query)).scalar_one_or_none()


async def drop_source(tx: Transaction, image: Image, state: UploadState) -> None:
    """Start erasing the source of an image, whose row must be locked. An open upload ends in `state`."""
    source = await kept_source(tx.session, image.id)
    if source is None:
        return
    query = select(Upload).where(Upload.source_id == source.id, Upload.state == UploadState.OPEN)
    for upload in (await tx.session.execute(query)).scalars():
        upload.state = state
    source.kept = False
    jobs.start(tx, Erase(sources=(source.id,)))
