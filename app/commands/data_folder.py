"""Keeps the data folder and the folder of the object store private, and locks them for one `images up`.

A folder of mode 0700 protects everything in it, so that a large store need not be walked. The umask of the process
protects new files.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

from app.adapters.chosen import needs_data_folder
from app.errors import SettingsError
from app.settings import Settings

_LOCK = "up.lock"
_IN_DATA = frozenset(
    {"images.db", "images.db-wal", "images.db-shm", "secret", "connection.json", "store", "reserve", _LOCK}
)
_IN_STORE = frozenset({"objects", "open", "work"})
# A folder with only these counts as empty: ext4 creates this one in every new file system.
_OF_THE_SYSTEM = frozenset({"lost+found"})

log = structlog.get_logger()


def keep_files_private() -> None:
    """Make files and folders that this process creates readable only by its user."""
    os.umask(0o077)


def make_folders(settings: Settings, *, always: bool = False) -> None:
    """Create the folders that the settings name and the process needs, and deny other users access to them.

    With `always`, the data folder is created in any case. Raises SettingsError.
    """
    if always or needs_data_folder(settings):
        _make_private(settings.data.absolute(), "the data folder", "--data", _IN_DATA)
    if settings.s3 is None and not settings.objects_path.is_relative_to(settings.data.absolute()):
        _make_private(settings.objects_path, "the folder of the object store", "IMAGES_OBJECT_STORE", _IN_STORE)


def _make_private(folder: Path, what: str, setting: str, own: frozenset[str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _require_own(folder, what, setting, own)
    except OSError as error:
        raise SettingsError(f"{folder} can't be {what}: {error.strerror}; choose another with {setting}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsError(f"{folder} can't be {what}: it is not writable; choose another with {setting}")
    _close(folder, stat.S_IFDIR)
    for name in own:
        with suppress(FileNotFoundError):
            _close(folder / name, stat.S_IFREG)


def _require_own(folder: Path, what: str, setting: str, own: frozenset[str]) -> None:
    """Refuse a folder that others need, such as `/srv` after a mistyped `--data /srv`, instead of making it private."""
    names = {name for name in os.listdir(folder) if not name.startswith(".")} - _OF_THE_SYSTEM
    if names and not names & own:
        raise SettingsError(f"{folder} can't be {what}: it contains other files; choose an empty folder with {setting}")
    if folder.stat().st_mode & stat.S_ISVTX:
        raise SettingsError(f"{folder} can't be {what}: all users share it; choose a folder in it with {setting}")


def _close(path: Path, kind: int) -> None:
    """Remove the permissions of group and others from a file or folder of this kind. Raises FileNotFoundError."""
    # A link is left alone: another user who could write to the folder until now may have created it.
    found = os.stat(path) if kind == stat.S_IFDIR else os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_IFMT(found.st_mode) != kind or not mode & 0o077:
        return
    try:
        os.chmod(path, mode & 0o700)
    except PermissionError:  # a volume may belong to another user and be accessible to ours through its group
        log.warning(
            "data_folder.open_to_others", path=str(path), mode=oct(mode), hint="Make this user its owner with chown."
        )


@contextmanager
def locked_data_folder(settings: Settings) -> Iterator[None]:
    """Lock the data folder against every other `images up` as long as this process runs.

    The kernel releases the lock when the process ends for any reason. `images serve` and `images work` need no lock:
    they share the folder. Raises SettingsError when another process has the lock.
    """
    data = settings.data.absolute()
    descriptor = os.open(data / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SettingsError(_in_use(data, os.pread(descriptor, 20, 0))) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _in_use(data: Path, holder: bytes) -> str:
    who = f" (process {holder.decode().strip()})" if holder.strip().isdigit() else ""
    return (
        f"another `images up`{who} is running on {data}; stop it, choose another folder with --data, "
        "or run `images serve` in addition to it"
    )
