"""What a conversion comes to: the way it went, and what it made."""

from dataclasses import dataclass
from enum import StrEnum

from app.lifecycle import DiskFormat


class Way(StrEnum):
    """How a source became its result: new tables around its data, a new header alone, or all of it anew."""

    REFERENCE = "REFERENCE"
    KEEP = "KEEP"
    COPY = "COPY"


@dataclass(frozen=True, slots=True)
class Converted:
    """What came of a conversion. Sizes are bytes: of the disk, of the clusters in use, of the file."""

    way: Way
    detected_format: DiskFormat
    virtual_size: int
    stored_size: int
    file_size: int
    warnings: tuple[str, ...] = ()
