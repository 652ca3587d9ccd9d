"""What a file really is, and whether it is safe to let qemu-img read it: decided on its bytes alone.

Two looks at the same bytes: oslo.utils' inspectors, and our own rules in `workers.inspection`, which know more
cases and say what to do.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from oslo_utils.imageutils import format_inspector

from app.lifecycle import DiskFormat
from workers.inspection import qcow2, vhd, vhdx, vmdk
from workers.inspection.refusals import CONVERT_DESCRIPTOR, CONVERT_FIRST, check_virtual_size, corrupt, mismatch, unsafe
from workers.inspection.signatures import (
    HEAD_SIZE,
    TAIL_SIZE,
    Glimpse,
    Signature,
    disk_format_of,
    ends_in_vhd_footer,
    foreign_content,
)
from workers.inspection.tables import Facts
from workers.limits import MAX_VIRTUAL_SIZE

_OSLO_NAMES = {"qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed", "iso", "luks"}
_CHUNK = 64 << 10
_BARE = "Check that the file is whole. If it is a bare disk without any format, upload it again as RAW."
_BARE_VMDK = (
    "If it is the one data file of its disk (its name ends in -flat.vmdk), upload it again as RAW. If it is one of "
    f"several: {CONVERT_DESCRIPTOR}"
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found: the format, what its own header says (None for raw), and warnings for the owner."""

    format: DiskFormat
    facts: Facts | None
    warnings: tuple[str, ...] = field(default=())

    @property
    def claimed_size(self) -> int | None:
        """How large the disk is by its own header, in bytes; None where that says nothing certain."""
        match self.facts:
            case qcow2.Qcow2Facts(header=header):
                return header.size
            case vmdk.VmdkFacts(virtual_size=size) | vhdx.VhdxFacts(virtual_size=size):
                return size
        return None


def inspect_head(head: bytes, declared: DiskFormat, size: int, max_virtual_size: int = MAX_VIRTUAL_SIZE) -> None:
    """Refuse what can't succeed, by the first 256 KiB (or less) of a file of `size` bytes that still arrives.

    Raises ImageFailed only where more bytes can't change the answer.
    """
    head = head[:HEAD_SIZE]
    tail = head[-TAIL_SIZE:] if len(head) >= size else None
    _inspect(Glimpse(head, tail, size), declared, None, max_virtual_size)


def inspect_file(fd: int, declared: DiskFormat, size: int, max_virtual_size: int = MAX_VIRTUAL_SIZE) -> Inspection:
    """Look at all of a file that tells what it is; only its first `size` bytes count. Raises ImageFailed."""

    def read_at(offset: int, length: int) -> bytes:
        return os.pread(fd, min(length, max(0, size - offset)), offset)

    return inspect(read_at, declared, size, max_virtual_size)


def inspect(
    read_at: vhdx.ReadAt, declared: DiskFormat, size: int, max_virtual_size: int = MAX_VIRTUAL_SIZE
) -> Inspection:
    """Look at all that tells what a source of `size` bytes is, wherever it lies: `read_at(offset, length)` reads it.

    It gives fewer bytes at the end, and none behind it. Raises ImageFailed, and what `read_at` raises.
    """
    tail_at = max(0, size - TAIL_SIZE)
    glimpse = Glimpse(read_at(0, HEAD_SIZE), read_at(tail_at, TAIL_SIZE), size)
    facts = _inspect(glimpse, declared, read_at, max_virtual_size)
    warnings = facts.warnings if isinstance(facts, qcow2.Qcow2Facts) else ()
    return Inspection(declared, facts, warnings)


def _inspect(
    glimpse: Glimpse, declared: DiskFormat, read_at: vhdx.ReadAt | None, max_virtual_size: int
) -> Facts | None:
    if glimpse.size == 0:
        raise corrupt("The file is empty.")
    _check_kind(glimpse, declared)
    facts = _examine(glimpse, declared, read_at, max_virtual_size)
    if glimpse.tail is not None:
        _second_opinion(glimpse, declared)
    return facts


