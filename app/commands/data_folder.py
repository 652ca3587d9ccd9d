"""The data folder, and the folder of the object store: for their owner's eyes only, and for one `images up`.

A folder of mode 0700 hides everything below it, so that a large store need not be walked. New files get their modes
from the umask of the process.
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
# What a folder may hold and still be as good as empty: ext4 puts this into every new file system.
_OF_NOBODY = frozenset({"lost+found"})

log = structlog.get_logger()


def keep_files_private() -> None:
    """Make files and folders that this process creates readable by its user alone."""
    os.umask(0o077)


def make_folders(settings: Settings, *, always: bool = False) -> None:
    """Make the folders that the settings name, where the process needs them, and close them to other users.

    `always` says that the data folder is needed in any case. Raises SettingsError.
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
        raise SettingsError(f"{folder} can't be {what}: {error.strerror}; choose another by {setting}") from error
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise SettingsError(f"{folder} can't be {what}: it is not writable; choose another by {setting}")
    _close(folder, stat.S_IFDIR)
    for name in own:
        with suppress(FileNotFoundError):
            _close(folder / name, stat.S_IFREG)


def _require_own(folder: Path, what: str, setting: str, own: frozenset[str]) -> None:
    """Keep a slip of the command line, such as `--data /srv`, from closing a folder that others need."""
    names = {name for name in os.listdir(folder) if not name.startswith(".")} - _OF_NOBODY
    if names and not names & own:
        raise SettingsError(f"{folder} can't be {what}: it holds other files; choose an empty folder by {setting}")
    if folder.stat().st_mode & stat.S_ISVTX:
        raise SettingsError(f"{folder} can't be {what}: all users share it; choose a folder in it by {setting}")


def _close(path: Path, kind: int) -> None:
    """Take away what group and others may do with a file or folder of this kind. Raises FileNotFoundError."""
    # A link is left alone: whoever could write to the folder until now may have laid it.
    found = os.stat(path) if kind == stat.S_IFDIR else os.lstat(path)
    mode = stat.S_IMODE(found.st_mode)
    if stat.S_IFMT(found.st_mode) != kind or not mode & 0o077:
        return
    try:
        os.chmod(path, mode & 0o700)
    except PermissionError:  # a volume may belong to another user, and be open to ours by its group
        log.warning("data_folder.open_to_others", path=str(path), mode=oct(mode), hint="chown it to this user")


@contextmanager
def held_alone(settings: Settings) -> Iterator[None]:
    """Keep every other `images up` off the data folder, for as long as this process lives.

    The kernel drops the lock with the process, however that ends. `images serve` and `images work` need none: they
    share the folder. Raises SettingsError when another process has it.
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
        f"another `images up`{who} is running on {data}; stop it, choose another folder by --data, "
        "or run `images serve` beside it"
    )
