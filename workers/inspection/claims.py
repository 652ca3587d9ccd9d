"""What the tables of a file claim that it holds, counted against what it can hold.

A table costs 8 bytes an entry and maps 64 KiB or more with it. Where entries share what they point at, a file of some
KiB describes a disk of many TiB, and everyone who reads that disk has to go through all of it.
"""

from workers.inspection.refusals import CONVERT_FIRST, corrupt, unsafe

# Deflate makes 1,032 bytes of one at most; the rest is for tables and rounding.
MOST_INFLATED = 1100
# 64 MiB of bits. What a file has beyond so many places is not compared, but counted all the same.
_MOST_PLACES = 1 << 29
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


class Places:
    """Where in a file of `size` bytes something begins: inside it, and nothing at the same place twice.

    Two things that both take `unit` bytes or more never begin within the same `unit` bytes of the file, unless they
    overlap: a bit for every unit is enough. `what` names them in messages.
    """

    def __init__(self, size: int, unit: int, what: str) -> None:
        self._size = size
        self._unit = unit
        self._what = what
        self._most = min(-(-size // unit), _MOST_PLACES)
        # Memory that stays zero is not taken from the machine.
        self._taken = bytearray(-(-self._most // 8))

    def take(self, offset: int, count: int = 1) -> None:
        """Note things at `offset` and each of the units that follow it, `count` in all. Raises ImageFailed."""
        if offset + (count - 1) * self._unit >= self._size:
            raise cut_off()
        first = offset // self._unit
        last = min(first + count, self._most)
        if first < last and not (self._mark_one(first) if count == 1 else self._mark(first, last)):
            raise unsafe(f"Several places of the disk in this image share one {self._what} of the file.", CONVERT_FIRST)

    def meets(self, other: "Places") -> bool:
        """Whether something was noted at a place at which `other`, of the same units, has something too."""
        return bool(int.from_bytes(self._taken, "little") & int.from_bytes(other._taken, "little"))

    def _mark_one(self, place: int) -> bool:
        """As `_mark`, for one bit: of a fragmented disk there are millions."""
        bit = 1 << (place & 7)
        taken = self._taken[place >> 3]
        self._taken[place >> 3] = taken | bit
        return not taken & bit

    def _mark(self, first: int, last: int) -> bool:
        """Set bits; False if one of them was set before."""
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
    """The refusal of a file that ends before its data do: nothing brings them back."""
    return corrupt("The file ends before its data do: it is cut off.")


def check_total(plain: int, inflated: int, size: int, unit: int) -> int:
    """See that a file of `size` bytes can hold what is mapped; gives how much that is in all. All are bytes.

    `plain` is mapped as it lies in the file, `inflated` comes out of compressed units. A file may end within its last
    `unit`. Raises ImageFailed.
    """
    mapped = plain + inflated
    if plain + inflated // MOST_INFLATED > size + unit:
        raise unsafe(
            f"The tables of this image map {spelled(mapped)} of data, which a file of {spelled(size)} can't hold: "
            f"at most its own size, or {MOST_INFLATED:,} times that where data are compressed.",
            "Compress it less, with `qemu-img convert -c -O qcow2 FILE image.qcow2`, and upload the new file.",
        )
    return mapped


def spelled(size: int) -> str:
    """A number of bytes for people: `640 KiB`, `1.5 TiB`."""
    power = min(max(0, size.bit_length() - 1) // 10, len(_UNITS) - 1)
    return f"{round(size / (1 << 10 * power), 1):g} {_UNITS[power]}"
