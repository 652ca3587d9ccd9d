"""Decides which VMDK files are accepted: single files with a whole disk, monolithicSparse or streamOptimized.

Source: VMware, Virtual Disk Format 5.0, "Hosted Sparse Extents"; block/vmdk.c for how QEMU reads it.
"""

import re
import struct
from dataclasses import dataclass

from workers.inspection.refusals import (
    CONVERT_DESCRIPTOR,
    EXPORT_AGAIN,
    MAKE_WHOLE,
    check_virtual_size,
    corrupt,
    unsafe,
    unsupported,
)
from workers.inspection.signatures import Glimpse

SECTOR = 512
# QEMU searches for the descriptor's keys in the 20 sectors from the second one on, whatever length the header states.
DESCRIPTOR_AT, QEMU_READS = SECTOR, 20 * SECTOR
GD_AT_END = (1 << 64) - 1
NO_PARENT = b"ffffffff"
TAKEN = {b"monolithicsparse", b"streamoptimized"}

_HEADER = struct.Struct("<4sIIQQQQIQQQ")
# A descriptor has the encoding of the program that wrote it. In Japanese and Chinese encodings (Shift_JIS, Big5, GBK)
# a backslash may be the second byte of a character, and is then not part of a path.
_SPARSE_EXTENT = re.compile(rb'(rw|rdonly)\s+\d+\s+sparse\s+"([^"/\\]|[\x80-\xff]\\)*"\s*')
_EXTENT = re.compile(rb"(rw|rdonly|noaccess)\s")
_NOT_ASCII = bytes(range(128)).ljust(256, b"?")


@dataclass(frozen=True, slots=True)
class VmdkFacts:
    """The facts from header and descriptor. `virtual_size` is in bytes; `streamed`: whether grains are compressed."""

    virtual_size: int
    streamed: bool


def examine(glimpse: Glimpse, max_virtual_size: int) -> VmdkFacts | None:
    """Read and check header, descriptor and footer; None if too little has arrived. Raises ImageFailed."""
    if len(glimpse.head) < SECTOR:
        if glimpse.whole_head:
            raise corrupt("The file ends within its VMDK header.")
        return None
    _, version, _, capacity, grain, place, length, entries, *_ = _HEADER.unpack_from(glimpse.head)
    if version not in (1, 2, 3):
        raise unsupported(
            f"This is a VMDK of version {version}; only versions 1 to 3 are supported.",
            "Convert it to one of these versions with the program that wrote it and upload the new file.",
        )
    if capacity:
        check_virtual_size(capacity * SECTOR, max_virtual_size)
    if grain < 8 or grain & (grain - 1) or not 0 < entries <= 512:
        raise corrupt("The VMDK header contains an invalid grain or table size.")
    if place == length == 0:
        raise _one_of_several()
    if place * SECTOR != DESCRIPTOR_AT or not 0 < length < 2048:
        raise corrupt("The VMDK header does not say where its descriptor is.")
    end = DESCRIPTOR_AT + max(length * SECTOR, QEMU_READS)
    if len(glimpse.head) < min(end, glimpse.size):
        if not glimpse.whole_head:
            return None
        raise corrupt("The VMDK header states a descriptor length that is too large.")
    if glimpse.size < DESCRIPTOR_AT + length * SECTOR:
        raise corrupt("The file ends within its VMDK descriptor.")
    kind = _check_descriptor(glimpse.head[DESCRIPTOR_AT:end], length * SECTOR)
    _check_footer(glimpse)
    check_virtual_size(capacity * SECTOR, max_virtual_size)
    return VmdkFacts(capacity * SECTOR, kind == "streamoptimized")


def _check_descriptor(raw: bytes, length: int) -> str:
    """Check that the descriptor refers to this file only; return its create type, in lower case."""
    if b"parentfilenamehint" in raw.lower():
        raise _needs_parent()
    text = raw[:length].split(b"\0", 1)[0].lower()
    # As bytes, since in other encodings some bytes would end a line if they were decoded.
    lines = [line.strip() for line in text.split(b"\n")]
    pairs = [line.partition(b"=") for line in lines if b"=" in line]
    fields = [(key.strip(), value.strip(b' \t"')) for key, _, value in pairs]
    if any(value != NO_PARENT for key, value in fields if key == b"parentcid"):
        raise _needs_parent()
    kinds = {value for key, value in fields if key == b"createtype"}
    extents = [line for line in lines if _EXTENT.match(line)]
    if not kinds and not extents:
        raise _one_of_several()
    if len(kinds) != 1 or not kinds <= TAKEN:
        named = ", ".join(kind.decode("ascii", "replace") for kind in sorted(kinds))[:64] or "none"
        raise unsupported(
            f"This VMDK is of the type {named}; only monolithicSparse and streamOptimized are supported.", MAKE_WHOLE
        )
    _check_extents(extents)
    return kinds.pop().decode()


def in_plain_ascii(head: bytes) -> bytes:
    """The head of an examined VMDK, with its descriptor in ASCII, without tabs and without spaces around `=`."""
    end = DESCRIPTOR_AT + _HEADER.unpack_from(head)[6] * SECTOR
    text, nul, rest = head[DESCRIPTOR_AT:end].partition(b"\0")
    plain = re.sub(rb"[ \t]*=[ \t]*", b"=", text.translate(_NOT_ASCII)).replace(b"\t", b" ")
    return head[:DESCRIPTOR_AT] + plain + bytes(len(text) - len(plain)) + nul + rest + head[end:]


def _check_extents(lines: list[bytes]) -> None:
    """Allow exactly one sparse extent without a path: the file itself, whatever its name was. Raises ImageFailed."""
    if len(lines) != 1 or not _SPARSE_EXTENT.fullmatch(lines[0]):
        raise unsafe("This VMDK takes its data from other files.", MAKE_WHOLE)


def _check_footer(glimpse: Glimpse) -> None:
    """Check that a stream's footer, a second header that replaces the first one, agrees with it. Raises ImageFailed."""
    if glimpse.tail is None or _HEADER.unpack_from(glimpse.head)[9] != GD_AT_END:
        return
    if len(glimpse.tail) < 3 * SECTOR or glimpse.size < DESCRIPTOR_AT + 3 * SECTOR:
        raise corrupt("The file is cut off: it ends before the footer of its VMDK.")
    header, footer = glimpse.head[:SECTOR], glimpse.tail[SECTOR : 2 * SECTOR]
    if not footer.startswith(b"KDMV"):
        raise corrupt("The file is cut off: the footer of this VMDK is missing.")
    ours, theirs = _HEADER.unpack_from(header), _HEADER.unpack_from(footer)
    if ours[:9] != theirs[:9] or theirs[9] == GD_AT_END:
        raise unsafe("The header and the footer of this VMDK contradict each other.", EXPORT_AGAIN)


def _needs_parent() -> Exception:
    return unsafe("This VMDK needs a parent: it stores only the changes since a snapshot.", MAKE_WHOLE)


def _one_of_several() -> Exception:
    """The refusal of an extent without a descriptor, which is a separate file next to it."""
    return unsupported("This is one of the files of a VMDK and does not name the others.", CONVERT_DESCRIPTOR)
