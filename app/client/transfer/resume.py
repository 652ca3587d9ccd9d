"""Remembers uploads that have begun, so that the next run of the same command goes on with them.

One JSON file for each, in `$XDG_CACHE_HOME/image-gateway/uploads` (~/.cache without it), readable by its owner
alone; beside it a file that is locked by the process which does the upload, for as long as it lives.

Earlier versions named the records by the file's mtime too. Theirs are not found again, and dropped as stale ones are;
the uploads expire. They do not say enough to go on with them: another file may have the same mtime.
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

# The gateway forgets an upload that gets no byte for a day, unless it is configured otherwise.
_STALE_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known of an upload. Without `image_id`, whether the gateway has made the image is not known.

    `source` tells the bytes that it was begun with from others.
    """

    idempotency_key: str
    source: Mapping[str, object]
    image_id: str | None = None


class UploadRecord:
    """The memory of one upload, claimed by this process."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> Begun | None:
        """What an earlier run has left; None when there is nothing that makes sense.

        Without a source, as earlier versions wrote it, it does not say which bytes the upload has, and makes none.
        """
        try:
            told = json.loads(self._file.read_text())
            key, source, image_id = told["idempotency_key"], told["source"], told["image_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if isinstance(key, str) and isinstance(source, dict) and isinstance(image_id, str | None):
            return Begun(key, source, image_id)
        return None

    def begin(self, source: Mapping[str, object]) -> Begun:
        """Remember that an image is about to be made of `source`."""
        return self._write(Begun(secrets.token_hex(16), source))

    def made(self, begun: Begun, image_id: str) -> Begun:
        """Remember which image it became."""
        return self._write(replace(begun, image_id=image_id))

    def forget(self) -> None:
        """There is nothing to go on with any more."""
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
    """Where uploads are remembered (XDG Base Directory Specification: a path that is not absolute does not count)."""
    configured = Path(environ.get("XDG_CACHE_HOME", ""))
    base = configured if configured.is_absolute() else Path.home() / ".cache"
    return base / "image-gateway" / "uploads"


@contextmanager
def claimed(folder: Path, identity: Mapping[str, object]) -> Iterator[UploadRecord]:
    """The memory of the upload that `identity` tells from all others; no other process can claim it meanwhile.

    It is found again when the bytes have changed: `identity` says nothing about them.

    Raises UnusableFile when one has it, or when nothing can be remembered there.
    """
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _drop_stale(folder)
        lock = _locked(folder / f"{key}.lock")
    except OSError as error:
        raise UnusableFile(
            f"Uploads can't be remembered in {folder}: {error.strerror}.",
            hint="Set XDG_CACHE_HOME to a folder that can be written to.",
        ) from error
    if lock is None:
        raise UnusableFile(
            "Another process is uploading this file right now.",
            hint="Wait for it, or end it; then run the command again to go on.",
            code="UPLOAD_RUNNING",
        )
    try:
        yield UploadRecord(folder / f"{key}.json")
    finally:
        # Removed while it is locked: whoever opened it before finds out, and makes a new one.
        (folder / f"{key}.lock").unlink(missing_ok=True)
        os.close(lock)


def _locked(path: Path) -> int | None:
    """A descriptor of the file, locked for as long as it is open; None when another process has the lock."""
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
