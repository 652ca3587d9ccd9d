"""Decides which VHD files are accepted: fixed and dynamic ones.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format"; QEMU,
block/vpc.c, for the disk size that QEMU uses.
"""

import struct
from dataclasses import dataclass, replace

from workers.inspection import vhd_tables
from workers.inspection.refusals import check_virtual_size, corrupt, unsafe, unsupported
from workers.inspection.signatures import Glimpse, ends_in_vhd_footer
from workers.inspection.vhdx import ReadAt

FOOTER_SIZE = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4

# cookie … creator, its version, its system, original size, current size, cylinders, heads, sectors per track, type,
# checksum
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII")


# Virtual PC and QEMU round a disk up to whole cylinders and use that size. All others use the current size: their
# geometry is rounded down, ends at 16383 cylinders (VirtualBox), or is empty.
_BY_GEOMETRY = (b"vpc ", b"qemu")


@dataclass(frozen=True, slots=True)
class VhdFacts:
    """The fields of the footer. `current_size` and `geometry_size` are two claims about the size of the disk, in bytes.

    `uses_more`: whether the disk has data past the size of its geometry.
    """

    fixed: bool
    creator: bytes
    current_size: int
    geometry_size: int
    file_size: int
    uses_more: bool = False

    def holds_current_size(self) -> bool:
        """Whether the footer's current size is the size of the disk, regardless of its geometry.

        QEMU 7.2 knows only some of the creators that use the current size, and would cut off the disks of the others.
        """
        if self.fixed and self.current_size <= self.file_size - FOOTER_SIZE:
            return True
        return self.creator not in _BY_GEOMETRY or self.geometry_size == 0 or self.uses_more


def examine(glimpse: Glimpse, read_at: ReadAt | None, max_virtual_size: int) -> VhdFacts | None:
    """Read and check the footer; None if it has not arrived yet. Raises ImageFailed.

    `read_at(offset, length)` reads more of the file; None while the file still arrives.
    """
    dynamic = glimpse.head.startswith(b"conectix")
    footer = glimpse.head[:FOOTER_SIZE] if dynamic else (glimpse.tail or b"")[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE:
        if dynamic and glimpse.whole_head:
            raise corrupt("The file ends within its VHD footer.")
        return None
    fields = _FOOTER.unpack_from(footer)
    creator, current_size, kind = fields[5], fields[9], fields[13]
    _check_kind(kind, dynamic)
    if dynamic and glimpse.tail is not None and not glimpse.tail[-FOOTER_SIZE:].startswith(b"conectix"):
        raise corrupt("The file is cut off: the footer at the end of this VHD is missing.")
    geometry_size = fields[10] * fields[11] * fields[12] * 512
    facts = VhdFacts(kind == FIXED, creator, current_size, geometry_size, glimpse.size)
    if current_size == 0:
        check_virtual_size(0, max_virtual_size)
    if facts.fixed or read_at is None or facts.holds_current_size():
        return facts
    return replace(facts, uses_more=vhd_tables.reaches(read_at, glimpse.size, geometry_size))


def ends_in_fixed_footer(glimpse: Glimpse) -> bool:
    """Whether a fixed VHD ends here: its footer is intact, and the disk it describes is in the file.

    Everything before the footer then belongs to the guest, whatever it looks like.
    """
    if glimpse.tail is None or not ends_in_vhd_footer(glimpse.tail) or glimpse.size <= FOOTER_SIZE:
        return False
    footer = glimpse.tail[-FOOTER_SIZE:]
    fields = _FOOTER.unpack_from(footer)
    current_size, kind, checksum = fields[9], fields[13], fields[14]
    # The one's complement of the sum of all bytes except its own.
    intact = checksum == ~(sum(footer) - sum(checksum.to_bytes(4, "big"))) & 0xFFFFFFFF
    return bool(intact and kind == FIXED and 0 < current_size <= glimpse.size - FOOTER_SIZE)


def _check_kind(kind: int, dynamic: bool) -> None:
    if kind == DIFFERENCING:
        raise unsafe(
            "This VHD needs a parent: it is a differencing disk, which stores only changes.",
            "Merge it into its parent (Hyper-V: Merge-VHD) and upload the whole disk.",
        )
    if kind not in (FIXED, DYNAMIC):
        raise unsupported(
            f"This is a VHD of type {kind}; only fixed ({FIXED}) and dynamic ({DYNAMIC}) VHDs are supported.",
            "Convert it to a fixed or dynamic VHD with the program that wrote it and upload the new file.",
        )
    if dynamic != (kind == DYNAMIC):
        raise corrupt("The footer of this VHD is in the wrong place for its type.")
