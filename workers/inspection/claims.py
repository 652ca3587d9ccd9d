"""Compares the amount of data that a file's tables map with the amount that the file can hold.

A table entry takes 8 bytes and maps 64 KiB or more. If entries share their targets, a file of a few KiB describes a
disk of many TiB, and every reader of that disk has to process all of it.
"""

from app.sizes import spelled
from workers.inspection.refusals import CONVERT_FIRST, corrupt, unsafe

# Deflate expands a byte to at most 1,032 bytes; the rest is for tables and rounding.
MOST_INFLATED = 1100
# 64 MiB of bits. Places beyond this number are counted but not compared.
_MOST_PLACES = 1 << 29


class Places:
    """The places in a file of `size` bytes where objects begin: inside the file, and no two at the same place.

    Two objects of at least `unit` bytes each never begin within the same `unit` bytes of the file unless they overlap,
    so one bit per unit is enough. `what` names the objects in messages.
    """

    def __init__(self, size: int, unit: int, what: str) -> None:
        self._size = size
        self._unit = unit
        self._what = what
        self._most = min(-(-size // unit), _MOST_PLACES)
        # Pages that stay zero use no physical memory.
        self._taken = bytearray(-(-self._most // 8))

    def take(self, offset: int, count: int = 1) -> None:
        """Record `count` objects in consecutive units, the first at `offset`. Raises ImageFailed."""
        if offset + (count - 1) * self._unit >= self._size:
            raise cut_off()
        first = offset // self._unit
        last = min(first + count, self._most)
        if first < last and not (self._mark_one(first) if count == 1 else self._mark(first, last)):
            raise unsafe(f"Several parts of the disk in this image share one {self._what} of the file.", CONVERT_FIRST)

    def meets(self, other: "Places") -> bool:
        """Whether a place is recorded both here and in `other`, which has the same unit."""
        return bool(int.from_bytes(self._taken, "little") & int.from_bytes(other._taken, "little"))

    def _mark_one(self, place: int) -> bool:
        """Like `_mark`, for one bit: a fragmented disk needs millions of calls."""
        bit = 1 << (place & 7)
        taken = self._taken[place >> 3]
        self._taken[place >> 3] = taken | bit
        return not taken & bit

    def _mark(self, first: int, last: int) -> bool:
        """Set the bits; return False if one of them was already set."""
        taken = self._taken
        while first < last:
            byte, bit = divmod(first, 8)
            whole = (last - first) // 8
            if bit == 0 and whole:
                if taken.count(0, byte, byte + whole) != whole:
                    return False
                taken[byte : byte + whole] = b"\xff" * whole
                first += 8 * whole
                continue
            if taken[byte] >> bit & 1:
                return False
            taken[byte] |= 1 << bit
            first += 1
        return True


def cut_off() -> Exception:
    """The refusal of a file that ends before its data does."""
    return corrupt("The file is cut off: it ends before its data does.")


def check_total(plain: int, inflated: int, size: int, unit: int) -> int:
    """Check that a file of `size` bytes can hold the mapped data; return the total mapped. All values are bytes.

    `plain` is stored uncompressed, `inflated` is the size of compressed data once decompressed. The file may end
    within its last `unit`. Raises ImageFailed.
    """
    mapped = plain + inflated
    if plain + inflated // MOST_INFLATED > size + unit:
        raise unsafe(
            f"The tables of this image map {spelled(mapped)} of data, which a file of {spelled(size)} can't hold: "
            f"the limit is the size of the file, or {MOST_INFLATED:,} times that for compressed data.",
            "Compress it less with `qemu-img convert -c -O qcow2 FILE image.qcow2` and upload the new file.",
        )
    return mapped
