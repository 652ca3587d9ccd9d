"""Base images on a host: each is fetched once, shared by all volumes over it, and deleted when space is short."""

import asyncio
import errno
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from app.sizes import MIB, spelled
from workers.hypervisor.files import HostFiles, read_json
from workers.hypervisor.locks import held, try_lock
from workers.hypervisor.port import HypervisorError

# Writes the bytes of an image to the path.
Fetch = Callable[[Path], Awaitable[None]]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK = 4 * MIB


class BaseDamaged(HypervisorError):
    """Raised when the bytes that were fetched do not have the expected SHA-256."""


class BaseCache:
    """The base images of a host. `spare` bytes of its disk are to stay free.

    A fetch by another process is waited for, at most `fetch_seconds`.
    """

    def __init__(self, host: HostFiles, spare: int, fetch_seconds: float = 3600.0) -> None:
        self._host = host
        self._folder = (host.root / "bases").absolute()
        self._locks = host.root / "locks"
        self._spare = spare
        self._fetch_seconds = fetch_seconds

    @asynccontextmanager
    async def base(self, sha256: str, size: int, fetch: Fetch) -> AsyncIterator[Path]:
        """The image of `size` bytes with this SHA-256, which is fetched if it is not here yet.

        It is not deleted during the block; after it, only while a volume is over it. Raises BaseDamaged,
        HypervisorUnavailable, OSError, and what `fetch` raises.
        """
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a SHA-256: {sha256!r}")
        self._host.create()
        self._folder.mkdir(mode=0o755, exist_ok=True)
        path = self._folder / f"{sha256}.qcow2"
        async with held(self._using(sha256), self._fetch_seconds, shared=True):
            # A second lock, since the first one is shared by all who use the image.
            async with held(self._locks / f"fetch-{sha256}", self._fetch_seconds):
                if path.exists():
                    # Volumes need space as well, if little at first.
                    await asyncio.to_thread(self.evict, 0)
                else:
                    await asyncio.to_thread(self._make_room, size)
                    await self._fetch(path, sha256, fetch)
            os.utime(path)
            yield path

    def evict(self, needed: int) -> None:
        """Delete images without a volume, the least recently used first, until `needed` bytes and the spare are free.

        Deletes no more than that, and stops where nothing else can be deleted.
        """
        if self._free() >= needed + self._spare:
            return
        used = self._bases_of_volumes()
        for path in sorted(self._folder.glob("*.qcow2"), key=lambda path: path.stat().st_mtime):
            if self._free() >= needed + self._spare:
                return
            if path not in used:
                self._delete_unless_used(path)

    def _make_room(self, size: int) -> None:
        for left in self._folder.glob(".*.part"):
            # What a process left that was killed while it fetched.
            self._delete_unless_used(left)
        self.evict(size)
        if self._free() < size:
            raise OSError(errno.ENOSPC, f"a base of {spelled(size)} does not fit: {spelled(self._free())} are free")

    async def _fetch(self, path: Path, sha256: str, fetch: Fetch) -> None:
        part = self._folder / f".{sha256}.part"
        part.unlink(missing_ok=True)
        try:
            await fetch(part)
            found = await asyncio.to_thread(_finished, part)
            if found != sha256:
                raise BaseDamaged(f"fetched a base with SHA-256 {found} instead of {sha256}")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _delete_unless_used(self, path: Path) -> None:
        lock = try_lock(self._using(path.name.strip(".").split(".")[0]))
        if lock is None:
            return
        try:
            # A volume may have been created over it since the last look.
            if path not in self._bases_of_volumes():
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def _bases_of_volumes(self) -> Collection[Path]:
        found = (read_json(volume.description) for volume in self._host.all_volumes())
        return {Path(one["base"]) for one in found if one and one["base"]}

    def _using(self, sha256: str) -> Path:
        return self._locks / f"base-{sha256}"

    def _free(self) -> int:
        return shutil.disk_usage(self._folder).free


def _finished(path: Path) -> str:
    """Write a file to the disk and make it read-only; return its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
        os.fsync(file.fileno())
    path.chmod(0o444)
    return digest.hexdigest()
