"""How much is measured with."""

from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
_ALIGNMENT = 1 << 20


@dataclass(frozen=True, slots=True)
class Scale:
    """`gib` of data in an image, so many `rounds` of each, `watchers` at once, pages for `seconds` a round.

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
        """So many times the data, in whole MiB."""
        return max(_ALIGNMENT, int(self.gib * times * GIB) // _ALIGNMENT * _ALIGNMENT)
