"""What to convert, and where to."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from app.lifecycle import DiskFormat

# How a place is named: by a path in a folder, by a key in an S3 store.
Where = TypeVar("Where", Path, str)


@dataclass(frozen=True, slots=True)
class ConversionTask(Generic[Where]):
    """A source, what its owner says of it, and the result that it becomes.

    `source_size` is its recorded size in bytes; in a folder, the file may be longer after a kill. `declared_sha256` is
    lower-case hex. `workspace` is a folder that only this job uses. In a folder, it is on the filesystem of the result,
    and a source that is rewritten in place is gone afterwards: it has become the result. For a source in a store,
    nothing but sockets is put there.
    """

    source: Where
    source_size: int
    result: Where
    workspace: Path
    declared_format: DiskFormat
    declared_sha256: str | None = None
