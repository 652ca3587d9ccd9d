"""For which firmware a disk has a boot loader."""

from collections.abc import Iterable

from app.boot_readiness.report import Firmware
from workers.readiness.reader.partitions import BIOS_BOOT, Table
from workers.readiness.reader.trees import Kind, Tree

# The UEFI specification, 3.5.1.1: what firmware starts from a disk that it does not know.
_LOADERS = ("/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/BOOTAA64.EFI")


def firmware(table: Table, trees: Iterable[Tree]) -> Firmware:
    """The firmware that the boot code in front of the partitions, and the loaders on FAT file systems, are for."""
    bios = _has_bios_loader(table)
    uefi = any(tree.kind is Kind.FAT and any(tree.has(path) for path in _LOADERS) for tree in trees)
    if bios and uefi:
        return Firmware.BOTH
    return Firmware.BIOS if bios else Firmware.UEFI if uefi else Firmware.UNKNOWN


def _has_bios_loader(table: Table) -> bool:
    """GRUB boots whatever is active; other code boots the active partition; without a partition, nothing is clear."""
    if not any(table.code) or not table.partitions:
        return False
    if b"GRUB" in table.code or any(partition.active for partition in table.partitions):
        return True
    return any(partition.kind == BIOS_BOOT for partition in table.partitions)
