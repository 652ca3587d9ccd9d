"""File systems with given files, made by the programs that real ones are made by."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


# Files, links and folders (None) by their paths, which have no slash in front. Folders above them are made, too.
Files = Mapping[str, bytes | Link | None]


def ext(files: Files, *options: str, size: int = 16 * MIB, kind: str = "ext4") -> bytes:
    """An ext2, ext3 or ext4 file system."""
    with tempfile.TemporaryDirectory() as folder:
        root, image = Path(folder) / "root", Path(folder) / "image"
        _lay(root, files)
        _sized(image, size)
        _run("mke2fs", "-q", "-t", kind, *options, "-E", "root_owner=0:0", "-d", str(root), str(image))
        return image.read_bytes()


def xfs(files: Files, *options: str, size: int = 32 * MIB) -> bytes:
    """An XFS. Its program makes none of less than 300 MiB for users."""
    with tempfile.TemporaryDirectory() as folder:
        root, image, proto = Path(folder) / "root", Path(folder) / "image", Path(folder) / "proto"
        _lay(root, files)
        _sized(image, size)
        proto.write_text(f"none\n0 0\nd--755 0 0\n{_proto(root)}$\n")
        _run("mkfs.xfs", "-q", "--unsupported", *options, "-p", str(proto), str(image))
        return image.read_bytes()


def fat(files: Files, *, size: int = 4 * MIB) -> bytes:
    """A FAT file system."""
    with tempfile.TemporaryDirectory() as folder:
        root, image = Path(folder) / "root", Path(folder) / "image"
        _lay(root, files)
        _sized(image, size)
        _run("mkfs.vfat", str(image))
        for top in sorted(root.iterdir()):
            _run("mcopy", "-s", "-i", str(image), str(top), "::")
        return image.read_bytes()


def ntfs(files: Files, *, size: int = 8 * MIB) -> bytes:
    """An NTFS, filled by the library of ntfs-3g."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "image"
        _sized(image, size)
        _run("mkntfs", "-F", "-q", "-Q", "-s", "512", "-p", "0", "-H", "0", "-S", "0", str(image))
        with _Ntfs(image) as volume:
            for path, content in files.items():
                assert not isinstance(content, Link)
                volume.put(path, content)
        return image.read_bytes()


class _Ntfs:
    _FOLDER, _FILE, _DATA = 0o040000, 0o100000, 0x80

    def __init__(self, image: Path) -> None:
        library = ctypes.CDLL("libntfs-3g.so.89")
        pointers = ("ntfs_mount", "ntfs_pathname_to_inode", "ntfs_create", "ntfs_attr_open")
        for name in pointers:
            getattr(library, name).restype = ctypes.c_void_p
        library.ntfs_attr_pwrite.restype = ctypes.c_int64
        self._library: Any = library
        self._volume = ctypes.c_void_p(library.ntfs_mount(str(image).encode(), ctypes.c_ulong(0)))
        assert self._volume

    def __enter__(self) -> "_Ntfs":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._library.ntfs_umount(self._volume, 0) == 0

    def put(self, path: str, content: bytes | None) -> None:
        """Create a file, or a folder, and the folders above."""
        *folders, name = path.split("/")
        for number in range(len(folders)):
            self._create("/".join(folders[:number]), folders[number], None)
        self._create("/".join(folders), name, content)

    def _create(self, folder: str, name: str, content: bytes | None) -> None:
        library, whole = self._library, f"{folder}/{name}".lstrip("/")
        found = library.ntfs_pathname_to_inode(self._volume, None, f"/{whole}".encode())
        if found:
            library.ntfs_inode_close(ctypes.c_void_p(found))
            return
        parent = ctypes.c_void_p(library.ntfs_pathname_to_inode(self._volume, None, f"/{folder}".encode()))
        kind = self._FOLDER if content is None else self._FILE
        letters = ctypes.create_string_buffer(name.encode("utf-16le"))
        inode = ctypes.c_void_p(library.ntfs_create(parent, 0, letters, ctypes.c_uint8(len(name)), kind))
        assert inode, whole
        if content:
            data = ctypes.c_void_p(library.ntfs_attr_open(inode, self._DATA, None, 0))
            written = library.ntfs_attr_pwrite(data, ctypes.c_int64(0), ctypes.c_int64(len(content)), content)
            assert written == len(content)
            library.ntfs_attr_close(data)
        # The entry in the open folder has a size, too.
        assert library.ntfs_inode_close_in_dir(inode, parent) == 0, whole
        assert library.ntfs_inode_close(parent) == 0


def _sized(image: Path, size: int) -> None:
    with image.open("wb") as file:
        file.truncate(size)


def _lay(root: Path, files: Files) -> None:
    root.mkdir()
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir(exist_ok=True)
        elif isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)


def _proto(folder: Path) -> str:
    """What mkfs.xfs copies: a line for each file, and `$` at the end of a folder."""
    lines = []
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            lines.append(f"{path.name} l--777 0 0 {os.readlink(path)}\n")
        elif path.is_dir():
            lines.append(f"{path.name} d--755 0 0\n{_proto(path)}$\n")
        else:
            lines.append(f"{path.name} ---644 0 0 {path}\n")
    return "".join(lines)


def _run(*command: str) -> None:
    program = shutil.which(command[0], path=PATH)
    assert program is not None, command[0]
    environment = {**os.environ, "PATH": PATH, "MTOOLS_SKIP_CHECK": "1"}
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 0, done.stderr
