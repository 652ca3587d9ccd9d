"""Checks the boot readiness of a stored qcow2: qemu-nbd reads the image, and a confined reader reads its disk."""

import threading
from pathlib import Path

from app.boot_readiness.report import BootReadiness, Note
from workers.limits import Limits
from workers.store.source import StoredSource


def check(source: StoredSource, workspace: Path, limits: Limits, cancelled: threading.Event) -> BootReadiness:
    """Describe the disk in a stored qcow2; blocks. What can't be read is UNKNOWN, never an error.

    `workspace` is a path for a folder of its own, which is deleted at the end. Raises Cancelled once `cancelled` is
    set, and the error of the source if the store can't be read: StoreError, OSError.
    """
    return BootReadiness.unknown(Note.NOT_CONFINED)
