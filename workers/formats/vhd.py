"""Which VHD files are taken in: fixed and dynamic ones.

Source: Microsoft, Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format"; QEMU,
block/vpc.c, for the size that it takes.
"""

import struct
from dataclasses import dataclass

from workers.formats.refusals import check_virtual_size, corrupt, unsafe, unsupported
from workers.formats.signatures import Glimpse

FOOTER_SIZE = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4

# cookie … original size, current size, cylinders, heads, sectors per track, type
_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBI")


@dataclass(frozen=True, slots=True)
class VhdFacts:
    """What the footer says. `current_size` and `geometry_size` are two claims about the disk, in bytes."""

    fixed: bool
    current_size: int
    geometry_size: int
    file_size: int

    def holds_current_size(self) -> bool:
        """Whether the disk is as large as the footer's current size says, whatever its geometry says.

        For a fixed VHD the file proves it. For a dynamic one it is so when the geometry is just the current
        size rounded down to whole cylinders, as VirtualBox writes it: QEMU would cut such a disk's end off.
        """
        if self.fixed:
            return self.current_size == self.file_size - FOOTER_SIZE
        cylinder = 16 * 255 * 512
        return 0 < self.current_size - self.geometry_size < cylinder


def examine(glimpse: Glimpse, max_virtual_size: int) -> VhdFacts | None:
    """What the footer says, or None when it has not arrived. Raises ImageFailed."""
    dynamic = glimpse.head.startswith(b"conectix")
    footer = glimpse.head[:FOOTER_SIZE] if dynamic else (glimpse.tail or b"")[-FOOTER_SIZE:]
    if len(footer) < FOOTER_SIZE:
        if dynamic and glimpse.whole_head:
            raise corrupt("The file ends within its VHD footer.")
        return None
    fields = _FOOTER.unpack_from(footer)
    current_size, kind = fields[9], fields[13]
    _check_kind(kind, dynamic)
    if dynamic and glimpse.tail is not None and not glimpse.tail[-FOOTER_SIZE:].startswith(b"conectix"):
        raise corrupt("The footer at the end of this VHD is missing: the file is cut off.")
    geometry_size = fields[10] * fields[11] * fields[12] * 512
    facts = VhdFacts(kind == FIXED, current_size, geometry_size, glimpse.size)
    if current_size == 0:
        check_virtual_size(0, max_virtual_size)
    return facts


def _check_kind(kind: int, dynamic: bool) -> None:
    if kind == DIFFERENCING:
        raise unsafe(
            "This VHD needs a parent: it is a differencing disk, which holds only what changed.",
            "Merge it into its parent (Hyper-V: Merge-VHD) and upload the whole disk.",
        )
    if kind not in (FIXED, DYNAMIC):
        raise unsupported(f"This is a VHD of type {kind}; fixed and dynamic ones are taken.")
    if dynamic != (kind == DYNAMIC):
        raise corrupt("The footer of this VHD is not where one of its type has it.")
