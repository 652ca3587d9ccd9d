"""The outcome of a conversion: the way it took, and the result."""

from dataclasses import dataclass
from enum import StrEnum

from app.lifecycle import DiskFormat


class Way(StrEnum):
    """How a source became its result: with new tables around its data, only a new header, or all data copied."""

    REFERENCE = "REFERENCE"
    KEEP = "KEEP"
    COPY = "COPY"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A result, with warnings for its owner. Sizes are in bytes: of the disk, of the clusters in use, of the file."""

    way: Way
    detected_format: DiskFormat
    virtual_size: int
    stored_size: int
    file_size: int
    warnings: tuple[str, ...] = ()
