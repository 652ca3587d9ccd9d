"""Recognizes files by their first and last bytes: disk formats, and other files that people upload by mistake."""

from dataclasses import dataclass

from app.lifecycle import DiskFormat
from app.sizes import KIB
from workers.inspection.refusals import CONVERT_DESCRIPTOR, CONVERT_FIRST, MAKE_WHOLE

HEAD_SIZE = 256 * KIB
TAIL_SIZE = 1536


@dataclass(frozen=True, slots=True)
class Glimpse:
    """Both ends of a file of `size` bytes: up to 256 KiB of its beginning, and its last 1536 bytes.

    `tail` is None until the end has arrived.
    """

    head: bytes
    tail: bytes | None
    size: int

    @property
    def whole_head(self) -> bool:
        """Whether `head` is complete."""
        return len(self.head) >= min(self.size, HEAD_SIZE)


@dataclass(frozen=True, slots=True)
class Signature:
    """Bytes at an offset that identify a kind of file; `advice` says how to get the disk image out of it."""

    name: str
    offset: int
    magic: bytes
    advice: str

    def found_in(self, head: bytes) -> bool:
        return head.startswith(self.magic, self.offset)


DISK_MAGICS = {
    DiskFormat.QCOW2: b"QFI\xfb",
    DiskFormat.VMDK: b"KDMV",
    DiskFormat.VHD: b"conectix",
    DiskFormat.VHDX: b"vhdxfile",
}

# QEMU recognizes a DMG only by the ending of its name, and reads any other file as a raw disk.
_DMG = "Convert it with `qemu-img convert -f dmg -O qcow2 FILE image.qcow2` and upload the new file."
_VDI = f"{CONVERT_FIRST} If it stores only changes, clone it with VirtualBox first (VBoxManage clonemedium)."
_ISO = "Install from this disc into a virtual machine and upload that machine's disk."
_TAR = "Unpack it with `tar xf FILE` and upload the disk image in it."

# Formats that hold a disk but are not supported (magic numbers as in QEMU's block drivers), and files without a disk.
FOREIGN = (
    Signature("gzip file", 0, b"\x1f\x8b", "Unpack it with `gunzip -c FILE > disk.img` and upload the new file."),
    Signature("xz file", 0, b"\xfd7zXZ\0", "Unpack it with `unxz -c FILE > disk.img` and upload the new file."),
    Signature(
        "zstd file", 0, b"\x28\xb5\x2f\xfd", "Unpack it with `unzstd -c FILE > disk.img` and upload the new file."
    ),
    Signature("bzip2 file", 0, b"BZh", "Unpack it with `bunzip2 -c FILE > disk.img` and upload the new file."),
    Signature("lz4 file", 0, b"\x04\x22\x4d\x18", "Unpack it with `unlz4 -c FILE > disk.img` and upload the new file."),
    Signature("zip archive", 0, b"PK\x03\x04", "Unpack it with `unzip FILE` and upload the disk image in it."),
    Signature("empty zip archive", 0, b"PK\x05\x06", "Upload the file that holds the disk."),
    Signature("7-Zip archive", 0, b"7z\xbc\xaf\x27\x1c", "Unpack it with 7-Zip and upload the disk image in it."),
    Signature("RAR archive", 0, b"Rar!\x1a\x07", "Unpack it and upload the disk image in it."),
    Signature("ISO 9660 disc image", 0x8001, b"CD001", _ISO),
    Signature("UDF disc image", 0x8001, b"BEA01", _ISO),
    Signature("UDF disc image", 0x8001, b"NSR0", _ISO),
    Signature("VMDK descriptor without data", 0, b"# Disk DescriptorFile", MAKE_WHOLE),
    Signature("VMDK of the SEsparse kind", 0, b"\xbe\xba\xfe\xca\0\0\0\0", CONVERT_DESCRIPTOR),
    Signature("VMDK of the COWD kind", 0, b"COWD", CONVERT_DESCRIPTOR),
    Signature("VDI image", 0x40, b"\x7f\x10\xda\xbe", _VDI),
    Signature("QED image", 0, b"QED\0", CONVERT_FIRST),
    Signature("Parallels image", 0, b"WithoutFreeSpace", CONVERT_FIRST),
    Signature("Parallels image", 0, b"WithouFreSpacExt", CONVERT_FIRST),
    Signature("Bochs image", 0, b"Bochs Virtual HD Image", CONVERT_FIRST),
    Signature("WIM archive", 0, b"MSWIM\0\0\0", "Install Windows from it and upload the disk of that installation."),
    Signature("LUKS-encrypted volume", 0, b"LUKS\xba\xbe", "Decrypt it and upload the decrypted disk."),
)

_TAR_MAGIC = Signature("tar archive", 257, b"ustar", _TAR)
_OVA = "Unpack it with `tar xf FILE` (an OVA is a tar archive) and upload the .vmdk file in it."


def disk_format_of(head: bytes) -> DiskFormat | None:
    """The format whose magic number is at the beginning, if any."""
    return next((kind for kind, magic in DISK_MAGICS.items() if head.startswith(magic)), None)


def ends_in_vhd_footer(tail: bytes | None) -> bool:
    """Whether the last sector is the footer of a VHD."""
    return tail is not None and tail[-512:].startswith(DISK_MAGICS[DiskFormat.VHD])


def foreign_content(head: bytes, tail: bytes | None) -> Signature | None:
    """The kind of file, if it is one that is not accepted under any declared format."""
    if _TAR_MAGIC.found_in(head):
        first_name = head[:100].rstrip(b"\0").lower()
        return Signature("OVA", 0, b"", _OVA) if first_name.endswith(b".ovf") else _TAR_MAGIC
    if tail is not None and tail[-512:].startswith(b"koly"):
        return Signature("Apple DMG image", 0, b"koly", _DMG)
    return next((signature for signature in FOREIGN if signature.found_in(head)), None)
