"""The jobs besides conversions: each loads its row by id, does its work and records the outcome."""

import asyncio
import hashlib
import threading
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from app.catalog import conversions
from app.catalog.catalogue import Catalogue
from app.catalog.work.jobs import Claim, finish
from app.catalog.work.kinds import Erase, Hash, InspectHead
from app.errors import ImageFailed, ObjectMissing
from app.models import Source
from workers.errors import Cancelled
from workers.inspection.inspect import inspect_head
from workers.jobs.converters import Converter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Duties:
    """Does the jobs besides conversions: inspect the head of an upload, hash a result, erase bytes."""

    catalogue: Catalogue
    converter: Converter

    async def inspect_head(self, claim: Claim[InspectHead], cancelled: threading.Event) -> None:
        """Inspect the beginning of an upload, to refuse an unsuitable file while it still arrives."""
        async with self.catalogue.database.read() as session:
            source = await session.get(Source, claim.detail.source)
        failure = None if source is None else await self._head_failure(source)
        await conversions.refuse_early(self.catalogue, claim, failure)

    async def _head_failure(self, source: Source) -> ImageFailed | None:
        """Why the first bytes of a source can't become an image; None if they can, or can't be read yet."""
        head = await self.catalogue.store.head(source.key)
        if not head:
            return None
        try:
            await asyncio.to_thread(inspect_head, head, source.declared_format, source.size)
        except ImageFailed as refused:
            return refused
        return None

    async def hash(self, claim: Claim[Hash], cancelled: threading.Event) -> None:
        """Compute the SHA-256 of a stored qcow2, which also shows that the store can return it in full."""
        blob = await conversions.blob_to_hash(self.catalogue, claim)
        if blob is not None:
            await conversions.keep_hash(self.catalogue, claim, blob.sha256 or await self._digest(blob.key, cancelled))

    async def _digest(self, key: str, cancelled: threading.Event) -> str:
        """The SHA-256 of an object, in hex. Raises ObjectMissing, Cancelled."""
        digest = hashlib.sha256()
        try:
            async with aclosing(self.catalogue.store.read(key)) as chunks:
                async for chunk in chunks:
                    if cancelled.is_set():
                        raise Cancelled("while hashing")
                    await asyncio.to_thread(digest.update, chunk)
        except ObjectMissing:
            # Deleted meanwhile; if not, this log entry tells an operator that the store lost an object.
            log.error("blob.missing", key=key)
            raise
        return digest.hexdigest()

    async def erase(self, claim: Claim[Erase], cancelled: threading.Event) -> None:
        """Delete bytes that no image needs, and what a conversion left next to them."""
        erasure = await conversions.to_erase(self.catalogue, claim)
        for upload in erasure.uploads:
            await self.catalogue.store.abort_upload(upload)
        leftovers = [key for result in erasure.results for key in await self._leftovers(result)]
        for key in [*erasure.keys, *leftovers]:
            await self.catalogue.store.delete(key)
        await self.catalogue.database.freeing(lambda: self._finish(claim))

    async def _leftovers(self, result_key: str) -> list[str]:
        return await asyncio.to_thread(self.converter.leftovers, result_key)

    async def _finish(self, claim: Claim[Erase]) -> None:
        async with self.catalogue.database.transaction() as tx:
            await finish(tx, claim)
