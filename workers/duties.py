"""What the workers do, one duty per kind of job: each loads by id, does its part and writes down what came of it."""

import asyncio
import hashlib
import shutil
import threading
from dataclasses import dataclass
from datetime import timedelta

import structlog

from app.adapters.folder import FolderStore
from app.catalog import conversions
from app.catalog.conversions import Assignment, Outcome
from app.catalog.jobs import Claim, finish
from app.catalog.uploads import handle_of
from app.database import Database
from app.errors import ImageFailed, ObjectMissing
from app.lifecycle import FailureCode
from app.models import Upload
from app.ports import Wakeups
from workers import pipeline, receipts
from workers.errors import Cancelled
from workers.inspection import inspect_head
from workers.limits import Limits
from workers.pipeline import ConversionTask
from workers.telling import Telling

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Duties:
    """What is done for each kind of job. `wait` is called with how long a failed job shall rest."""

    database: Database
    store: FolderStore
    wakeups: Wakeups
    limits: Limits
    progress_seconds: float

    async def inspect_head(self, claim: Claim, cancelled: threading.Event) -> None:
        """Look at the beginning of an upload, so that what can't become an image is refused while it arrives."""
        async with self.database.read() as session:
            upload = await session.get(Upload, claim.detail["upload"])
        head = await self.store.head(upload.key) if upload is not None else b""
        failure: ImageFailed | None = None
        if upload is not None and head:
            try:
                await asyncio.to_thread(inspect_head, head, upload.format, upload.size)
            except ImageFailed as refused:
                failure = refused
        await conversions.refuse_early(self.database, claim, claim.detail["upload"], failure)

    async def convert(self, claim: Claim, cancelled: threading.Event) -> None:
        """Make a qcow2 of an upload's bytes. Raises what another attempt may mend."""
        assignment = await conversions.begin(self.database, claim)
        if assignment is None:
            return
        try:
            telling = Telling(self.wakeups, assignment.image_id, assignment.project_id, self.progress_seconds)
            async with telling.regularly():
                outcome = await asyncio.to_thread(self._converted, claim, assignment, telling, cancelled)
        except ImageFailed as failure:
            await conversions.fail(self.database, claim, assignment, failure)
        else:
            await conversions.succeed(self.database, claim, assignment, outcome)

    def _converted(self, claim: Claim, assignment: Assignment, telling: Telling, cancelled: threading.Event) -> Outcome:
        result = self.store.path(assignment.result_key)
        result.parent.mkdir(parents=True, exist_ok=True)
        task = ConversionTask(
            source=self.store.path(assignment.source_key),
            source_size=assignment.source_size,
            result=result,
            workspace=self.store.work / workspace_of(claim.job_id, claim.token),
            declared_format=assignment.declared_format,
            declared_sha256=assignment.declared_sha256,
        )
        # What a killed attempt left holds on to the source, and so to its bytes.
        for folder in self.store.work.glob(f"{claim.job_id}-*"):
            if folder != task.workspace:
                shutil.rmtree(folder, ignore_errors=True)
        made = pipeline.convert(task, self.limits, telling.report, cancelled)
        log.info("image.converted", image=assignment.image_id, way=made.way, format=made.detected_format)
        return Outcome(
            detected_format=made.detected_format,
            virtual_size=made.virtual_size,
            stored_size=made.stored_size,
            file_size=made.file_size,
            warnings=made.warnings,
        )

    async def hash(self, claim: Claim, cancelled: threading.Event) -> None:
        """Work out the SHA-256 of a stored qcow2, which also shows that the store gives back what was written."""
        key = await conversions.blob_to_hash(self.database, claim)
        if key is None:
            return
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
        await conversions.keep_hash(self.database, claim, digest.hexdigest())

    async def erase(self, claim: Claim, cancelled: threading.Event) -> None:
        """Free bytes that no image needs any more, and what a conversion left beside them."""
        uploads, keys = await conversions.keys_to_erase(self.database, claim)
        for upload in uploads:
            await self.store.abort_upload(handle_of(upload))
            keys += [upload.key, receipt_of(conversions.result_key(upload.result_id))]
        for key in keys:
            await self.store.delete(key)
        async with self.database.transaction() as tx:
            await finish(tx, claim)


def workspace_of(job_id: str, token: int) -> str:
    """The name of the folder that a worker has for a job, as long as it holds the job by this token."""
    return f"{job_id}-{token}"


def receipt_of(key: str) -> str:
    """The key of what a conversion writes down beside its result."""
    return key + receipts.SUFFIX


def owner_of(key: str) -> str:
    """The key of the result that a receipt belongs to; any other key is its own."""
    return key.removesuffix(receipts.SUFFIX)


def given_up(code: FailureCode) -> ImageFailed:
    """The failure of an image whose conversion was begun too often."""
    if code is FailureCode.STORAGE_UNAVAILABLE:
        return ImageFailed(
            code,
            "The storage could not take or give the bytes.",
            "Try again later with retryImage; the uploaded bytes are kept.",
            retriable=True,
        )
    return ImageFailed(
        code,
        "The conversion failed for a reason of the gateway's own.",
        "Try again with retryImage; the uploaded bytes are kept. If it fails again, tell the operator.",
        retriable=True,
    )


def pause(attempt: int) -> timedelta:
    """How long a job rests after its `attempt`-th failure: 1, 2, 4 … seconds, at most five minutes."""
    return timedelta(seconds=min(300, 2 ** (attempt - 1)))