def _examine(
    glimpse: Glimpse, declared: DiskFormat, read_at: vhdx.ReadAt | None, max_virtual_size: int
) -> Facts | None:
    match declared:
        case DiskFormat.QCOW2:
            return qcow2.examine(glimpse, max_virtual_size)
        case DiskFormat.VMDK:
            return vmdk.examine(glimpse, max_virtual_size)
        case DiskFormat.VHD:
            return vhd.examine(glimpse, read_at, max_virtual_size)
        case DiskFormat.VHDX:
            return vhdx.examine(glimpse, read_at, max_virtual_size)
        case DiskFormat.RAW:
            check_virtual_size(glimpse.size, max_virtual_size)
            return None


def _check_kind(glimpse: Glimpse, declared: DiskFormat) -> None:
    """See that the content is of the declared format, and of that one only.

    The head decides: only where it is of no format does a footer count, since any disk's last sector may be one. In
    what was declared to be a VHD, the footer decides, since the head of a fixed one is the guest's.
    """
    head, tail = glimpse.head, glimpse.tail
    found = disk_format_of(head)
    may_be_fixed = tail is None and found is not DiskFormat.VHD
    if declared is DiskFormat.VHD and (may_be_fixed or vhd.ends_in_fixed_footer(glimpse)):
        return
    foreign = foreign_content(head, None if found else tail)
    kinds = {name for name, _ in _oslo_matches(head)} - {"vmdk"}
    kinds |= {found.lower()} if found else set()
    if len(kinds) > 1 or (found and foreign):
        raise unsafe(
            "This file is of several formats at once.",
            "Upload an image that was written by one tool, as one format.",
        )
    if not found and not foreign and ends_in_vhd_footer(tail):
        found = DiskFormat.VHD
    if found == declared:
        return
    # A magic number has eight bytes at most, and the end of what was declared to be a VHD has arrived.
    decided = declared is not DiskFormat.RAW and len(head) >= min(8, glimpse.size)
    if foreign or found or decided:
        raise _not_as_declared(declared, found, foreign)


def _not_as_declared(declared: DiskFormat, found: DiskFormat | None, foreign: Signature | None) -> Exception:
    if foreign:
        return mismatch(f"This was declared to be {declared}, but is a {foreign.name}.", foreign.advice)
    if found:
        return mismatch(
            f"This was declared to be {declared}, but its content is {found}.",
            f"Upload it again with the format {found}.",
        )
    return mismatch(
        f"This was declared to be {declared}, but its content is not.",
        _BARE_VMDK if declared is DiskFormat.VMDK else _BARE,
    )


def _oslo_matches(head: bytes) -> Iterator[tuple[str, format_inspector.FileInspector]]:
    """The inspectors of oslo.utils that recognise the head; partition tables and raw bytes are no formats."""
    for name, make in format_inspector.ALL_FORMATS.items():
        inspector = make()
        if name in _OSLO_NAMES and _feed(inspector, head) and inspector.format_match:
            yield name, inspector


def _feed(inspector: format_inspector.FileInspector, *pieces: bytes) -> bool:
    """Show bytes to an inspector; False when it can't make sense of them, which it tells in many ways."""
    try:
        for piece in pieces:
            for place in range(0, len(piece), _CHUNK):
                inspector.eat_chunk(piece[place : place + _CHUNK])
        inspector.finish()
        bool(inspector.format_match)
    except Exception:
        return False
    return True


def _second_opinion(glimpse: Glimpse, declared: DiskFormat) -> None:
    """The safety checks of oslo.utils, for what ours let pass; they want the end of a stream too."""
    if declared not in (DiskFormat.QCOW2, DiskFormat.VMDK) or glimpse.tail is None:
        return
    inspector = format_inspector.ALL_FORMATS[declared.lower()]()
    rest = glimpse.tail[max(0, len(glimpse.head) + len(glimpse.tail) - glimpse.size) :]
    # It reads features of qcow2 in any version, and descriptors in ASCII alone.
    plain = vmdk.in_plain_ascii if declared is DiskFormat.VMDK else qcow2.with_its_features
    head = plain(glimpse.head)
    if not _feed(inspector, head, rest):
        raise corrupt(f"The header of this {declared} image makes no sense.")
    try:
        inspector.safety_check()
    except (format_inspector.SafetyCheckFailed, format_inspector.ImageFormatError) as failure:
        raise unsafe(f"This {declared} image is not safe to open.", CONVERT_FIRST) from failure
