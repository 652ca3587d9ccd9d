"""What comes of a conversion: the way it went, and what it made."""

from dataclasses import dataclass
from enum import StrEnum

from app.lifecycle import DiskFormat


class Way(StrEnum):
    """How a source became its result: new tables around its data, a new header alone, or all data written again."""

    REFERENCE = "REFERENCE"
    KEEP = "KEEP"
    COPY = "COPY"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, and what its owner should know of it. Sizes are bytes: of the disk, the clusters in use, the file."""

    way: Way
    detected_format: DiskFormat
    virtual_size: int
    stored_size: int
    file_size: int
    warnings: tuple[str, ...] = ()
