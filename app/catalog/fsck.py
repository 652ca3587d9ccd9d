"""Compares the rows with the objects of the store: what one names and the other lacks, and what they disagree on.

It may run beside the gateway. What it reports is looked at again: an object is called missing only when the row that
names it is still there afterwards, since rows go before their objects do; and an object is called orphaned only when
it is older than whatever is still being written, and no row and no pending job names it.

All is read by pages, so that memory does not grow with the catalogue.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement
from sqlmodel import col, select

from app.catalog import conversions, lost_bytes, sources
from app.database.sessions import Database
from app.errors import ObjectMissing
from app.lifecycle import FailureCode, ImageStatus
from app.models import Blob, Image, Source
from app.ports import ObjectStore

_PAGE = 500
# Objects that the store is asked about at once.
_AT_ONCE = 16


class Problem(StrEnum):
    """What can be wrong between the rows and the objects."""

    MISSING_OBJECT = "MISSING_OBJECT"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    RESTORED_OBJECT = "RESTORED_OBJECT"
    MISSING_SOURCE = "MISSING_SOURCE"
    ORPHANED_OBJECT = "ORPHANED_OBJECT"
    STALE_RESERVATION = "STALE_RESERVATION"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, about an image or an object or both. Sizes are bytes."""

    problem: Problem
    message: str
    image_id: str | None = None
    key: str | None = None
    expected_size: int | None = None
    found_size: int | None = None
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Fsck:
    """One run. Objects younger than `grace` may still be written. `owner_of` gives the key that an object belongs to.

    Without `repair` nothing is changed.
    """

    database: Database
    store: ObjectStore
    grace: timedelta
    owner_of: Callable[[str], str]
    repair: bool = False

    async def findings(self) -> AsyncIterator[Finding]:
        """Everything that is wrong, one by one, repaired where that was asked for."""
        for look in (self._blobs, self._sources, self._objects, self._reservations):
            async for finding in look():
                yield finding

    # ------------------------------------------------------------ rows without objects

    async def _blobs(self) -> AsyncIterator[Finding]:
        after = ""
        while blobs := await self._page_of_blobs(after):
            after = blobs[-1].id
            sizes = await self._sizes([blob.key for blob in blobs])
            whole = [blob for blob, size in zip(blobs, sizes, strict=True) if size == blob.file_size]
            for blob, size in zip(blobs, sizes, strict=True):
                if size != blob.file_size:
                    async for finding in self._lost(blob, size):
                        yield finding
            async for finding in self._restored(whole):
                yield finding

    async def _page_of_blobs(self, after: str) -> Sequence[Blob]:
        query = select(Blob).where(col(Blob.id) > after).order_by(col(Blob.id)).limit(_PAGE)
        async with self.database.read() as session:
            return (await session.execute(query)).scalars().all()

    async def _lost(self, blob: Blob, size: int | None) -> AsyncIterator[Finding]:
        """The ACTIVE images whose bytes are not there. Their rows are read after the store was asked."""
        async for image_id in self._images(Image.blob_id == blob.id, Image.status == ImageStatus.ACTIVE):
            if size is None:
                problem, message = Problem.MISSING_OBJECT, "the image is ACTIVE, and its object is missing"
            else:
                problem, message = Problem.SIZE_MISMATCH, "the image is ACTIVE, and its object has another size"
            finding = Finding(problem, message, image_id, blob.key, blob.file_size, size)
            yield await self._repaired(finding, lambda: self._lose(finding.image_id, blob))  # noqa: B023

    async def _lose(self, image_id: str | None, blob: Blob) -> bool:
        (size,) = await self._sizes([blob.key])
        if image_id is None or size == blob.file_size:
            return False
        return await lost_bytes.lose(self.database, image_id, blob.id)

    async def _restored(self, blobs: Sequence[Blob]) -> AsyncIterator[Finding]:
        """Images that an earlier run has set to ERROR, and whose objects are there again."""
        by_id = {blob.id: blob for blob in blobs}
        lost = (col(Image.blob_id).in_(by_id), Image.failure_code == FailureCode.DATA_LOST)
        async for image_id in self._images(*lost, Image.status == ImageStatus.ERROR):
            message = "the image is in ERROR for its missing object, which is there again"
            finding = Finding(Problem.RESTORED_OBJECT, message, image_id)
            yield await self._repaired(finding, lambda: lost_bytes.restore(self.database, finding.image_id or ""))  # noqa: B023

    async def _sources(self) -> AsyncIterator[Finding]:
        """Images in ERROR that could be converted again, but for their uploaded bytes, which are missing."""
        waiting = (Image.status == ImageStatus.ERROR, col(Image.failure_retriable).is_(True), sources.is_kept())
        async for image_id in self._images(*waiting):
            async with self.database.read() as session:
                source = await sources.kept_source(session, image_id)
            if source is None or not await self._is_gone(source):
                continue
            message = "retryImage can't help: the uploaded bytes are missing"
            finding = Finding(Problem.MISSING_SOURCE, message, image_id, source.key, source.size)
            yield await self._repaired(finding, lambda: lost_bytes.lose_source(self.database, finding.image_id or ""))  # noqa: B023

    async def _is_gone(self, source: Source) -> bool:
        """A conversion in a folder turns the source into the result, under whose key it may be found as well."""
        found = await self._sizes([source.key, source.key_of_result])
        return found == [None, None]

    # ------------------------------------------------------------ objects without rows

    async def _objects(self) -> AsyncIterator[Finding]:
        async for key in conversions.orphans(self.database, self.store, self.grace, self.owner_of):
            finding = Finding(Problem.ORPHANED_OBJECT, "no row names the object", key=key)
            yield await self._repaired(finding, lambda: self._delete(key))  # noqa: B023

    async def _delete(self, key: str) -> bool:
        await self.store.delete(key)
        return True

    # ------------------------------------------------------------ reservations

    async def _reservations(self) -> AsyncIterator[Finding]:
        async for image_id in self._images(lost_bytes.reserved_by_nothing()):
            message = "the image reserves quota, and has no source that could use it"
            finding = Finding(Problem.STALE_RESERVATION, message, image_id)
            yield await self._repaired(finding, lambda: lost_bytes.free_quota(self.database, finding.image_id or ""))  # noqa: B023

    # ------------------------------------------------------------

    async def _repaired(self, finding: Finding, act: Callable[[], Awaitable[bool]]) -> Finding:
        return replace(finding, repaired=await act()) if self.repair else finding

    async def _images(self, *conditions: ColumnElement[bool] | bool) -> AsyncIterator[str]:
        """The ids of the images that are not deleted and meet the conditions, page by page."""
        after = ""
        while True:
            query = select(Image.id).where(col(Image.id) > after, col(Image.deleted_at).is_(None), *conditions)
            async with self.database.read() as session:
                ids = (await session.execute(query.order_by(col(Image.id)).limit(_PAGE))).scalars().all()
            for image_id in ids:
                yield image_id
            if len(ids) < _PAGE:
                return
            after = ids[-1]

    async def _sizes(self, keys: Sequence[str]) -> list[int | None]:
        """How many bytes the objects have; None for those that are missing."""
        turns = asyncio.Semaphore(_AT_ONCE)

        async def size(key: str) -> int | None:
            async with turns:
                try:
                    return await self.store.size(key)
                except ObjectMissing:
                    return None

        return list(await asyncio.gather(*map(size, keys)))
