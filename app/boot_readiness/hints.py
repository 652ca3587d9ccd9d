"""What each finding of the boot readiness check means, and what to do about it."""

from dataclasses import dataclass
from enum import StrEnum

from app.boot_readiness.report import BootReadiness, Note, Support


class Part(StrEnum):
    """The parts of an image that a finding is about: the fields of BootReadiness, in upper case."""

    VIRTIO_BLK = "VIRTIO_BLK"
    VIRTIO_NET = "VIRTIO_NET"
    VIRTIO_SCSI = "VIRTIO_SCSI"
    CLOUD_INIT = "CLOUD_INIT"


@dataclass(frozen=True, slots=True)
class Finding:
    """A part that is not PRESENT: what that means, and one instruction."""

    part: Part
    state: Support
    message: str
    hint: str


def findings(report: BootReadiness) -> tuple[Finding, ...]:
    """A finding for each part of the report that is not PRESENT, in the order of Part."""
    states = {part: Support(getattr(report, part.lower())) for part in Part}
    return tuple(
        Finding(part, state, f"{part.lower()} is {state}.", "See docs/boot-readiness.md.")
        for part, state in states.items()
        if state is not Support.PRESENT
    )


NOTES: dict[Note, str] = {note: note.value for note in Note}
