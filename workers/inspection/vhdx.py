"""Decides which VHDX files are accepted, and locates their data, since QEMU's map of a VHDX contains no offsets.

Source: Microsoft, [MS-VHDX] 2.1, 2.2.3 Region Table, 2.5 BAT, 2.6 Metadata Region. The log (2.3) is left to QEMU,
which does not open a file read-only if its log has to be replayed.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from uuid import UUID

from app.sizes import KIB, MIB, exactly
from workers.inspection.claims import Places, check_total
from workers.inspection.numbers import numbers_in
from workers.inspection.refusals import CONVERT_FIRST, check_virtual_size, corrupt, unsafe, unsupported
from workers.inspection.signatures import Glimpse
from workers.qcow2.extents import DoubtfulMap, Extents, check

REGIONS_AT = 192 * KIB
TABLE_SIZE = 64 * KIB
MOST_ENTRIES = 2047
# The BAT is read in pieces and checked in steps of these sizes, in bytes.
_PIECE, _STEP = MIB, KIB

BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
VIRTUAL_DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
LOGICAL_SECTOR_SIZE = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")

HAS_PARENT = 2
FULLY_PRESENT = 6
# Not present, undefined, zero, unmapped, and unmapped as written before 1.0: zeros, where there is no parent.
READS_AS_ZEROS = {0, 1, 2, 3, 5}

ReadAt = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class VhdxFacts:
    """The facts from the metadata, and the place of the block allocation table (BAT) in the file. All are bytes."""

    virtual_size: int
    block_size: int
    bat_offset: int
    bat_length: int

    @property
    def blocks(self) -> int:
        """The number of blocks of the disk."""
        return -(-self.virtual_size // self.block_size)

    @property
    def ratio(self) -> int:
        """The number of blocks that one sector bitmap covers."""
        return (1 << 23) * 512 // self.block_size

    @property
    def entries(self) -> int:
        """The number of entries that the BAT needs, for the blocks and for the bitmaps between them."""
        return self.blocks + (self.blocks - 1) // self.ratio


def examine(glimpse: Glimpse, read_at: ReadAt | None, max_virtual_size: int) -> VhdxFacts | None:
    """Read and check headers and metadata. Raises ImageFailed.

    `read_at(offset, length)` reads more of the file. It is None while the file still arrives; the result is then None.
    """
    if len(glimpse.head) < REGIONS_AT + TABLE_SIZE:
        if glimpse.whole_head:
            raise corrupt("The file is cut off: it ends within the headers of its VHDX.")
        return None
    regions = _regions(glimpse)
    if read_at is None:
        return None
    metadata_at, metadata_length = regions[METADATA]
    bat_offset, bat_length = regions[BAT]
    items = _metadata(read_at(metadata_at, min(metadata_length, MIB)))
    block_size, flags = struct.unpack("<II", items[FILE_PARAMETERS])
    virtual_size = int.from_bytes(items[VIRTUAL_DISK_SIZE], "little")
    if flags & HAS_PARENT or PARENT_LOCATOR in items:
        raise unsafe(
            "This VHDX needs a parent: it is a differencing disk, which stores only changes.",
            "Merge it into its parent (Hyper-V: Merge-VHD) and upload the whole disk.",
        )
    sector_size = int.from_bytes(items[LOGICAL_SECTOR_SIZE], "little")
    if sector_size != 512:
        raise unsupported(
            f"This VHDX has a logical sector size of {exactly(sector_size)}; only 512 bytes are supported.",
            "Copy its content to a disk with 512-byte sectors (Hyper-V: New-VHD -LogicalSectorSizeBytes 512) and "
            "upload that disk.",
        )
    check_virtual_size(virtual_size, max_virtual_size)
    if not MIB <= block_size <= 256 * MIB or block_size & (block_size - 1):
        raise corrupt("The VHDX metadata contain an invalid block size.")
    return VhdxFacts(virtual_size, block_size, bat_offset, bat_length)


def payload(facts: VhdxFacts, read_at: ReadAt, size: int) -> Extents:
    """Where the blocks of the disk are stored in a file of `size` bytes, by its BAT. Raises ImageFailed, Truncated.

    No check is left to QEMU: it also refuses invalid entries, but only once it has read the disk up to them. It accepts
    blocks that overlap; 2.1 forbids them.
    """
    if facts.entries * 8 > facts.bat_length:
        raise corrupt("The block table of this VHDX is too short for its disk.")
    extents = Extents()
    for block, state, offset in _blocks(facts, read_at):
        if state == FULLY_PRESENT and offset:
            start = block * facts.block_size
            extents.add(start, min(facts.block_size, facts.virtual_size - start), offset)
        elif state not in READS_AS_ZEROS:
            raise corrupt(f"The entry of block {block} in the block table of this VHDX is invalid.")
    try:
        check(extents, facts.virtual_size, size)
    except DoubtfulMap as reason:
        raise unsafe("Several parts of the disk in this image share one part of the file.", CONVERT_FIRST) from reason
    return extents


def mapped(facts: VhdxFacts, read_at: ReadAt, size: int, tick: Callable[[], None]) -> int:
    """Bytes of the disk in a file of `size` bytes that are mapped to data.

    `tick` is called repeatedly. Raises ImageFailed, and what `read_at` and `tick` raise.
    """
    places = Places(size, facts.block_size, "block")
    count = 0
    for _, state, offset in _blocks(facts, read_at, tick):
        if state == FULLY_PRESENT and offset:
            places.take(offset)
            count += 1
    return check_total(count * facts.block_size, 0, size, facts.block_size)


def _blocks(
    facts: VhdxFacts, read_at: ReadAt, tick: Callable[[], None] = lambda: None
) -> Iterator[tuple[int, int, int]]:
    """Number, state and file offset (bytes) of each block; long runs of blocks that read as zeros are skipped."""
    for place, entry in _entries(facts, read_at, tick):
        # Every `ratio` blocks are followed by the entry of a sector bitmap, which only differencing disks use.
        group, index = divmod(place, facts.ratio + 1)
        if index < facts.ratio:
            yield group * facts.ratio + index, entry & 7, entry >> 20 << 20


def _entries(facts: VhdxFacts, read_at: ReadAt, tick: Callable[[], None]) -> Iterator[tuple[int, int]]:
    """The entries of the BAT with their indices; steps of identical entries for zero blocks are skipped.

    (A disk of 16 TiB has up to 16 million entries.)
    """
    end = 8 * min(facts.entries, facts.bat_length // 8)
    for begin in range(0, end, _PIECE):
        tick()
        piece = read_at(facts.bat_offset + begin, min(_PIECE, end - begin))
        for step in range(0, len(piece), _STEP):
            raw = piece[step : step + _STEP]
            first = int.from_bytes(raw[:8], "little")
            if first not in READS_AS_ZEROS or raw != raw[:8] * (len(raw) // 8):
                yield from enumerate(numbers_in("Q", raw, "little"), (begin + step) // 8)


def _regions(glimpse: Glimpse) -> dict[UUID, tuple[int, int]]:
    """Offset and length (bytes) of the BAT and of the metadata, both inside the file. Raises ImageFailed."""
    table = glimpse.head[REGIONS_AT : REGIONS_AT + TABLE_SIZE]
    signature, _, count = struct.unpack_from("<4sII", table)
    if signature != b"regi" or count > MOST_ENTRIES:
        raise corrupt("The VHDX has no valid region table.")
    found: dict[UUID, tuple[int, int]] = {}
    for place in range(16, 16 + 32 * count, 32):
        guid, offset, length, _ = struct.unpack_from("<16sQII", table, place)
        region = UUID(bytes_le=guid)
        if region in found:
            raise corrupt("The region table of the VHDX lists a region twice.")
        found[region] = (offset, length)
    for region in (BAT, METADATA):
        offset, length = found.get(region, (0, 0))
        if offset < MIB or offset + length > glimpse.size:
            raise corrupt("The file is cut off or damaged: a region of the VHDX is missing or outside the file.")
    return found


def _metadata(region: bytes) -> dict[UUID, bytes]:
    """The metadata items that every VHDX has, and the parent locator if there is one. Raises ImageFailed."""
    sizes = {FILE_PARAMETERS: 8, VIRTUAL_DISK_SIZE: 8, LOGICAL_SECTOR_SIZE: 4}
    items: dict[UUID, bytes] = {}
    if len(region) < TABLE_SIZE or not region.startswith(b"metadata"):
        raise corrupt("The VHDX has no metadata table.")
    count = min(int.from_bytes(region[10:12], "little"), MOST_ENTRIES)
    for place in range(32, 32 + 32 * count, 32):
        guid, offset, length = struct.unpack_from("<16sII", region, place)
        items[UUID(bytes_le=guid)] = region[offset : offset + length]
    if any(len(items.get(item, b"")) != size for item, size in sizes.items()):
        raise corrupt("The VHDX metadata are incomplete.")
    return items
