"""How an assignment is carried out: in a folder, where the source itself may become the result, or in an S3 store."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.adapters.folder import FolderStore
from app.adapters.s3_bucket import Bucket
from app.catalog.conversions import Assignment
from app.errors import StoreError
from app.s3_address import S3Address
from workers import pipeline, receipts
from workers.examination import Report
from workers.in_store import StoreTask, convert_in_store
from workers.limits import Limits
from workers.pipeline import ConversionTask
from workers.receipts import Converted
from workers.shared_store import assemble, let_go, stream_range
from workers.sharing import Shared, ranges_prefix


@dataclass(frozen=True, slots=True)
class Order:
    """A conversion as its caller wants it: what, for whoever holds its job by this token, and until when."""

    assignment: Assignment
    job_id: str
    token: int
    report: Report
    cancelled: threading.Event

    @property
    def workspace(self) -> str:
        """The name of a folder that is this order's own."""
        return workspace_of(self.job_id, self.token)


class Converter(Protocol):
    """Carries orders out, several at a time, each in a thread of its caller."""

    def convert(self, order: Order) -> Converted | Shared:
        """Make the qcow2 of an assignment, or find that several workers should. Raises what the pipelines do."""

    def beside(self, result_key: str) -> list[str]:
        """The keys of what conversions have left beside a result; nothing of it is needed once the image is there."""

    def close(self) -> None:
        """Let go of everything. No conversion is under way any more."""


@dataclass(frozen=True, slots=True)
class FolderConverter:
    """Converts what lies in a folder."""

    store: FolderStore
    limits: Limits

    def convert(self, order: Order) -> Converted:
        """As the protocol says."""
        assignment = order.assignment
        result = self.store.path(assignment.result_key)
        result.parent.mkdir(parents=True, exist_ok=True)
        task = ConversionTask(
            source=self.store.path(assignment.source_key),
            source_size=assignment.source_size,
            result=result,
            workspace=self.store.work / order.workspace,
            declared_format=assignment.declared_format,
            declared_sha256=assignment.declared_sha256,
        )
        # What a killed attempt left holds on to the source, and so to its bytes.
        for folder in self.store.work.glob(f"{order.job_id}-*"):
            if folder != task.workspace:
                shutil.rmtree(folder, ignore_errors=True)
        return pipeline.convert(task, self.limits, order.report, order.cancelled)

    def beside(self, result_key: str) -> list[str]:
        """As the protocol says: the receipt."""
        return [receipt_of(result_key)]

    def close(self) -> None:
        """As the protocol says: there is nothing to let go of."""


class StoreConverter:
    """Converts what lies in an S3 store. The folder that it makes in the machine's temporary one holds sockets only."""

    def __init__(self, address: S3Address, limits: Limits) -> None:
        self.bucket = Bucket(address)
        self.limits = limits
        self._work = Path(tempfile.mkdtemp(prefix="images-"))
        # The unprivileged user has to get to the folders of its jobs, and need not see what else is there.
        os.chmod(self._work, 0o711)  # noqa: S103

    def convert(self, order: Order) -> Converted | Shared:
        """As the protocol says."""
        return convert_in_store(self._task(order), self.bucket, self.limits, order.report, order.cancelled)

    def stream_range(self, order: Order, shared: Shared, index: int, tell: Callable[[int], None]) -> None:
        """Do a range of a shared conversion; `tell` is called with the bytes of it done. See shared_store."""
        stream_range(self._task(order), shared, index, self.bucket, self.limits, tell, order.cancelled)

    def assemble(self, order: Order, shared: Shared) -> Converted:
        """Finish a shared conversion. See shared_store."""
        return assemble(self._task(order), shared, self.bucket, self.limits, order.report, order.cancelled)

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

    def _task(self, order: Order) -> StoreTask:
        assignment = order.assignment
        return StoreTask(
            source_key=assignment.source_key,
            source_size=assignment.source_size,
            result_key=assignment.result_key,
            workspace=self._work / order.workspace,
            declared_format=assignment.declared_format,
            declared_sha256=assignment.declared_sha256,
        )


def workspace_of(job_id: str, token: int) -> str:
    """The name of the folder that a worker has for a job, as long as it holds the job by this token."""
    return f"{job_id}-{token}"


def receipt_of(key: str) -> str:
    """The key of what a conversion in a folder writes down beside its result."""
    return key + receipts.SUFFIX


def owner_of(key: str) -> str:
    """The key of the result that something was left beside; any other key is its own."""
    return key.removesuffix(receipts.SUFFIX).partition(ranges_prefix(""))[0]
