"""Errors of a conversion that are not the image's fault; for those that are, see ImageFailed.

ConversionError
├── Cancelled           the caller cancelled the conversion; the source is intact
├── TurnLost            it took too long for its size while others were waiting
├── SourceBusy          another attempt is working on the same source
├── SourceDamaged       the source is missing, or shorter than recorded
├── ReceiptMissing      the result exists, but its receipt was already deleted
├── SplitLost           parts or records of a split conversion are gone
├── UnsoundResult       the result did not pass its verification
└── QemuError
    ├── NotConfined     qemu can't be confined as the operator demands
    ├── QemuMissing     qemu-img is not installed, or can't be started
    ├── QemuTimedOut    it exceeded its time limit
    ├── QemuStopped     a signal ended it: a limit, or a crash
    ├── QemuRefused     it ran, and reported that it can't do this with this image
    └── QemuFailed      anything else: unexpected output, a broken confinement
"""

from app.errors import GatewayError


class ConversionError(GatewayError):
    """Base of the errors of a conversion besides ImageFailed. The text is for the log, never for a user."""


class Cancelled(ConversionError):
    """Raised when the caller has cancelled the conversion."""


class TurnLost(ConversionError):
    """Raised when a conversion of `source_size` bytes was stopped so that another image gets its turn."""

    def __init__(self, source_size: int) -> None:
        super().__init__("other images were waiting")
        self.source_size = source_size


class SourceBusy(ConversionError):
    """Raised when another attempt holds the source."""


class SourceDamaged(ConversionError):
    """Raised when the source is missing, or has fewer bytes than recorded."""


class ReceiptMissing(ConversionError):
    """Raised when a result exists without its receipt: the conversion had finished and its receipt was deleted."""


class SplitLost(ConversionError):
    """Raised when parts or records of a split conversion are gone: the conversion has to start over."""


class UnsoundResult(ConversionError):
    """Raised when a result does not pass its verification."""


class QemuError(ConversionError):
    """Base of the errors of a qemu process."""


def program(subcommand: str) -> str:
    """The name of a process in messages, from a subcommand of qemu-img, or from `nbd` or `reader` for two others."""
    return {"nbd": "qemu-nbd", "reader": "the reader of disks"}.get(subcommand, f"qemu-img {subcommand}")


class QemuMissing(QemuError):
    """Raised when qemu can't be started at all; the text says what to install."""


class NotConfined(QemuError):
    """Raised when qemu is not started because it can't be confined as the operator demands."""


class QemuTimedOut(QemuError):
    """Raised when a process exceeded its wall-clock time; it has been killed."""


class QemuStopped(QemuError):
    """Raised when a process was ended by `signal`: it reached one of its limits, or crashed."""

    def __init__(self, subcommand: str, signal: int) -> None:
        super().__init__(f"{program(subcommand)} was ended by signal {signal}")
        self.signal = signal


class QemuRefused(QemuError):
    """Raised when qemu itself refuses; `stderr` is its reason, for the log only, since it contains paths."""

    def __init__(self, subcommand: str, code: int, stderr: str) -> None:
        super().__init__(f"{program(subcommand)} ended with {code}: {stderr}")
        self.subcommand = subcommand
        self.code = code
        self.stderr = stderr


class QemuFailed(QemuError):
    """Raised when a process behaves unexpectedly."""
