"""Runs the conversion of an assignment in an S3 store. Loaded only where there is one."""

import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.adapters.s3.bucket import Bucket
from app.boot_readiness.report import BootReadiness
from app.catalog.outcome import Outcome
from app.errors import StoreError
from app.s3_address import S3Address
from workers.convert.split_plan import SplitPlan, ranges_prefix
from workers.convert.task import ConversionTask
from workers.jobs.converters import Order, StoredBlob
from workers.limits import Limits
from workers.readiness.check import check
from workers.readiness.sources import from_bucket
from workers.store.pipeline import convert_in_store
from workers.store.range_jobs import assemble, discard_split, stream_range


class StoreConverter:
    """Converts images in an S3 store. Its folder in the machine's temporary folder contains only sockets."""

    def __init__(self, address: S3Address, limits: Limits) -> None:
        self.bucket = Bucket(address)
        self.limits = limits
        self._work = Path(tempfile.mkdtemp(prefix="images-"))
        # The unprivileged user has to reach the folders of its jobs, and need not list the others.
        os.chmod(self._work, 0o711)  # noqa: S103  # nosec B103 (see above)

    @property
    def ranges(self) -> "StoreConverter":
        """As the protocol says."""
        return self

    def convert(self, order: Order) -> Outcome | SplitPlan:
        """As the protocol says."""
        limits = order.within(self.limits)
        return convert_in_store(self._task(order), self.bucket, limits, order.report, order.cancelled)

    def undo(self, order: Order) -> None:
        """As the protocol says: abort open uploads, then delete the result and the records of ranges.

        The order does not matter, since an attempt in a store always starts over, and so does a split conversion if
        anything is missing when it is assembled. Raises StoreError.
        """
        result_key = order.assignment.result_key
        for reference in self.bucket.multiparts(result_key):
            self.bucket.abort(result_key, reference)
        for key in [result_key, *self.leftovers(result_key)]:
            self.bucket.delete(key)

    def stream_range(self, order: Order, split: SplitPlan, index: int, report_done: Callable[[int], None]) -> int:
        """Stream a range of a split conversion; `report_done` is called with the bytes done of it. See range_jobs."""
        limits = order.within(self.limits)
        return stream_range(self._task(order), split, index, self.bucket, limits, report_done, order.cancelled)

    def assemble(self, order: Order, split: SplitPlan) -> Outcome:
        """Finish a split conversion. See range_jobs."""
        return assemble(self._task(order), split, self.bucket, order.within(self.limits), order.report, order.cancelled)

    def discard_split(self, result_key: str, split: SplitPlan) -> None:
        """Delete what a split conversion has in the store, as far as the store is available."""
        with suppress(StoreError):
            discard_split(result_key, split, self.bucket)

    def check_boot(self, blob: StoredBlob, cancelled: threading.Event) -> BootReadiness:
        """As the protocol says."""
        with from_bucket(self.bucket, blob.key, blob.size) as source:
            return check(source, blob.workspace(self._work), self.limits, cancelled)

    def leftovers(self, result_key: str) -> list[str]:
        """As the protocol says: the records of ranges. Raises StoreError."""
        return [key for key, _ in self.bucket.keys(ranges_prefix(result_key))]

    def close(self) -> None:
        """As the protocol says."""
        self.bucket.close()
        shutil.rmtree(self._work, ignore_errors=True)

    def _task(self, order: Order) -> ConversionTask[str]:
        return order.task(str, self._work)
