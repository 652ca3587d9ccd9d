"""Every error of a conversion that is not the image's own fault; for those that are, see ImageFailed.

ConversionError
├── Cancelled           the caller wants no result any more; the source is whole
├── TurnLost            it took too long for its size, and others were waiting
├── SourceBusy          another attempt works on the same source right now
├── SourceDamaged       the source is missing, or shorter than was recorded
├── ReceiptMissing      there is a result, but its receipt was forgotten
├── ShareLost           what several workers have made together is not there any more
├── UnsoundResult       what was made does not hold what it should
└── QemuError
    ├── NotConfined     qemu can't be confined as the operator demands
    ├── QemuMissing     qemu-img is not installed, or can't be started
    ├── QemuTimedOut    it took longer than it may
    ├── QemuStopped     a signal ended it: one of its limits, or a crash
    ├── QemuRefused     it ran, and said that it can't do this with this image
    └── QemuFailed      anything else: unexpected output, a confinement that broke
"""

from app.errors import GatewayError


class ConversionError(GatewayError):
    """Base of what a conversion raises besides ImageFailed. The text is for the log, never for a user."""


class Cancelled(ConversionError):
    """Raised when the caller has asked for an end."""


class TurnLost(ConversionError):
    """Raised when a conversion of `source_size` bytes was stopped, so that another image gets its turn."""

    def __init__(self, source_size: int) -> None:
        super().__init__("other images were waiting")
        self.source_size = source_size


class SourceBusy(ConversionError):
    """Raised when another attempt holds the source."""


class SourceDamaged(ConversionError):
    """Raised when the source is not there, or has fewer bytes than were recorded."""


class ReceiptMissing(ConversionError):
    """Raised when a result is there whose receipt is gone: the conversion was done and forgotten."""


class ShareLost(ConversionError):
    """Raised when the parts that several workers sent, or what they wrote down, are gone: it has to begin anew."""


class UnsoundResult(ConversionError):
    """Raised when a result does not pass its verification."""


class QemuError(ConversionError):
    """Base of what goes wrong with a qemu process."""


def program(subcommand: str) -> str:
    """How a process is called in messages: by a subcommand of qemu-img, or `nbd`, which is a program of its own."""
    return "qemu-nbd" if subcommand == "nbd" else f"qemu-img {subcommand}"


class QemuMissing(QemuError):
    """Raised when qemu can't be started at all; the text says what to install."""


class NotConfined(QemuError):
    """Raised when qemu is not run, because it could not be confined as the operator demands."""


class QemuTimedOut(QemuError):
    """Raised when a process took more wall-clock time than it may; it has been killed."""


class QemuStopped(QemuError):
    """Raised when a process ended by `signal`: it ran into one of its limits, or crashed."""

    def __init__(self, subcommand: str, signal: int) -> None:
        super().__init__(f"{program(subcommand)} was ended by signal {signal}")
        self.signal = signal


class QemuRefused(QemuError):
    """Raised when qemu itself says no; `stderr` is its reason: for the log only, since it names paths."""

    def __init__(self, subcommand: str, code: int, stderr: str) -> None:
        super().__init__(f"{program(subcommand)} ended with {code}: {stderr}")
        self.subcommand = subcommand
        self.code = code
        self.stderr = stderr


class QemuFailed(QemuError):
    """Raised when something unexpected comes of a process."""
