"""Compares the rows with the objects of the store: finds missing, orphaned and differing objects.

It can run while the gateway runs, because each finding is checked twice. An object counts as missing only if the row
that names it still exists afterwards, since rows are deleted before their objects. An object counts as orphaned only
if it is older than anything that is still being written, and no row and no pending job names it.

Everything is read in pages, so that memory does not grow with the catalogue.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement
from sqlmodel import col, select

from app.catalog import conversions, lost_bytes, sources
from app.catalog.catalogue import Catalogue
from app.errors import ObjectMissing
from app.lifecycle import FailureCode, ImageStatus
from app.models import Blob, Image, Source

_PAGE = 500
# Concurrent requests to the store.
_AT_ONCE = 16


class Problem(StrEnum):
    """The kinds of differences between rows and objects."""

    MISSING_OBJECT = "MISSING_OBJECT"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    RESTORED_OBJECT = "RESTORED_OBJECT"
    MISSING_SOURCE = "MISSING_SOURCE"
    ORPHANED_OBJECT = "ORPHANED_OBJECT"
    STALE_RESERVATION = "STALE_RESERVATION"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of an image, an object or both. Sizes are in bytes."""

    problem: Problem
    message: str
    image_id: str | None = None
    key: str | None = None
    expected_size: int | None = None
    found_size: int | None = None
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Fsck:
    """One run. Objects younger than `grace` may still be written. `owner_of` returns the key that an object belongs to.

    Without `repair`, nothing is changed.
    """

    catalogue: Catalogue
    grace: timedelta
    owner_of: Callable[[str], str]
    repair: bool = False

    async def findings(self) -> AsyncIterator[Finding]:
        """Yield all findings one by one, repaired if that was requested."""
        for check in (self._blobs, self._sources, self._objects, self._reservations):
            async for finding in check():
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
        async with self.catalogue.database.read() as session:
            return (await session.execute(query)).scalars().all()

    async def _lost(self, blob: Blob, size: int | None) -> AsyncIterator[Finding]:
        """The ACTIVE images whose bytes are missing or differ. Their rows are read after the store was asked."""
        async for image_id in self._images(Image.blob_id == blob.id, Image.status == ImageStatus.ACTIVE):
            if size is None:
                problem, message = Problem.MISSING_OBJECT, "the image is ACTIVE, but its object is missing"
            else:
                problem, message = Problem.SIZE_MISMATCH, "the image is ACTIVE, but its object has a different size"
            finding = Finding(problem, message, image_id, blob.key, blob.file_size, size)
            yield await self._repaired(finding, lambda: self._lose(finding.image_id, blob))  # noqa: B023

    async def _lose(self, image_id: str | None, blob: Blob) -> bool:
        (size,) = await self._sizes([blob.key])
        if image_id is None or size == blob.file_size:
            return False
        return await lost_bytes.lose(self.catalogue, image_id, blob.id)

    async def _restored(self, blobs: Sequence[Blob]) -> AsyncIterator[Finding]:
        """Images that an earlier run set to ERROR, and whose objects are back."""
        by_id = {blob.id: blob for blob in blobs}
        lost = (col(Image.blob_id).in_(by_id), Image.failure_code == FailureCode.DATA_LOST)
        async for image_id in self._images(*lost, Image.status == ImageStatus.ERROR):
            message = "the image is in ERROR because its object was missing, but the object is back"
            finding = Finding(Problem.RESTORED_OBJECT, message, image_id)
            yield await self._repaired(finding, lambda: lost_bytes.restore(self.catalogue, finding.image_id or ""))  # noqa: B023

    async def _sources(self) -> AsyncIterator[Finding]:
        """Images in ERROR that are marked as retriable although their uploaded bytes are missing."""
        waiting = (Image.status == ImageStatus.ERROR, col(Image.failure_retriable).is_(True), sources.is_kept())
        async for image_id in self._images(*waiting):
            async with self.catalogue.database.read() as session:
                source = await sources.kept_source(session, image_id)
            if source is None or not await self._is_gone(source):
                continue
            message = "retryImage can't succeed: the uploaded bytes are missing"
            finding = Finding(Problem.MISSING_SOURCE, message, image_id, source.key, source.size)
            yield await self._repaired(finding, lambda: lost_bytes.lose_source(self.catalogue, finding.image_id or ""))  # noqa: B023

    async def _is_gone(self, source: Source) -> bool:
        """Whether a source is missing. In a folder, a conversion may already have moved it to the key of the result."""
        found = await self._sizes([source.key, source.key_of_result])
        return found == [None, None]

    # ------------------------------------------------------------ objects without rows

    async def _objects(self) -> AsyncIterator[Finding]:
        async for key in conversions.orphans(self.catalogue, self.grace, self.owner_of):
            finding = Finding(Problem.ORPHANED_OBJECT, "no row names the object", key=key)
            yield await self._repaired(finding, lambda: self._delete(key))  # noqa: B023

    async def _delete(self, key: str) -> bool:
        await self.catalogue.store.delete(key)
        return True

    # ------------------------------------------------------------ reservations

    async def _reservations(self) -> AsyncIterator[Finding]:
        async for image_id in self._images(lost_bytes.reserved_without_source()):
            message = "the image reserves quota, but has no source that could use it"
            finding = Finding(Problem.STALE_RESERVATION, message, image_id)
            yield await self._repaired(finding, lambda: lost_bytes.free_quota(self.catalogue, finding.image_id or ""))  # noqa: B023

    # ------------------------------------------------------------

    async def _repaired(self, finding: Finding, act: Callable[[], Awaitable[bool]]) -> Finding:
        return replace(finding, repaired=await act()) if self.repair else finding

    async def _images(self, *conditions: ColumnElement[bool] | bool) -> AsyncIterator[str]:
        """Yield the ids of the images that meet the conditions and are not deleted, page by page."""
        after = ""
        while True:
            query = select(Image.id).where(col(Image.id) > after, col(Image.deleted_at).is_(None), *conditions)
            async with self.catalogue.database.read() as session:
                ids = (await session.execute(query.order_by(col(Image.id)).limit(_PAGE))).scalars().all()
            for image_id in ids:
                yield image_id
            if len(ids) < _PAGE:
                return
            after = ids[-1]

    async def _sizes(self, keys: Sequence[str]) -> list[int | None]:
        """The sizes of objects in bytes; None for missing ones."""
        slots = asyncio.Semaphore(_AT_ONCE)

        async def size(key: str) -> int | None:
            async with slots:
                try:
                    return await self.catalogue.store.size(key)
                except ObjectMissing:
                    return None

        return list(await asyncio.gather(*map(size, keys)))
