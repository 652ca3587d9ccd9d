"""Lists a folder entry by entry, since a list of a million objects may not fit into memory."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from app.adapters.folder.upload import OpenUpload

# Objects that are listed at a time, in a thread.
LISTED_AT_ONCE = 1000


def listing(objects: Path, opened: Path) -> Iterator[tuple[str, datetime]]:
    """The keys of objects and open uploads, and when they last changed. Blocks. Raises OSError."""
    yield from _files(objects, "")
    with os.scandir(opened) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield entry.name.replace("+", "/"), _instant(OpenUpload(Path(entry.path)).last_change())


def _files(folder: Path, prefix: str) -> Iterator[tuple[str, datetime]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder / entry.name, f"{prefix}{entry.name}/")
                continue
            try:
                changed = entry.stat(follow_symlinks=False).st_mtime
            except FileNotFoundError:  # deleted just now
                continue
            yield prefix + entry.name, _instant(changed)


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
