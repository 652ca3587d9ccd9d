"""Confines qemu, so that a hostile image that takes it over gains nothing.

Each job has its own folder with the source, read-only, and a folder for output. Memory, CPU, file size and time are
limited; the environment is empty except for what programs need; if we are root, qemu runs as another user; bubblewrap,
if it is installed and works, removes the network and all other files. In every case, the folder and the process are
gone at the end.
"""

import os
import shutil
import stat
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

from workers.errors import NotConfined, QemuMissing
from workers.limits import Bounds, Limits
from workers.qemu.namespaces import WRAPPERS, identity, namespaces
from workers.qemu.programs import outside_system, resolved

SOURCE = "source"
SOURCE_SOCKET = "source.sock"
OUTPUT = "out"
RESULT = f"{OUTPUT}/result"
PACKED = "packed"
_HINT = "install qemu-utils (and util-linux, which is part of every Debian)"


@dataclass(frozen=True, slots=True)
class Confinement:
    """How a process is confined: with or without bubblewrap, as another user or as ourselves.

    `shown` are the folders and files that its programs need and may read besides those of the system.
    """

    qemu_img: str
    bubblewrap: str | None
    user: int | None
    shown: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """A short, absolute path of the job's folder, as a process sees it."""
        return "/job" if self.bubblewrap else "/proc/self/cwd"

    def command(self, arguments: Sequence[str], bounds: Bounds, program: str | None = None) -> list[str]:
        """The command, for the job's folder, that runs `qemu-img ARGUMENTS` or another program within bounds."""
        # A process that runs out of CPU time gets SIGXCPU first, which shows that no one else killed it.
        limits = [resolved("prlimit"), f"--as={bounds.memory}", f"--cpu={bounds.cpu_seconds}:{bounds.cpu_seconds + 5}"]
        limits += [f"--fsize={bounds.file_size}", "--core=0", "--"]
        return [*self._namespaces(), *self._identity(), *limits, resolved(program or self.qemu_img), *arguments]

    def _identity(self) -> list[str]:
        # Only a direct child is signalled when we die; with bubblewrap, that child is bubblewrap.
        return identity(self.user) if self.bubblewrap else [*identity(self.user), "--pdeathsig=KILL"]

    def _namespaces(self) -> list[str]:
        if self.bubblewrap is None:
            return []
        command = [*namespaces(self.bubblewrap, self.user, self.shown), "--die-with-parent"]
        return [*command, "--ro-bind", ".", "/job", "--bind", OUTPUT, f"/job/{OUTPUT}", "--chdir", "/job"]


def environment() -> dict[str, str]:
    """The environment of a process: only the path of programs, English messages, and one malloc arena.

    With one arena per thread, each thread would reserve 64 MiB of address space and reach the memory limit.
    """
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "MALLOC_ARENA_MAX": "1"}


def confinement_for(limits: Limits, workspace: Path) -> Confinement:
    """The strictest confinement that works on this machine, tested in `workspace`.

    Raises QemuMissing, or NotConfined if it is not strict enough for the limits.
    """
    user = limits.unprivileged_id if os.geteuid() == 0 else None
    qemu_img = resolved(limits.qemu_img)
    bubblewrap = shutil.which("bwrap") if limits.use_bubblewrap else None
    if bubblewrap is not None:
        shown = outside_system((limits.qemu_img, limits.qemu_nbd, *WRAPPERS))
        confinement = Confinement(qemu_img, bubblewrap, user, shown)
        if _works(confinement, limits.for_info(), workspace):
            return confinement
    confinement = Confinement(qemu_img, None, user)
    if not _works(confinement, limits.for_info(), workspace):
        raise QemuMissing(f"{limits.qemu_img} can't be started: {_HINT}")
    if limits.require_bubblewrap:
        raise NotConfined("bubblewrap is missing or can't create namespaces here: run `images doctor` for advice")
    return confinement


def check_confinement(limits: Limits) -> Confinement:
    """Test which confinement conversions have on this machine. Raises QemuMissing, NotConfined, OSError."""
    with TemporaryDirectory(prefix="images-") as folder:
        workspace = Path(folder)
        (workspace / OUTPUT).mkdir()
        workspace.chmod(0o755)
        return confinement_for(limits, workspace)


