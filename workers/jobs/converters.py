"""Runs the conversion of an assignment in a folder, where the source may become the result.

`store_converter` does it in an S3 store.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.adapters.folder.store import FolderStore
from app.boot_readiness.report import BootReadiness
from app.catalog.conversions import Assignment
from app.catalog.outcome import Outcome
from workers.convert.examination import Report
from workers.convert.split_plan import SplitPlan, ranges_prefix
from workers.convert.task import ConversionTask, Where
from workers.convert.workspaces import remove_others, workspace_of
from workers.folder import pipeline, receipts
from workers.folder.undoing import undo
from workers.limits import Limits
from workers.readiness.check import check
from workers.readiness.sources import from_file

if TYPE_CHECKING:
    from workers.jobs.store_converter import StoreConverter


@dataclass(frozen=True, slots=True)
class Order:
    """A conversion to run: its assignment, the job and the token of its lease, and the event that cancels it."""

    assignment: Assignment
    job_id: str
    token: int
    report: Report
    cancelled: threading.Event

    def task(self, place: Callable[[str], Where], work: Path) -> ConversionTask[Where]:
        """The task for a pipeline, with its own folder in `work`. `place` turns a key into a path or an S3 key."""
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
        """A worker's limits with the room, in bytes, that there is for this result."""
        return replace(limits, max_stored_size=self.assignment.room)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A stored qcow2 of `size` bytes, and the job that reads it, with the token of its lease."""

    key: str
    size: int
    job_id: str
    token: int

    def workspace(self, work: Path) -> Path:
        """The job's own folder in `work`."""
        return work / workspace_of(self.job_id, self.token)


class Converter(Protocol):
    """Runs orders, several at a time, each in a thread of its caller."""

    @property
    def ranges(self) -> "StoreConverter | None":
        """The converter for ranges of a split conversion; None if conversions are never split."""

    def convert(self, order: Order) -> Outcome | SplitPlan:
        """Convert an assignment to qcow2, or plan to split it among several workers. Raises what the pipelines do."""

    def undo(self, order: Order) -> None:
        """Delete everything that conversions made of an assignment; the source stays as it was uploaded.

        It destroys a result, so the caller must hold the order's job by a lease that was just renewed, and no other job
        of the image may be held. Killed at any moment, it leaves a state from which the next attempt continues. Does
        nothing if there is nothing to delete. Raises what the pipelines do.
        """

    def check_boot(self, blob: StoredBlob, cancelled: threading.Event) -> BootReadiness:
        """Describe the disk in a stored qcow2; blocks. What can't be read is UNKNOWN. Raises what `check` does."""

    def leftovers(self, result_key: str) -> list[str]:
        """The keys of what conversions left next to a result; they are not needed once the image is ACTIVE."""

    def close(self) -> None:
        """Release all resources. No conversion may be running."""


@dataclass(frozen=True, slots=True)
class FolderConverter:
    """Converts images in a folder store."""

    store: FolderStore
    limits: Limits

    @property
    def ranges(self) -> None:
        """As the protocol says: a folder is on one machine."""

    def convert(self, order: Order) -> Outcome:
        """As the protocol says."""
        task = self._task(order)
        task.result.parent.mkdir(parents=True, exist_ok=True)
        # A folder left by a killed attempt holds a link to the source, which keeps its bytes on disk.
        remove_others(task.workspace)
        return pipeline.convert(task, order.within(self.limits), order.report, order.cancelled)

    def undo(self, order: Order) -> None:
        """As the protocol says. See undoing."""
        task = self._task(order)
        undo(task.source, task.source_size, task.result)

    def check_boot(self, blob: StoredBlob, cancelled: threading.Event) -> BootReadiness:
        """As the protocol says."""
        with from_file(self.store.path(blob.key), blob.size) as source:
            return check(source, blob.workspace(self.store.work), self.limits, cancelled)

    def leftovers(self, result_key: str) -> list[str]:
        """As the protocol says: the receipt."""
        return [receipt_of(result_key)]

    def close(self) -> None:
        """As the protocol says: there is nothing to release."""

    def _task(self, order: Order) -> ConversionTask[Path]:
        return order.task(self.store.path, self.store.work)


def receipt_of(key: str) -> str:
    """The key of the receipt that a conversion in a folder writes next to its result."""
    return key + receipts.SUFFIX


def owner_of(key: str) -> str:
    """The key of the result that a receipt or a range record belongs to; any other key is returned unchanged."""
    return key.removesuffix(receipts.SUFFIX).partition(ranges_prefix(""))[0]
