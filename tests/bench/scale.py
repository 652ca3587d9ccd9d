"""How much is measured with."""

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
_ALIGNMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class Scale:
    """`gib` of data per image, `rounds` of each, `watchers` at the same time, pages for `seconds` per round.

    `images` are in the larger catalogue, and `crowd` watch two API processes. Everything is written below `folder`.
    """

    gib: float
    rounds: int
    watchers: int
    events: int
    seconds: float
    folder: Path
    images: int
    crowd: int

    def bytes_of(self, times: float = 1) -> int:
        """`times` the data, in bytes, as whole MiB."""
        return max(_ALIGNMENT, int(self.gib * times * GIB) // _ALIGNMENT * _ALIGNMENT)
