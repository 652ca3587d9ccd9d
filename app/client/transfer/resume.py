"""Records uploads that have begun, so that the next run of the same command resumes them.

Each upload has a JSON file in `$XDG_CACHE_HOME/image-gateway/uploads` (~/.cache by default) that only its owner can
read, and next to it a file that the uploading process keeps locked while it runs.

Earlier versions also named the records by the file's mtime. Their records are not found again, and are deleted when
they are stale; the uploads expire. They can't be resumed safely: another file may have the same mtime.
"""

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from app.client.errors import UnusableFile

# The gateway expires an upload that receives no bytes for a day, unless it is configured otherwise.
_STALE_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Begun:
    """The record of an upload. Without `image_id`, it is unknown whether the gateway has created the image.

    `source` identifies the bytes that the upload began with.
    """

    idempotency_key: str
    source: Mapping[str, object]
    image_id: str | None = None


class UploadRecord:
    """The record of one upload, locked by this process."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> Begun | None:
        """The record of an earlier run; None if there is none, or it is invalid.

        Earlier versions wrote no source, so the upload's bytes are unknown and the record counts as invalid.
        """
        try:
            record = json.loads(self._file.read_text())
            key, source, image_id = record["idempotency_key"], record["source"], record["image_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if isinstance(key, str) and isinstance(source, dict) and isinstance(image_id, str | None):
            return Begun(key, source, image_id)
        return None

    def begin(self, source: Mapping[str, object]) -> Begun:
        """Record that an image is about to be created from `source`."""
        return self._write(Begun(secrets.token_hex(16), source))

    def made(self, begun: Begun, image_id: str) -> Begun:
        """Record the id of the image that was created."""
        return self._write(replace(begun, image_id=image_id))

    def forget(self) -> None:
        """Delete the record: nothing is left to resume."""
        self._file.unlink(missing_ok=True)

    def _write(self, begun: Begun) -> Begun:
        draft = self._file.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            json.dump(asdict(begun), file)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._file)
        return begun


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The folder of the records (XDG Base Directory Specification: relative paths are ignored)."""
    configured = Path(environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    return base / "image-gateway" / "uploads"


@contextmanager
def claimed(folder: Path, identity: Mapping[str, object]) -> Iterator[UploadRecord]:
    """The record of the upload that `identity` names. No other process can claim it at the same time.

    It is found again after the bytes have changed, because `identity` does not depend on them.

    Raises UnusableFile if another process has claimed it, or if `folder` can't be written to.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_stale(folder)
        lock = _locked(folder / f"{key}.lock")
    except OSError as error:
        raise UnusableFile(
            f"The state of uploads can't be stored in {folder}: {error.strerror}.",
            hint="Set XDG_CACHE_HOME to a writable folder.",
        ) from error
    if lock is None:
        raise UnusableFile(
            "Another process is uploading this file right now.",
            hint="Wait until it has ended, or stop it; then run the command again to resume.",
            code="UPLOAD_RUNNING",
        )
    try:
        yield UploadRecord(folder / f"{key}.json")
    finally:
        # Removed while it is locked: a process that opened it before notices, and creates a new one.
        (folder / f"{key}.lock").unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path) -> int | None:
    """A descriptor of the file, locked while it is open; None if another process holds the lock."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _drop_stale(folder: Path) -> None:
    oldest = time.time() - _STALE_SECONDS
    for path in folder.iterdir():
        try:
            if path.stat().st_mtime >= oldest:
                continue
            lock = _locked(path.with_suffix(".lock"))
            if lock is not None:
                path.unlink()
                path.with_suffix(".lock").unlink(missing_ok=True)
                os.close(lock)
        except FileNotFoundError:  # another process was faster
            continue
