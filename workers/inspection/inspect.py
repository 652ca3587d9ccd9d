"""Detects a file's real format and decides from its bytes alone whether qemu-img may read it.

Two independent checks of the same bytes: the inspectors of oslo.utils, and our own rules in `workers.inspection`,
which cover more cases and tell the owner what to do. oslo.utils is loaded with the first file: it takes a while.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from app.lifecycle import DiskFormat
from app.sizes import KIB
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

if TYPE_CHECKING:
    from oslo_utils.imageutils import format_inspector

_OSLO_NAMES = {"qcow2", "vmdk", "vhd", "vhdx", "vdi", "qed", "iso", "luks"}
_CHUNK = 64 * KIB
_BARE = "Check that the file is complete. If it is a raw disk image, upload it again as RAW."
_BARE_VMDK = (
    "If it is the only data file of its disk (its name ends in -flat.vmdk), upload it again as RAW. If it is one of "
    f"several: {CONVERT_DESCRIPTOR}"
)


@dataclass(frozen=True, slots=True)
class Inspection:
    """The result of an inspection: the format, the facts from its header (None for raw), warnings for the owner."""

    format: DiskFormat
    facts: Facts | None
    warnings: tuple[str, ...] = field(default=())

    @property
    def claimed_size(self) -> int | None:
        """The size of the disk according to its header, in bytes; None if the header does not settle it."""
        match self.facts:
            case qcow2.Qcow2Facts(header=header):
                return header.size
            case vmdk.VmdkFacts(virtual_size=size) | vhdx.VhdxFacts(virtual_size=size):
                return size
        return None


def inspect_head(head: bytes, declared: DiskFormat, size: int, max_virtual_size: int = MAX_VIRTUAL_SIZE) -> None:
    """Refuse a file of `size` bytes early, by its first 256 KiB or fewer, while the rest still arrives.

    Raises ImageFailed only if more bytes can't change the result.
    """
    head = head[:HEAD_SIZE]
    tail = head[-TAIL_SIZE:] if len(head) >= size else None
    _inspect(Glimpse(head, tail, size), declared, None, max_virtual_size)


def inspect(
    read_at: vhdx.ReadAt, declared: DiskFormat, size: int, max_virtual_size: int = MAX_VIRTUAL_SIZE
) -> Inspection:
    """Inspect a source of `size` bytes through `read_at(offset, length)`, wherever it is stored.

    `read_at` returns fewer bytes at the end of the source and none past it. Raises ImageFailed, and what `read_at`
    raises.
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
    """Check that the content has the declared format and no other. Raises ImageFailed.

    The head decides. A footer counts only if the head has no known format, since any disk's last sector may look like
    one. For a declared VHD the footer decides, since the head of a fixed VHD belongs to the guest.
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
            "This file matches several formats at once.",
            "Upload an image that one tool wrote in one format.",
        )
    if not found and not foreign and ends_in_vhd_footer(tail):
        found = DiskFormat.VHD
    if found == declared:
        return
    # A magic number has at most eight bytes; for a declared VHD the end of the file has arrived by now.
    decided = declared is not DiskFormat.RAW and len(head) >= min(8, glimpse.size)
    if foreign or found or decided:
        raise _not_as_declared(declared, found, foreign)


def _not_as_declared(declared: DiskFormat, found: DiskFormat | None, foreign: Signature | None) -> Exception:
    if foreign:
        return mismatch(f"The file was declared as {declared}. Detected: {foreign.name}.", foreign.advice)
    if found:
        return mismatch(f"The file was declared as {declared}. Detected: {found}.", f"Upload it again as {found}.")
    return mismatch(
        f"The file was declared as {declared}, but its content is not {declared}.",
        _BARE_VMDK if declared is DiskFormat.VMDK else _BARE,
    )


def _oslo_matches(head: bytes) -> "Iterator[tuple[str, format_inspector.FileInspector]]":
    """The inspectors of oslo.utils that recognize the head; partition tables and raw bytes do not count as formats."""
    from oslo_utils.imageutils import format_inspector

    for name, make in format_inspector.ALL_FORMATS.items():
        inspector = make()
        if name in _OSLO_NAMES and _feed(inspector, head) and inspector.format_match:
            yield name, inspector


def _feed(inspector: "format_inspector.FileInspector", *pieces: bytes) -> bool:
    """Feed bytes to an inspector; return False if it fails on them, with whichever exception."""
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
    """Run the safety checks of oslo.utils on a file that passed ours; they need the end of the file too."""
    if declared not in (DiskFormat.QCOW2, DiskFormat.VMDK) or glimpse.tail is None:
        return
    from oslo_utils.imageutils import format_inspector

    inspector = format_inspector.ALL_FORMATS[declared.lower()]()
    rest = glimpse.tail[max(0, len(glimpse.head) + len(glimpse.tail) - glimpse.size) :]
    # oslo.utils reads qcow2 features in any version, and descriptors in ASCII only.
    plain = vmdk.in_plain_ascii if declared is DiskFormat.VMDK else qcow2.with_its_features
    head = plain(glimpse.head)
    if not _feed(inspector, head, rest):
        raise corrupt(f"The header of this {declared} image is invalid.")
    try:
        inspector.safety_check()
    except (format_inspector.SafetyCheckFailed, format_inspector.ImageFormatError) as failure:
        raise unsafe(f"This {declared} image is not safe to open.", CONVERT_FIRST) from failure
