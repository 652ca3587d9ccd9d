"""What the workers do besides converting: each duty loads by id, does its part and writes down what came of it."""

import asyncio
import hashlib
import threading
from dataclasses import dataclass

import structlog

from app.adapters.folder.store import FolderStore
from app.catalog import conversions
from app.catalog.uploads import handle_of
from app.catalog.work.jobs import Claim, finish
from app.database.sessions import Database
from app.errors import ImageFailed, ObjectMissing
from app.models import Upload
from app.ports import ObjectStore
from workers.errors import Cancelled
from workers.inspection.inspect import inspect_head
from workers.jobs.converters import Converter

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Duties:
    """What is done for the jobs around conversions."""

    database: Database
    store: ObjectStore
    converter: Converter

    async def inspect_head(self, claim: Claim, cancelled: threading.Event) -> None:
        """Look at the beginning of an upload, so that what can't become an image is refused while it arrives."""
        async with self.database.read() as session:
            upload = await session.get(Upload, claim.detail["upload"])
        # In an S3 store, nobody can read what has not arrived as a whole.
        head = b""
        if isinstance(self.store, FolderStore) and upload is not None:
            head = await self.store.head(upload.key)
        failure: ImageFailed | None = None
        if upload is not None and head:
            try:
                await asyncio.to_thread(inspect_head, head, upload.format, upload.size)
            except ImageFailed as refused:
                failure = refused
        await conversions.refuse_early(self.database, claim, claim.detail["upload"], failure)

    async def hash(self, claim: Claim, cancelled: threading.Event) -> None:
        """Work out the SHA-256 of a stored qcow2, which also shows that the store gives back what was written."""
        blob = await conversions.blob_to_hash(self.database, claim)
        if blob is not None:
            await conversions.keep_hash(self.database, claim, blob.sha256 or await self._digest(blob.key, cancelled))

    async def _digest(self, key: str, cancelled: threading.Event) -> str:
        """The SHA-256 of an object, in hex. Raises ObjectMissing, Cancelled."""
        digest = hashlib.sha256()
        try:
            async for chunk in self.store.read(key):
                if cancelled.is_set():
                    raise Cancelled("while hashing")
                await asyncio.to_thread(digest.update, chunk)
        except ObjectMissing:
            # Deleted since; if not, the log is where an operator finds out that the store lost something.
            log.error("blob.missing", key=key)
            raise
        return digest.hexdigest()

    async def erase(self, claim: Claim, cancelled: threading.Event) -> None:
        """Free bytes that no image needs any more, and what a conversion left beside them."""
        uploads, keys = await conversions.keys_to_erase(self.database, claim)
        for upload in uploads:
            await self.store.abort_upload(handle_of(upload))
            beside = await asyncio.to_thread(self.converter.beside, upload.key_of_result)
            keys += [upload.key, *beside]
        for key in keys:
            await self.store.delete(key)
        await self.database.freeing(lambda: self._finish(claim))

    async def _finish(self, claim: Claim) -> None:
        async with self.database.transaction() as tx:
            await finish(tx, claim)
