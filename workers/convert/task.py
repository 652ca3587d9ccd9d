"""The task of a conversion: what to convert, and where to store the result."""

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from app.lifecycle import DiskFormat

# How an object is named: by a path in a folder, by a key in an S3 store.
Where = TypeVar("Where", Path, str)


@dataclass(frozen=True, slots=True)
class ConversionTask(Generic[Where]):
    """A source, its owner's declarations, and the result to create.

    `source_size` is its recorded size in bytes; in a folder, the file may be longer after a kill. `declared_sha256` is
    lower-case hex. `workspace` is a folder that only this job uses. For a source in a folder, it is on the filesystem
    of the result; a source that is rewritten in place becomes the result and no longer exists afterwards. For a source
    in a store, it contains only sockets.
    """

    source: Where
    source_size: int
    result: Where
    workspace: Path
    declared_format: DiskFormat
    declared_sha256: str | None = None
