"""A made-up image: its file, the disk that was written into it, and the positions of its structures."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from hypothesis import strategies as st

from app.lifecycle import DiskFormat

SECTOR = 512
KiB, MiB = 1 << 10, 1 << 20

# Offset in a file and length, in bytes.
Place = tuple[int, int]


class Unit(StrEnum):
    """What a unit of a disk (a cluster, a grain, a block) is in its file."""

    HOLE = "hole"
    ZERO = "zero"
    PLAIN = "plain"
    PACKED = "packed"


@dataclass(frozen=True, slots=True)
class Built:
    """An image in `file`, with the bytes of its `disk`; `about` says how it was made.

    `structures` are its headers and tables: damage there matters most. `miscounted`: its reference counts are wrong.
    """

    format: DiskFormat
    file: bytes = field(repr=False)
    disk: bytes = field(repr=False)
    about: str
    structures: Sequence[Place] = field(repr=False)
    miscounted: bool = False


class File:
    """Bytes at places, put together in the end; `end` is where the last of them ends."""

    def __init__(self) -> None:
        self.structures: list[Place] = []
        self._content = bytearray()

    @property
    def end(self) -> int:
        return len(self._content)

    def put(self, offset: int, data: bytes) -> None:
        """Write data, as long as it is, over what may be there."""
        self._content += bytes(max(0, offset + len(data) - self.end))
        self._content[offset : offset + len(data)] = data

    def put_structure(self, offset: int, data: bytes) -> None:
        """Write a header or a table."""
        self.put(offset, data)
        self.structures.append((offset, len(data)))

    def bytes(self) -> bytes:
        """All of it."""
        return bytes(self._content)


def content(seed: int, length: int) -> bytes:
    """Bytes that no reader could make up: half of them shrink, half of them don't."""
    half = length // 2
    return random.Random(seed).randbytes(length - half) + bytes([seed % 255 + 1]) * half


@st.composite
def layouts(draw: st.DrawFn, unit: int, most: int, kinds: Sequence[Unit]) -> tuple[bytes, list[Unit]]:
    """A disk of up to `most` units of `unit` bytes, the last cut at any sector, and the kind of each unit."""
    count = draw(st.integers(1, most))
    size = unit * count - SECTOR * draw(st.integers(0, unit // SECTOR - 1))
    # Of one kind alone, or of some.
    found = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=len(kinds)))
    units = draw(st.lists(st.sampled_from(found), min_size=count, max_size=count))
    seed = draw(st.integers(0, 1 << 16))
    disk = b"".join(
        content(seed + number, unit) if kind in (Unit.PLAIN, Unit.PACKED) else bytes(unit)
        for number, kind in enumerate(units)
    )
    return disk[:size], units


def unit_of(disk: bytes, unit: int, number: int) -> bytes:
    """A unit of a disk; zeros follow where the disk ends within it."""
    return disk[number * unit : (number + 1) * unit].ljust(unit, b"\0")


def round_up(number: int, unit: int) -> int:
    """The next multiple of `unit`, or the number if it is one."""
    return -(-number // unit) * unit
