"""The report of the boot readiness check. It describes the disk in an image as far as it could be read."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from app.lifecycle import Architecture


class Support(StrEnum):
    """Whether a server can use a driver or cloud-init of the image.

    NOT_IN_INITRAMFS: the kernel has the driver as a module, which it can load only from the disk that needs it.
    DISABLED: it is installed, and configured not to start. UNKNOWN: it could not be determined.
    """

    PRESENT = "PRESENT"
    MISSING = "MISSING"
    NOT_IN_INITRAMFS = "NOT_IN_INITRAMFS"
    DISABLED = "DISABLED"
    UNKNOWN = "UNKNOWN"


class Firmware(StrEnum):
    """The firmware that the disk has a boot loader for."""

    BIOS = "BIOS"
    UEFI = "UEFI"
    BOTH = "BOTH"
    UNKNOWN = "UNKNOWN"


class Note(StrEnum):
    """What else the check noticed, most of it a reason for UNKNOWN. `hints.NOTES` has a text for each."""

    NOT_CONFINED = "NOT_CONFINED"
    CHECK_FAILED = "CHECK_FAILED"
    NO_SYSTEM = "NO_SYSTEM"
    SEVERAL_SYSTEMS = "SEVERAL_SYSTEMS"
    ENCRYPTED = "ENCRYPTED"
    UNSUPPORTED_FILE_SYSTEM = "UNSUPPORTED_FILE_SYSTEM"
    DAMAGED_FILE_SYSTEM = "DAMAGED_FILE_SYSTEM"
    DAMAGED_VOLUME_GROUP = "DAMAGED_VOLUME_GROUP"
    DAMAGED_REGISTRY = "DAMAGED_REGISTRY"
    NO_KERNEL = "NO_KERNEL"
    NO_INITRAMFS = "NO_INITRAMFS"
    DAMAGED_INITRAMFS = "DAMAGED_INITRAMFS"
    UNIFIED_KERNEL = "UNIFIED_KERNEL"


_NO_DISK = frozenset({Support.MISSING, Support.NOT_IN_INITRAMFS, Support.DISABLED})


@dataclass(frozen=True, slots=True)
class BootReadiness:
    """The disk in an image, described for those who launch it.

    `os_family` (lower case, such as `ubuntu`, `rocky` or `windows`) and `os_version` (`24.04`, `2022`) are spelled as
    in `Image.os`; they and `architecture` are None if unknown. The disk drivers, `virtio_blk` and `virtio_scsi`,
    include the driver of their bus, virtio_pci. `cloud_init` is cloudbase-init on Windows. `notes` has each note once.
    """

    os_family: str | None = None
    os_version: str | None = None
    architecture: Architecture | None = None
    firmware: Firmware = Firmware.UNKNOWN
    virtio_blk: Support = Support.UNKNOWN
    virtio_net: Support = Support.UNKNOWN
    virtio_scsi: Support = Support.UNKNOWN
    cloud_init: Support = Support.UNKNOWN
    notes: tuple[Note, ...] = ()

    @classmethod
    def unknown(cls, *notes: Note) -> Self:
        """The report of a disk that could not be read, for these reasons."""
        return cls(notes=notes)

    @property
    def will_not_boot(self) -> bool:
        """Whether a server can't reach the disk: its boot disk is a virtio-blk device. False if that is unknown."""
        return self.virtio_blk in _NO_DISK

    def to_json(self) -> dict[str, str | list[str] | None]:
        """The report as JSON; `from_json` is the inverse."""
        return {
            "os_family": self.os_family,
            "os_version": self.os_version,
            "architecture": self.architecture and self.architecture.value,
            "firmware": self.firmware.value,
            "virtio_blk": self.virtio_blk.value,
            "virtio_net": self.virtio_net.value,
            "virtio_scsi": self.virtio_scsi.value,
            "cloud_init": self.cloud_init.value,
            "notes": [note.value for note in self.notes],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """The report that `to_json` wrote. Raises KeyError, ValueError if it is another object."""
        architecture = stored["architecture"]
        return cls(
            os_family=stored["os_family"],
            os_version=stored["os_version"],
            architecture=None if architecture is None else Architecture(architecture),
            firmware=Firmware(stored["firmware"]),
            virtio_blk=Support(stored["virtio_blk"]),
            virtio_net=Support(stored["virtio_net"]),
            virtio_scsi=Support(stored["virtio_scsi"]),
            cloud_init=Support(stored["cloud_init"]),
            notes=tuple(Note(note) for note in stored["notes"]),
        )
