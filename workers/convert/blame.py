"""Decides what is at fault when qemu-img fails: the image, a full disk, or the gateway itself."""

import errno
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from app.errors import ImageFailed
from workers.errors import QemuRefused, QemuStopped, QemuTimedOut
from workers.inspection.refusals import CONVERT_FIRST, corrupt, over_quota, storage_full, too_large

log = structlog.get_logger(__name__)

# These signals mean that a process reached its limits or crashed; any other was sent from outside.
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
    """Blame the image for refusals, crashes and timeouts while qemu-img reads a source: raise ImageFailed for them.

    `at_quota`: whether the project's free storage limits the size of the written file. Unexpected errors (QemuFailed,
    QemuMissing) pass through unchanged.
    """
    try:
        yield
    except QemuRefused as refusal:
        log.info("qemu.refused", stderr=refusal.stderr)
        raise _refused(refusal, at_quota) from refusal
    except QemuTimedOut as overrun:
        log.warning("qemu.timed_out", reason=str(overrun))
        raise corrupt("Reading this image took longer than allowed.", _RETRY, retriable=True) from overrun
    except QemuStopped as stop:
        log.warning("qemu.stopped", reason=str(stop))
        if stop.signal == signal.SIGXFSZ:
            raise _copy_too_long(at_quota) from stop
        if stop.signal not in _SELF_INFLICTED:
            raise
        message = "Reading this image took more memory or time than allowed, or crashed the reader."
        raise corrupt(message, _RETRY, retriable=True) from stop


@contextmanager
def storage_may_fill_up() -> Iterator[None]:
    """Raise ImageFailed for a full disk or an exhausted disk quota."""
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
            "This VHDX was not closed properly: its log contains changes that are not yet in the disk.",
            "Shut down its virtual machine, or repair the file with `qemu-img check -r all FILE`, and upload it again.",
        )
    return corrupt("This image can't be read: it is damaged or cut off.")


def _copy_too_long(at_quota: bool) -> ImageFailed:
    """The failure of an image whose result would be larger than allowed."""
    if at_quota:
        return over_quota()
    return too_large(
        "The converted image would be larger than its disk and tables can be, or than the storage allows for a file.",
        "Shrink the disk and upload it again, or ask the operator to allow larger files.",
    )


def _too_large_for_format() -> ImageFailed:
    return too_large(
        "The disk in this image is larger than its format can hold.",
        "Compare the file with its original and upload it again. If they are identical, convert it with the program "
        "that wrote it to a format that holds larger disks, such as VHDX.",
    )
