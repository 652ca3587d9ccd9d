"""How an assignment is carried out: in a folder, where the source itself may become the result, or in an S3 store."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from app.adapters.folder.store import FolderStore
from app.adapters.s3.bucket import Bucket
from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome
from app.errors import StoreError
from app.s3_address import S3Address
from workers.convert.examination import Report
from workers.convert.task import ConversionTask, Where
from workers.folder import pipeline, receipts
from workers.folder.undoing import undo
from workers.limits import Limits
from workers.store.pipeline import convert_in_store
from workers.store.range_jobs import assemble, let_go, stream_range
from workers.store.ranges import Shared, ranges_prefix


@dataclass(frozen=True, slots=True)
class Order:
    """A conversion as its caller wants it: what, for whoever holds its job by this token, and until when."""

    assignment: Assignment
    job_id: str
    token: int
    report: Report
    cancelled: threading.Event

    def task(self, place: Callable[[str], Where], work: Path) -> ConversionTask[Where]:
        """The same for a pipeline, to which `place` names what has a key. It gets a folder of its own in `work`."""
        assignment = self.assignment
        return ConversionTask(
            source=place(assignment.source_key),
            source_size=assignment.source_size,
            result=place(assignment.result_key),
            workspace=work / workspace_of(self.job_id, self.token),
            declared_format=assignment.declared_format,
            declared_sha256=assignment.declared_sha256,
        )

    def within(self, limits: Limits) -> Limits:
        """The limits of a worker, and the room that there is for this result."""
        return replace(limits, max_stored_size=self.assignment.room)


class Converter(Protocol):
    """Carries orders out, several at a time, each in a thread of its caller."""

    @property
    def ranges(self) -> "StoreConverter | None":
        """What converts ranges of a conversion that is split; None where none ever is."""

    def convert(self, order: Order) -> Outcome | Shared:
        """Make the qcow2 of an assignment, or find that several workers should. Raises what the pipelines do."""

    def undo(self, order: Order) -> None:
        """Free whatever conversions have made of an assignment: its source is left, as it was uploaded.

        It destroys a result, so the order's job has to be held, by a lease that has just been renewed, and no other
        job of the image may be. Killed at any moment, it leaves something from which the next attempt goes on.
        Harmless when there is nothing to free. Raises what the pipelines do.
        """

    def beside(self, result_key: str) -> list[str]:
        """The keys of what conversions have left beside a result; nothing of it is needed once the image is there."""

    def close(self) -> None:
        """Let go of everything. No conversion is under way any more."""


@dataclass(frozen=True, slots=True)
class FolderConverter:
    """Converts what lies in a folder."""

    store: FolderStore
    limits: Limits

    @property
    def ranges(self) -> None:
        """As the protocol says: a folder is on one machine."""

    def convert(self, order: Order) -> Outcome:
        """As the protocol says."""
        task = self._task(order)
        task.result.parent.mkdir(parents=True, exist_ok=True)
        # What a killed attempt left holds on to the source, and so to its bytes.
        for folder in self.store.work.glob(f"{order.job_id}-*"):
            if folder != task.workspace:
                shutil.rmtree(folder, ignore_errors=True)
        return pipeline.convert(task, order.within(self.limits), order.report, order.cancelled)

    def undo(self, order: Order) -> None:
        """As the protocol says. See undoing."""
        task = self._task(order)
        undo(task.source, task.source_size, task.result)

    def beside(self, result_key: str) -> list[str]:
        """As the protocol says: the receipt."""
        return [receipt_of(result_key)]

    def close(self) -> None:
        """As the protocol says: there is nothing to let go of."""

    def _task(self, order: Order) -> ConversionTask[Path]:
        return order.task(self.store.path, self.store.work)


class StoreConverter:
    """Converts what lies in an S3 store. The folder that it makes in the machine's temporary one holds sockets only."""

    def __init__(self, address: S3Address, limits: Limits) -> None:
        self.bucket = Bucket(address)
        self.limits = limits
        self._work = Path(tempfile.mkdtemp(prefix="images-"))
        # The unprivileged user has to get to the folders of its jobs, and need not see what else is there.
        os.chmod(self._work, 0o711)  # noqa: S103  # nosec B103 (see above)

    @property
    def ranges(self) -> "StoreConverter":
        """As the protocol says."""
        return self

    def convert(self, order: Order) -> Outcome | Shared:
        """As the protocol says."""
        limits = order.within(self.limits)
        return convert_in_store(self._task(order), self.bucket, limits, order.report, order.cancelled)

    def undo(self, order: Order) -> None:
        """As the protocol says: what is open is aborted, and then result and ranges are deleted.

        In any order, since an attempt within a store begins anew, and one that was to assemble does so when anything
        is missing. Raises StoreError.
        """
        result_key = order.assignment.result_key
        for reference in self.bucket.multiparts(result_key):
            self.bucket.abort(result_key, reference)
        for key in [result_key, *self.beside(result_key)]:
            self.bucket.delete(key)

    def stream_range(self, order: Order, shared: Shared, index: int, tell: Callable[[int], None]) -> int:
        """Do a range of a shared conversion; `tell` is called with the bytes of it done. See shared_store."""
        limits = order.within(self.limits)
        return stream_range(self._task(order), shared, index, self.bucket, limits, tell, order.cancelled)

    def assemble(self, order: Order, shared: Shared) -> Outcome:
        """Finish a shared conversion. See shared_store."""
        return assemble(
            self._task(order), shared, self.bucket, order.within(self.limits), order.report, order.cancelled
        )

    def let_go(self, result_key: str, shared: Shared) -> None:
        """Give up what a shared conversion has in the store, as far as that answers."""
        with suppress(StoreError):
            let_go(result_key, shared, self.bucket)

    def beside(self, result_key: str) -> list[str]:
        """As the protocol says: what is written down about ranges. Raises StoreError."""
        return [key for key, _ in self.bucket.keys(ranges_prefix(result_key))]

    def close(self) -> None:
        """As the protocol says."""
        self.bucket.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _task(self, order: Order) -> ConversionTask[str]:
        return order.task(str, self._work)


def workspace_of(job_id: str, token: int) -> str:
    """The name of the folder that a worker has for a job, as long as it holds the job by this token."""
    return f"{job_id}-{token}"


def receipt_of(key: str) -> str:
    """The key of what a conversion in a folder writes down beside its result."""
    return key + receipts.SUFFIX


def owner_of(key: str) -> str:
    """The key of the result that something was left beside; any other key is its own."""
    return key.removesuffix(receipts.SUFFIX).partition(ranges_prefix(""))[0]
