"""The files of a host: where the disks of its volumes and the state of its servers are, and who may use them.

    locks/                      one operation at a time on each volume and server
    volumes/ID/volume.json      size and base
               point.json       the point that has not been released
               used             locked while a server runs from the volume
               use.json         the server that runs from it, or did last
               disk/disk.qcow2  the disk
               disk/fleece.raw  what a point keeps of overwritten data
    servers/ID/server.json      the spec, and the UUID of the virtual machine
               alive            locked while QEMU runs
               console.log      what the guest wrote to its serial console
               seed.iso, uefi-variables.fd, qemu.log
               run/             the sockets

QEMU can write to disk/, run/, console.log, uefi-variables.fd and the locks that it holds, so nothing that it leaves
there is trusted.
"""

import ctypes
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ID = re.compile(r"[A-Za-z0-9_]{1,31}")
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE = 1, 2


@dataclass(frozen=True, slots=True)
class VolumeFiles:
    """The files of a volume."""

    id: str
    folder: Path
    lock: Path

    @property
    def description(self) -> Path:
        return self.folder / "volume.json"

    @property
    def point(self) -> Path:
        return self.folder / "point.json"

    @property
    def used(self) -> Path:
        return self.folder / "used"

    @property
    def use(self) -> Path:
        return self.folder / "use.json"

    @property
    def disk_folder(self) -> Path:
        return self.folder / "disk"

    @property
    def disk(self) -> Path:
        return self.disk_folder / "disk.qcow2"

    @property
    def fleece(self) -> Path:
        return self.disk_folder / "fleece.raw"


@dataclass(frozen=True, slots=True)
class ServerFiles:
    """The files of a server."""

    id: str
    folder: Path
    lock: Path

    @property
    def description(self) -> Path:
        return self.folder / "server.json"

    @property
    def alive(self) -> Path:
        return self.folder / "alive"

    @property
    def console(self) -> Path:
        return self.folder / "console.log"

    @property
    def log(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def seed(self) -> Path:
        return self.folder / "seed.iso"

    @property
    def uefi_variables(self) -> Path:
        return self.folder / "uefi-variables.fd"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def agent(self) -> Path:
        return self.run / "agent.sock"

    @property
    def agent_lock(self) -> Path:
        return self.folder / "agent.lock"

    @property
    def points(self) -> Path:
        return self.run / "points.sock"

    def monitor(self, number: int) -> Path:
        return self.run / f"monitor{number}.sock"

    def monitor_lock(self, number: int) -> Path:
        return self.folder / f"monitor{number}.lock"


@dataclass(frozen=True, slots=True)
class HostFiles:
    """The folder of a host. `owner` is the user and group that QEMU runs as; None if it runs as ourselves."""

    root: Path
    owner: int | None = None

    def create(self) -> None:
        """Create the folder, if it does not exist. No other user can enter it."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in ("locks", "volumes", "servers"):
            (self.root / name).mkdir(mode=0o755, exist_ok=True)

    def volume(self, volume_id: str) -> VolumeFiles:
        """The files of a volume. Raises ValueError if it is not an id."""
        return VolumeFiles(_checked(volume_id), self._volumes / volume_id, self.root / "locks" / f"volume-{volume_id}")

    def server(self, server_id: str) -> ServerFiles:
        """The files of a server. Raises ValueError if it is not an id."""
        return ServerFiles(_checked(server_id), self._servers / server_id, self.root / "locks" / f"server-{server_id}")

    def all_volumes(self) -> Iterator[VolumeFiles]:
        """The volumes that exist."""
        for name in _names(self._volumes):
            volume = self.volume(name)
            if volume.description.exists():
                yield volume

    def all_servers(self) -> Iterator[ServerFiles]:
        """The servers that exist."""
        for name in _names(self._servers):
            server = self.server(name)
            if server.description.exists():
                yield server

    def give(self, path: Path) -> None:
        """Let QEMU, and no one else, read and write a file."""
        os.chmod(path, 0o600)
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)

    def make_folder(self, path: Path, *, writable: bool) -> None:
        """Create a folder that QEMU can enter; if `writable`, it can create files there."""
        path.mkdir(exist_ok=True)
        os.chmod(path, 0o770 if writable else 0o750)
        if self.owner is not None:
            os.chown(path, 0, self.owner)

    def make_fleece(self, volume: VolumeFiles, size: int) -> None:
        """Create the sparse file of `size` bytes that receives what a guest overwrites after a point."""
        volume.fleece.unlink(missing_ok=True)
        fd = os.open(volume.fleece, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, size)
            if self.owner is not None:
                os.fchown(fd, self.owner, self.owner)
        finally:
            os.close(fd)

    @property
    def _volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def _servers(self) -> Path:
        return self.root / "servers"


def write_json(path: Path, content: Mapping[str, Any], *, flushed: bool = True) -> None:
    """Replace a file by JSON; if this process is killed, it has either its old or its new content.

    If it is `flushed`, that is also so if the machine goes down; otherwise, it may then be empty.
    """
    new = path.with_name(f".{path.name}.new")
    with new.open("w") as file:
        json.dump(content, file)
        if flushed:
            file.flush()
            os.fsync(file.fileno())
    new.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The content of a file of JSON; None if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    return content


def tail(path: Path, most: int) -> bytes:
    """The last bytes of a file, at most `most`; empty if there is no file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    try:
        start = max(0, os.fstat(fd).st_size - most)
        return os.pread(fd, most, start)
    finally:
        os.close(fd)


def trim(path: Path, most: int) -> None:
    """Free the space of all but about the last `most` bytes of a file that QEMU appends to.

    The start of the file becomes a hole, so nothing that is appended meanwhile is lost. Does nothing where the file
    system has no holes.
    """
    with suppress(OSError):
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            if found.st_blocks * 512 > 2 * most:
                _punch(fd, found.st_size - most)
        finally:
            os.close(fd)


def allocated(path: Path) -> int:
    """The bytes that a file takes on its disk; 0 if there is no file."""
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def _punch(fd: int, length: int) -> None:
    # Python has no function for it.
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int64(0), ctypes.c_int64(length))
    libc.fallocate64(fd, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, *arguments)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if _ID.fullmatch(name))
    except FileNotFoundError:
        return []


def _checked(identity: str) -> str:
    if not _ID.fullmatch(identity):
        raise ValueError(f"not an id: {identity!r}")
    return identity
