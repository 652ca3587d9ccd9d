"""File systems of a disk, read by libyal, and the files in them by paths. Links are followed here, one by one."""

import stat
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import Enum, auto
from typing import Any

import pyfsext
import pyfsfat
import pyfsntfs
import pyfsxfs

from app.sizes import KIB, MIB
from workers.readiness.reader.disk import FileObject, Part

_MOST_LINKS = 40
# More than any path that a system uses, with the targets of its links.
_MOST_STEPS = 256
_MOST_NAMES = 20_000
_HEAD = 68 * KIB


def plain_text(text: Any) -> str:
    """A text of libyal's as Python makes it.

    libregf (20260526) marks no text as ASCII, so that it has another hash than an equal one and is not found in a dict.
    """
    return str(text).encode("utf-8", "replace").decode("utf-8")


class Kind(Enum):
    """The kinds of file systems that are read."""

    EXT = auto()
    XFS = auto()
    NTFS = auto()
    FAT = auto()


class Unreadable(Enum):
    """What a partition holds that is not read."""

    ENCRYPTED = auto()
    UNSUPPORTED = auto()


_OPENERS: dict[Kind, Callable[[], Any]] = {
    Kind.EXT: pyfsext.volume,
    Kind.XFS: pyfsxfs.volume,
    Kind.NTFS: pyfsntfs.volume,
    Kind.FAT: pyfsfat.volume,
}
# Magic numbers: (offset, bytes).
_UNREADABLE = {
    (0, b"LUKS\xba\xbe"): Unreadable.ENCRYPTED,
    (3, b"-FVE-FS-"): Unreadable.ENCRYPTED,
    (3, b"EXFAT   "): Unreadable.UNSUPPORTED,
    (3, b"ReFS\0"): Unreadable.UNSUPPORTED,
    (0, b"hsqs"): Unreadable.UNSUPPORTED,
    (1024, b"\xe2\xe1\xf5\xe0"): Unreadable.UNSUPPORTED,
    (1024, b"\x10\x20\xf5\xf2"): Unreadable.UNSUPPORTED,
    # A member of a Linux RAID, with its superblock at the start or 4 KiB from it.
    (0, b"\xfc\x4e\x2b\xa9"): Unreadable.UNSUPPORTED,
    (4096, b"\xfc\x4e\x2b\xa9"): Unreadable.UNSUPPORTED,
    (65600, b"_BHRfS_M"): Unreadable.UNSUPPORTED,
}


def kind_of(part: Part) -> Kind | Unreadable | None:
    """What a partition holds, by its magic numbers; None if there is no file system that we know of."""
    head = part.read_at(0, _HEAD)
    for (offset, magic), reason in _UNREADABLE.items():
        if head[offset : offset + len(magic)] == magic:
            return reason
    if head[:4] == b"XFSB":
        return Kind.XFS
    if head[3:11] == b"NTFS    ":
        return Kind.NTFS
    if head[510:512] == b"\x55\xaa" and (head[82:87] == b"FAT32" or head[54:57] == b"FAT"):
        return Kind.FAT
    return Kind.EXT if head[1080:1082] == b"\x53\xef" else None


def open_tree(part: Part, kind: Kind) -> "Tree":
    """The file system in a partition. Raises OSError and others of libyal's."""
    volume = _OPENERS[kind]()
    volume.open_file_object(part)
    return Tree(kind, volume, part)


class Tree:
    """A file system. Paths begin with `/`; on NTFS and FAT they are compared without regard to case.

    Where a path leads nowhere, or through what can't be read, there is no file: libyal does not always tell which.
    """

    def __init__(self, kind: Kind, volume: Any, part: Part) -> None:
        self.kind = kind
        self._volume = volume
        # libyal keeps no reference to the file object of its own.
        self._part = part

    def has(self, path: str) -> bool:
        """Whether there is a file or folder."""
        return self.find(path) is not None

    def names(self, path: str) -> list[str]:
        """The names in a folder, at most 20,000."""
        folder, found = self.find(path), []
        with suppress(Exception):
            for entry in _children(folder) if folder is not None else ():
                if entry.name:
                    found.append(plain_text(entry.name))
        return found

    def read(self, path: str, most: int = 4 * MIB) -> bytes | None:
        """The first `most` bytes of a file; None if there is none. Raises OSError."""
        entry = self.find(path)
        return None if entry is None else b"".join(pieces(entry, most))

    def find(self, path: str) -> Any | None:
        """The libyal entry of a file or folder; None if there is none."""
        # libyal raises many kinds of errors.
        with suppress(Exception):
            if self.kind in (Kind.NTFS, Kind.FAT):
                return self._ignoring_case(path)
            return self._at(self._real(path))
        return None

    def link(self, path: str) -> str | None:
        """The target of a link, whose last name is not followed; None if it is no link."""
        folder, _, name = path.rpartition("/")
        with suppress(Exception):
            entry = self._at([*self._real(folder), name])
            if entry is not None and stat.S_ISLNK(entry.file_mode):
                return plain_text(entry.symbolic_link_target)
        return None

    def _real(self, path: str) -> list[str]:
        """The names of a path without links. Raises FileNotFoundError."""
        here: list[str] = []
        todo = deque(path.split("/"))
        links = 0
        for _ in range(_MOST_STEPS):
            if not todo:
                return here
            name = todo.popleft()
            if name == "..":
                del here[-1:]
            elif name not in ("", "."):
                # libfsext (20260821) finds no entry by its name in a folder, only by whole paths.
                entry = self._at([*here, name])
                if entry is None:
                    break
                if stat.S_ISLNK(entry.file_mode):
                    target = plain_text(entry.symbolic_link_target or "")
                    links += 1
                    if links > _MOST_LINKS:
                        break
                    if target.startswith("/"):
                        here.clear()
                    todo.extendleft(reversed(target.split("/")[:_MOST_STEPS]))
                else:
                    here.append(name)
        raise FileNotFoundError(path)

    def _at(self, names: list[str]) -> Any | None:
        """The entry with these names, without links. Where there is none, libyal returns None or raises OSError."""
        return self._volume.get_file_entry_by_path("/" + "/".join(names))

    def _ignoring_case(self, path: str) -> Any | None:
        entry = self._volume.get_root_directory()
        for name in path.split("/"):
            if name and entry is not None:
                wanted = name.casefold()
                entry = next((child for child in _children(entry) if (child.name or "").casefold() == wanted), None)
        return entry


def pieces(entry: Any, most: int) -> Iterator[bytes]:
    """The first `most` bytes of a file, in pieces of at most 1 MiB. Raises OSError."""
    place, size = 0, min(entry.size or 0, most)
    while place < size:
        piece = entry.read_buffer_at_offset(min(MIB, size - place), place)
        if not piece:
            raise OSError("the file ends before its size")
        place += len(piece)
        yield piece


class EntryFile(FileObject):
    """A file of a file system as a file object, for libyal's reader of registry hives."""

    def __init__(self, entry: Any) -> None:
        super().__init__(int(entry.size or 0))
        self._entry = entry

    def read_at(self, offset: int, length: int) -> bytes:
        """As Readable says. Raises OSError."""
        length = min(length, self.size - offset)
        return bytes(self._entry.read_buffer_at_offset(length, offset)) if length > 0 else b""


def _children(folder: Any) -> Iterator[Any]:
    for number, entry in enumerate(folder.sub_file_entries):
        if number >= _MOST_NAMES:
            return
        yield entry
