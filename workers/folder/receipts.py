"""The receipt of a conversion: a record next to the result, so that a kill at any moment costs only time.

One file, `RESULT.json`. It is on disk before any step that can't be derived from the other files: before the first
sector of a source is overwritten, and before a result gets its name. It stays until the caller has recorded the result.
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
    """The outcome of a conversion. `first_sector` is set only if the source itself becomes the result."""

    outcome: Outcome
    first_sector: FirstSector | None = None


def path_for(result: Path) -> Path:
    """The path of a result's receipt."""
    return result.with_name(f"{result.name}{SUFFIX}")


def write(result: Path, receipt: Receipt) -> None:
    """Write and flush the receipt. An incomplete receipt counts as not written. Raises OSError."""
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
    """The receipt of a result, or None if there is no complete one."""
    try:
        digest, _, body = path_for(result).read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    return _from_json(json.loads(body)) if digest == _digest(body) else None


def remove(result: Path) -> None:
    """Delete the receipt of a result, if there is one."""
    with suppress(FileNotFoundError):
        os.unlink(path_for(result))


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Call pwrite until all data is written. Raises OSError."""
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
