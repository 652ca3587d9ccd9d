"""Disks of every kind that is read, as raw files to be damaged."""

from pathlib import Path

from tests.workers.readiness.file_systems import ext, fat, ntfs, xfs
from tests.workers.readiness.systems import ALL_DRIVERS, KERNEL, initramfs, linux, windows
from tests.workers.readiness.tables import BIOS_BOOT, GRUB, LINUX, Entry, gpt, mbr, physical_volume


def disks(folder: Path) -> list[Path]:
    """An ext4 in an MBR; an XFS in LVM, with /boot and a FAT, in a GPT; an NTFS with hives."""
    plain = mbr(Entry(ext(linux())), code=GRUB)
    root = xfs({**linux(early=None), "boot": None})
    volume = physical_volume([("swap", b""), ("root", root)])
    boot = ext({f"initrd.img-{KERNEL}": initramfs(ALL_DRIVERS)}, kind="ext2")
    esp = fat({"EFI/BOOT/BOOTX64.EFI": b"MZ"})
    several = gpt((BIOS_BOOT, b"core"), (LINUX, esp), (LINUX, boot), (LINUX, volume), code=GRUB)
    hives = mbr(Entry(ntfs(windows()), kind=0x07, active=True), code=b"\x33\xc0")
    found = []
    for name, content in (("plain", plain), ("several", several), ("hives", hives)):
        path = folder / f"{name}.raw"
        path.write_bytes(content)
        found.append(path)
    return found
