"""Whether a server can boot from an image, and with which firmware, by what is known about the bytes of the image."""

from dataclasses import dataclass

from app.boot_readiness.hints import Part, findings
from app.boot_readiness.report import BootReadiness, Firmware
from app.catalog.servers.requests import NewServer
from app.errors import WillNotBoot
from app.lifecycle import Architecture, ServerFirmware
from app.models import Blob, Image

_ANYWAY = "`force: true` launches it anyway."


@dataclass(frozen=True, slots=True)
class BootPlan:
    """How a server boots. `architecture` is None if it is not known."""

    firmware: ServerFirmware
    architecture: Architecture | None


def readiness_of(blob: Blob) -> BootReadiness | None:
    """The report about the bytes of a blob; None until it has been checked."""
    return None if blob.readiness is None else BootReadiness.from_json(blob.readiness)


def firmware_for(readiness: BootReadiness | None) -> ServerFirmware:
    """The firmware of servers that boot from an image: BIOS, unless the image needs UEFI."""
    needs_uefi = readiness is not None and readiness.firmware is Firmware.UEFI
    return ServerFirmware.UEFI if needs_uefi else ServerFirmware.BIOS


def architecture_of(image: Image, readiness: BootReadiness | None) -> Architecture | None:
    """The architecture of the programs on the image, as found there, or else as its owner states it."""
    return (readiness and readiness.architecture) or image.architecture


def plan(new: NewServer, image: Image, blob: Blob) -> BootPlan:
    """How a new server boots from an image with these bytes. Raises WillNotBoot when it is known that it can't.

    With `force`, it raises nothing, and what users state counts more than what was found.
    """
    readiness = readiness_of(blob)
    firmware = new.firmware or firmware_for(readiness)
    if new.force:
        return BootPlan(firmware, image.architecture)
    if readiness is not None:
        _require_disk_driver(readiness)
        _require_boot_loader(readiness, firmware)
    return BootPlan(firmware, architecture_of(image, readiness))


def _require_disk_driver(readiness: BootReadiness) -> None:
    if not readiness.will_not_boot:
        return
    found = next(finding for finding in findings(readiness) if finding.part is Part.VIRTIO_BLK)
    raise WillNotBoot(f"The image will not boot. {found.message}", field=("imageId",), hint=f"{found.hint} {_ANYWAY}")


def _require_boot_loader(readiness: BootReadiness, firmware: ServerFirmware) -> None:
    """Raises WillNotBoot when the image has a boot loader for the other firmware only."""
    if readiness.firmware in (Firmware.UNKNOWN, Firmware.BOTH, Firmware(firmware.value)):
        return
    raise WillNotBoot(
        f"The image will not boot with {firmware}: it has a boot loader for {readiness.firmware} only.",
        field=("firmware",),
        hint=f"Leave out `firmware`, or set it to {readiness.firmware}. {_ANYWAY}",
    )
