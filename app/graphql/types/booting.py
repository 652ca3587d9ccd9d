"""Whether an image boots: what was found on its disk, and what was seen when a host booted it."""

from datetime import datetime
from typing import Self

import strawberry

from app.boot_readiness import hints, report
from app.boot_readiness.hints import Part
from app.catalog.servers import boot_checks, booting
from app.lifecycle import Architecture, BootResult, BootSign
from app.models import Blob


@strawberry.type(description="Operating system on an image.")
class OperatingSystem:
    family: str = strawberry.field(description="Family in lower case, such as ubuntu, rocky or windows.")
    version: str | None = strawberry.field(description="Version, such as 24.04; null if it is not known.")
    display_name: str = strawberry.field(description="Family and version for display, such as Ubuntu 24.04.")

    @classmethod
    def of(cls, family: str | None, version: str | None) -> Self | None:
        """The operating system of a family; None without one."""
        if family is None:
            return None
        shown = f"{family.capitalize()} {version}" if version else family.capitalize()
        return cls(family=family, version=version, display_name=shown)


@strawberry.type(description="A driver, or cloud-init, on the disk of an image.")
class BootPart:
    state: report.Support = strawberry.field(description="Whether a server can use it.")
    message: str | None = strawberry.field(
        description="What the state means for a server, as text for people; null if it is PRESENT."
    )
    hint: str | None = strawberry.field(description="What to do about it, as text for people; null if it is PRESENT.")


@strawberry.type(
    description="Whether an image is ready to boot as a server, as found on its disk. What can't be read is UNKNOWN."
)
class BootReadiness:
    firmware: report.Firmware = strawberry.field(description="Firmware that the image has a boot loader for.")
    virtio_blk: BootPart = strawberry.field(
        description="Driver of the disks of a server. Without it, a server does not find its boot disk."
    )
    virtio_net: BootPart = strawberry.field(description="Driver of the network card of a server.")
    virtio_scsi: BootPart = strawberry.field(description="Driver of SCSI disks, which some other clouds attach.")
    cloud_init: BootPart = strawberry.field(
        description="cloud-init, or cloudbase-init on Windows, which takes host name, SSH keys and user data."
    )
    os: OperatingSystem | None = strawberry.field(
        description="Operating system found on the disk; null if it could not be determined."
    )
    architecture: Architecture | None = strawberry.field(
        description="Processor architecture of the programs on the disk; null if it could not be determined."
    )
    notes: list[str] = strawberry.field(description="What else the check noticed, as texts for people.")

    @classmethod
    def of(cls, blob: Blob) -> Self | None:
        """What was found in a blob; None until it has been checked."""
        found = booting.readiness_of(blob)
        if found is None:
            return None
        by_part = {finding.part: finding for finding in hints.findings(found)}

        def part(name: Part, state: report.Support) -> BootPart:
            if (finding := by_part.get(name)) is None:
                return BootPart(state=state, message=None, hint=None)
            return BootPart(state=state, message=finding.message, hint=finding.hint)

        return cls(
            firmware=found.firmware,
            virtio_blk=part(Part.VIRTIO_BLK, found.virtio_blk),
            virtio_net=part(Part.VIRTIO_NET, found.virtio_net),
            virtio_scsi=part(Part.VIRTIO_SCSI, found.virtio_scsi),
            cloud_init=part(Part.CLOUD_INIT, found.cloud_init),
            os=OperatingSystem.of(found.os_family, found.os_version),
            architecture=found.architecture,
            notes=[hints.NOTES[note] for note in found.notes],
        )


@strawberry.type(
    description="A boot check: a host boots a throwaway server from the image, without a network, and waits for a sign "
    "that it came up."
)
class BootCheck:
    result: BootResult = strawberry.field(description="Result of the check.")
    seen: BootSign | None = strawberry.field(
        description="What showed that the server came up; null unless the result is BOOTED."
    )
    after_seconds: float = strawberry.field(
        description="Time from the start of the server to the result, in seconds; 0 if the result is FAILED."
    )
    console: str = strawberry.field(
        description="End of what the server wrote to its serial console, as printable text of at most 4,000 "
        "characters; empty if it wrote nothing."
    )
    checked_at: datetime = strawberry.field(description="When the check ended.")

    @classmethod
    def of(cls, blob: Blob) -> Self | None:
        """The newest check of a blob; None if there was none."""
        found = boot_checks.check_of(blob)
        if found is None:
            return None
        return cls(
            result=found.result,
            seen=found.seen,
            after_seconds=found.seconds,
            console=found.console,
            checked_at=found.checked_at,
        )
