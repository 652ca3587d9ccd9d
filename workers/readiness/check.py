"""Checks the boot readiness of a stored qcow2: qemu-nbd reads the image, and a confined reader reads its disk."""

import threading
from pathlib import Path

import structlog

from app.boot_readiness.report import BootReadiness, Note
from app.sizes import GIB
from workers.errors import NotConfined, QemuError, QemuMissing
from workers.limits import Bounds, Limits
from workers.qemu import img
from workers.qemu.nbd import export
from workers.readiness.confined import read_confined
from workers.readiness.validation import InvalidReport, validated
from workers.store.sandbox import StoredSandbox
from workers.store.source import StoredSource

log = structlog.get_logger(__name__)

_EXPORT_BOUNDS = Bounds(memory=1 * GIB, cpu_seconds=60, wall_seconds=180)


def check(source: StoredSource, workspace: Path, limits: Limits, cancelled: threading.Event) -> BootReadiness:
    """Describe the disk in a stored qcow2; blocks. What can't be read is UNKNOWN, never an error.

    `workspace` is a path for a folder of its own, which is deleted at the end. Raises Cancelled once `cancelled` is
    set, and the error of the source if the store can't be read: StoreError, OSError, SourceDamaged.
    """
    try:
        with StoredSandbox(workspace, source, limits, cancelled) as sandbox:
            return _checked(sandbox)
    except (NotConfined, QemuMissing) as error:
        log.warning("readiness.not_confined", reason=str(error))
        return BootReadiness.unknown(Note.NOT_CONFINED)
    except (QemuError, InvalidReport) as error:
        log.warning("readiness.failed", reason=str(error))
        return BootReadiness.unknown(Note.CHECK_FAILED)


def _checked(sandbox: StoredSandbox) -> BootReadiness:
    bubblewrap = sandbox.confinement.bubblewrap
    if bubblewrap is None:
        raise NotConfined("bubblewrap is missing, is not used, or can't create namespaces here")
    with export(sandbox, img.source("qcow2").on_socket(), _EXPORT_BOUNDS) as running, running.dial() as connection:
        return validated(read_confined(sandbox, bubblewrap, connection))
