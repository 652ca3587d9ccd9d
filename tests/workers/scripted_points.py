"""Points in time that are scripts: bytes over the bytes of a base, with any extents, and failures where one wants."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.hypervisor.port import Extent

UNIT = 64 << 10


@dataclass
class ScriptedPoint:
    """Implements PointReader. `reads` are the ranges that were read, `asked` those whose extents were asked for.

    `happens` is called before each read, with its number, and may raise. Not more than `span` bytes are reported at a
    time.
    """

    content: bytes
    layout: Sequence[Extent]
    happens: Callable[[int], None] = lambda number: None
    span: int = 1 << 40
    reads: list[tuple[int, int]] = field(default_factory=list)
    asked: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)

    def extents(self, offset: int, length: int) -> Sequence[Extent]:
        end = min(offset + length, offset + self.span)
        self.asked.append((offset, end - offset))
        return [
            Extent(begin, last - begin, one.data, one.base)
            for one in self.layout
            if (begin := max(offset, one.offset)) < (last := min(end, one.offset + one.length))
        ]

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.happens(len(self.reads))
        self.reads.append((offset, len(buffer)))
        buffer[:] = self.content[offset : offset + len(buffer)]

    def raw(self, path: Path) -> Path:
        """The bytes of the point as a file."""
        path.write_bytes(self.content)
        return path


def point_over(base: bytes, size: int, changes: Iterable[tuple[int, bytes | int]]) -> ScriptedPoint:
    """A volume of `size` bytes over a base: at each offset, bytes were written, or as many bytes discarded.

    As with QEMU, what is not the base's is so in units of 64 KiB, and zeros follow the base's end.
    """
    content = bytearray(base[:size].ljust(size, b"\0"))
    kinds = {unit: "base" for unit in range(-(-size // UNIT))}
    for offset, change in changes:
        written = bytes(change) if isinstance(change, int) else change
        content[offset : offset + len(written)] = written
        for unit in range(offset // UNIT, -(-(offset + len(written)) // UNIT)):
            kinds[unit] = "data"
        if isinstance(change, int):
            for unit in range(-(-offset // UNIT), (offset + change) // UNIT):
                kinds[unit] = "zeros"
    layout: list[Extent] = []
    for unit, kind in kinds.items():
        begin, end = unit * UNIT, min((unit + 1) * UNIT, size)
        if kind != "base":
            layout.append(Extent(begin, end - begin, kind == "data", base=False))
            continue
        within = max(begin, min(end, len(base)))
        if within > begin:
            layout.append(Extent(begin, within - begin, data=True, base=True))
        if end > within:
            layout.append(Extent(within, end - within, data=False, base=False))
    return ScriptedPoint(bytes(content[:size]), layout)


def random_bytes(length: int, seed: int = 1) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(length)


def shrinking_bytes(length: int, seed: int = 1) -> bytes:
    """Bytes of which every 4 KiB compress to about half."""
    numbers = random.Random(seed)
    return b"".join(numbers.randbytes(2048) + bytes(2048) for _ in range(-(-length // 4096)))[:length]
