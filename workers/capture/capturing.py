"""Captures a point of a volume into the object store, whichever kind it is."""

import structlog

from app.adapters.chosen import Storage
from app.adapters.folder.store import FolderStore
from app.adapters.s3.bucket import Bucket
from app.adapters.s3.store import S3Store
from workers.capture.in_folder import capture_in_folder
from workers.capture.in_store import capture_in_store
from workers.capture.task import Captured, CaptureTask
from workers.errors import UnsoundResult
from workers.limits import Limits

log = structlog.get_logger(__name__)


def capture(storage: Storage, task: CaptureTask, limits: Limits) -> Captured:
    """Store a point in time of a volume as a complete, separate qcow2; blocks. May be repeated.

    Raises PointLost; Cancelled; StoreError; UnsoundResult and QemuError for unexpected failures; and what the task's
    functions raise. After an error, nothing is left in the store; after a kill, nothing once it was repeated.
    """
    try:
        return _capture(storage, task, limits, whole=False)
    except UnsoundResult as error:
        if task.base is None:
            raise
        log.warning("capture.unsound", reason=str(error), retried_by="whole")
    return _capture(storage, task, limits, whole=True)


def _capture(storage: Storage, task: CaptureTask, limits: Limits, *, whole: bool) -> Captured:
    def in_store(store: S3Store) -> Captured:
        bucket = Bucket(store.address)
        try:
            return capture_in_store(task, bucket, limits, whole=whole)
        finally:
            bucket.close()

    def in_folder(store: FolderStore) -> Captured:
        return capture_in_folder(task, store, limits, whole=whole)

    return storage.by_kind(in_folder, in_store)
