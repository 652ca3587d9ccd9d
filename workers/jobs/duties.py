"""The jobs besides conversions: each loads its row by id, does its work and records the outcome."""

import asyncio
import hashlib
import threading
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.boot_readiness.report import BootReadiness, Note
from app.catalog import conversions, findings
from app.catalog.catalogue import Catalogue
from app.catalog.servers import booting
from app.catalog.work import jobs
from app.catalog.work.jobs import Claim, finish
from app.catalog.work.kinds import CheckReadiness, Erase, Hash, InspectHead
from app.errors import ImageFailed, ObjectMissing
from app.models import Source
from workers.errors import Cancelled
from workers.inspection.inspect import inspect_head
from workers.jobs.converters import Converter, StoredBlob

log = structlog.get_logger()

# When an image is checked again that could not be read, because its reader could not be confined.
_UNTIL_CONFINED = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Duties:
    """Does the jobs besides conversions: inspect the head of an upload, examine a result, erase bytes."""

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
        blob = await findings.blob_of(self.catalogue, claim)
        if blob is not None:
            await findings.keep_hash(self.catalogue, claim, blob.sha256 or await self._digest(blob.key, cancelled))

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

    async def check_readiness(self, claim: Claim[CheckReadiness], cancelled: threading.Event) -> None:
        """Find out whether the disk in a stored qcow2 is ready to boot."""
        blob = await findings.blob_of(self.catalogue, claim)
        if blob is None:
            return
        known = booting.readiness_of(blob)
        if known is not None and not _is_not_confined(known):
            # An earlier attempt stored it, and did not finish.
            await findings.keep_readiness(self.catalogue, claim, known)
            return
        stored = StoredBlob(blob.key, blob.file_size, claim.job_id, claim.token)
        report = await asyncio.to_thread(self.converter.check_boot, stored, cancelled)
        if not _is_not_confined(report):
            await findings.keep_readiness(self.catalogue, claim, report)
        elif known is None:
            await findings.keep_readiness(self.catalogue, claim, report, again=_UNTIL_CONFINED)
        else:
            await jobs.requeue(self.catalogue.database, claim, delay=_UNTIL_CONFINED, failed=False)

    async def give_up_readiness(self, claim: Claim[CheckReadiness]) -> None:
        """Record that nothing is known about a blob whose check was attempted too often."""
        if await findings.blob_of(self.catalogue, claim) is not None:
            await findings.keep_readiness(self.catalogue, claim, BootReadiness.unknown(Note.CHECK_FAILED))

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


def _is_not_confined(report: BootReadiness) -> bool:
    """Whether nothing was read because the reader could not be confined on its worker."""
    return Note.NOT_CONFINED in report.notes
