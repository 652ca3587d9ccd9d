"""What a conversion writes down beside its result, so that a kill at any moment costs nothing but time.

One file, `RESULT.json`, on disk before anything happens that could not be told from the files alone: before the
first sector of a source is overwritten, and before a result gets its name. It stays until the caller has taken
note of the result.
"""

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.catalog.outcome import Outcome, Way
from app.lifecycle import DiskFormat

SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class FirstSector:
    """The first sector of a source that is rewritten in place, before and after."""

    before: bytes
    after: bytes


@dataclass(frozen=True, slots=True)
class Receipt:
    """What will have been done. `first_sector` is there only when the source itself becomes the result."""

    outcome: Outcome
    first_sector: FirstSector | None = None


def path_for(result: Path) -> Path:
    """Where the receipt of a result lies."""
    return result.with_name(f"{result.name}{SUFFIX}")


def write(result: Path, receipt: Receipt) -> None:
    """Put the receipt on disk for good. Cut off in the middle, it counts as not written."""
    body = json.dumps(_as_json(receipt), separators=(",", ":")).encode()
    path = path_for(result)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        write_all(fd, _digest(body) + b"\n" + body, 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_folder(path.parent)


def read(result: Path) -> Receipt | None:
    """The receipt of a result, or None when there is none that is whole."""
    try:
        digest, _, body = path_for(result).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    return _from_json(json.loads(body)) if digest == _digest(body) else None


def remove(result: Path) -> None:
    """Remove the receipt of a result; harmless when there is none."""
    with suppress(FileNotFoundError):
        os.unlink(path_for(result))


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """pwrite, until everything is written. Raises OSError."""
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode()


def _as_json(receipt: Receipt) -> dict[str, Any]:
    sector = receipt.first_sector
    sectors = sector and {"before": sector.before.hex(), "after": sector.after.hex()}
    return {"converted": asdict(receipt.outcome), "first_sector": sectors}


def _from_json(found: dict[str, Any]) -> Receipt:
    facts = found["converted"]
    outcome = Outcome(
        way=Way(facts["way"]),
        detected_format=DiskFormat(facts["detected_format"]),
        virtual_size=facts["virtual_size"],
        stored_size=facts["stored_size"],
        file_size=facts["file_size"],
        warnings=tuple(facts["warnings"]),
    )
    sectors = found["first_sector"]
    if sectors is None:
        return Receipt(outcome)
    first_sector = FirstSector(bytes.fromhex(sectors["before"]), bytes.fromhex(sectors["after"]))
    return Receipt(outcome, first_sector)
