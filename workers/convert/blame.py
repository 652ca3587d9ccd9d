"""Who is to blame when qemu-img does not do what it should: the image, the disk being full, or ourselves."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.errors import ImageFailed
from workers.errors import QemuRefused, QemuStopped, QemuTimedOut
from workers.inspection.refusals import CONVERT_FIRST, corrupt, over_quota, storage_full, too_large

log = structlog.get_logger(__name__)

# By these a process ends that ran into its limits or crashed; by others it was told to end.
_SELF_INFLICTED = {
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGSEGV,
    signal.SIGSYS,
    signal.SIGTRAP,
    signal.SIGXCPU,
}
_RETRY = f"Retry once. If it fails again: {CONVERT_FIRST}"


@contextmanager
def blaming_image(*, at_quota: bool = False) -> Iterator[None]:
    """While qemu-img reads a source: what it refuses, chokes on or never ends with is the image's own fault.

    `at_quota`: what it writes may become as long as the project has room for, and no longer. Turns those errors into
    ImageFailed; what is unexpected (QemuFailed, QemuMissing) stays what it is.
    """
    try:
        yield
    except QemuRefused as refusal:
        log.info("qemu-img refused a source", stderr=refusal.stderr)
        raise _refused(refusal, at_quota) from refusal
    except QemuTimedOut as overrun:
        log.warning("qemu-img took too long over a source", reason=str(overrun))
        raise corrupt("Reading this image took longer than it may.", _RETRY, retriable=True) from overrun
    except QemuStopped as stop:
        log.warning("qemu-img was stopped over a source", reason=str(stop))
        if stop.signal == signal.SIGXFSZ:
            raise _copy_too_long(at_quota) from stop
        if stop.signal not in _SELF_INFLICTED:
            raise
        message = "Reading this image took more memory or time than it may, or made the reader crash."
        raise corrupt(message, _RETRY, retriable=True) from stop


@contextmanager
def storage_may_fill_up() -> Iterator[None]:
    """Turn a full disk, or a used-up disk quota, into the ImageFailed that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise storage_full() from error


def _refused(refusal: QemuRefused, at_quota: bool) -> ImageFailed:
    if "No space left on device" in refusal.stderr:
        return storage_full()
    if "File too large" in refusal.stderr:
        return _copy_too_long(at_quota) if refusal.subcommand == "convert" else _too_large_for_format()
    if "log that needs to be replayed" in refusal.stderr:
        return corrupt(
            "This VHDX was not closed properly: its log has changes that are not in the disk yet.",
            "Shut its virtual machine down, or repair it with `qemu-img check -r all FILE`, and upload it again.",
        )
    return corrupt("This image can't be read: it is damaged or cut off.")


def _copy_too_long(at_quota: bool) -> ImageFailed:
    """The failure of an image whose result would become longer than it may."""
    if at_quota:
        return over_quota()
    return too_large(
        "Converted, this image would take more room than there is for it.",
        "Shrink the disk and upload it again, or ask the operator to make room for larger files.",
    )


def _too_large_for_format() -> ImageFailed:
    return too_large(
        "The disk in this image is larger than its format can hold.",
        "Compare the file with its original and upload it again. If they are the same, convert it with the program "
        "that wrote it to a format that holds larger disks, such as VHDX.",
    )