def _works(confinement: Confinement, bounds: Bounds, workspace: Path) -> bool:
    if confinement in _known_to_work():
        return True
    with suppress(OSError, subprocess.SubprocessError):
        command = confinement.command(["--version"], bounds)
        subprocess.run(  # noqa: S603  # nosec B603 (an argument list of our own)
            command,
            cwd=workspace,
            env=environment(),
            check=True,
            capture_output=True,
            timeout=bounds.wall_seconds,
        )
        _known_to_work().add(confinement)
        return True
    return False


@cache
def _known_to_work() -> set[Confinement]:
    """The confinements that worked in this process; failures are not kept, since a program may get installed."""
    return set()


class Sandbox(ABC):
    """The folder of one job, as a context manager: created with the source in it, deleted at the end.

    Processes write to `out/`. The subclasses define how the source gets into the folder.
    """

    def __init__(self, folder: Path, limits: Limits, cancelled: threading.Event) -> None:
        self.folder = folder
        self.limits = limits
        self.cancelled = cancelled

    @property
    def source_failure(self) -> Exception | None:
        """The error of the source itself, not of the image, that kept a process from reading it; None without one."""
        return None

    def __enter__(self) -> Self:
        remove_tree(self.folder)
        try:
            self._build()
        except BaseException:
            self._tear_down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tear_down()

    def _build(self) -> None:
        output = self.folder / OUTPUT
        self.folder.mkdir(parents=True)
        # Independent of the umask: the unprivileged user gets access through its group.
        self.folder.chmod(0o750)
        output.mkdir(mode=0o700)
        user = self.limits.unprivileged_id if os.geteuid() == 0 else None
        if user is not None:
            os.chown(self.folder, -1, user)
            os.chown(output, user, user)
        self._lay_source(user)
        self.confinement = confinement_for(self.limits, self.folder)

    def _tear_down(self) -> None:
        self._take_source_back()
        remove_tree(self.folder)

    @abstractmethod
    def _lay_source(self, user: int | None) -> None:
        """Put the source into the folder, readable for the group `user`; None if processes run as ourselves."""

    @abstractmethod
    def _take_source_back(self) -> None:
        """Undo `_lay_source`, as far as it got."""


class FileSandbox(Sandbox):
    """A sandbox for a source that is a file, which is linked into the folder as `source`.

    Meanwhile the source has a group and mode that let the unprivileged user read it; both are restored at the end.
    """

    def __init__(self, folder: Path, source: Path, limits: Limits, cancelled: threading.Event) -> None:
        super().__init__(folder, limits, cancelled)
        self._source = source
        self._before = os.stat(source)

    def _lay_source(self, user: int | None) -> None:
        os.link(self._source, self.folder / SOURCE)
        if user is not None:
            os.chown(self._source, -1, user)
            os.chmod(self._source, 0o640)

    def _take_source_back(self) -> None:
        source = self.folder / SOURCE
        if os.geteuid() == 0 and source.exists():
            self.own(source)

    def own(self, path: Path) -> None:
        """Set a file's owner and mode to those that the source had before."""
        os.chown(path, self._before.st_uid, self._before.st_gid)
        os.chmod(path, stat.S_IMODE(self._before.st_mode))

    @contextmanager
    def packed(self) -> Iterator[int]:
        """Create the file `packed`, which only we write and processes read; yield its descriptor. Raises OSError."""
        fd = os.open(self.folder / PACKED, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if os.geteuid() == 0:
                os.fchown(fd, -1, self.limits.unprivileged_id)
                os.fchmod(fd, 0o640)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def written(self) -> Iterator[int]:
        """Open the file that a process wrote as `out/result`. Raises OSError if it is not a plain file."""
        fd = os.open(self.folder / RESULT, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
                raise OSError(f"{RESULT} is not a plain file")
            yield fd
        finally:
            os.close(fd)


def remove_tree(folder: Path) -> None:
    """Delete a folder with its content, if it exists."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
