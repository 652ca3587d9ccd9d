"""The bases of a host's volumes: qcow2 files that are read from the store once, verified, and shared by all servers."""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

import structlog

from app.catalog.servers.settling import Base
from app.errors import GatewayError
from app.ports import ObjectStore

log = structlog.get_logger()

# Makes the file of a base available on the host, during the block and as long as a volume is over it.
Provide = Callable[[Base], AbstractAsyncContextManager[Path]]

_READABLE_BY_ALL = 0o444


class BaseNotReady(GatewayError):
    """Raised when a base can't be verified yet, because its SHA-256 has not been computed."""


class BaseDamaged(GatewayError):
    """Raised when the bytes of a base are not those that were stored."""


@dataclass(frozen=True, slots=True)
class BaseFolder:
    """Fetches bases into a folder: a file is there whole and verified, or not at all. Lives in one event loop."""

    folder: Path
    store: ObjectStore
    _locks: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    @asynccontextmanager
    async def base(self, base: Base) -> AsyncIterator[Path]:
        """The file of a base, read-only. Raises BaseNotReady, BaseDamaged, StoreError, OSError."""
        lock = self._locks.get(base.blob_id) or asyncio.Lock()
        self._locks[base.blob_id] = lock
        path = self.folder / f"{base.blob_id}.qcow2"
        async with lock:
            if not await asyncio.to_thread(path.exists):
                await self._read(base, path)
        yield path

    async def _read(self, base: Base, path: Path) -> None:
        if base.sha256 is None:
            raise BaseNotReady(f"the SHA-256 of {base.blob_id} has not been computed yet")
        await asyncio.to_thread(self.folder.mkdir, parents=True, exist_ok=True)
        # Under another name until it is whole; what a killed process left is removed at the next start.
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            await self._write(base, draft)
            await asyncio.to_thread(draft.rename, path)
        finally:
            with suppress(FileNotFoundError):
                await asyncio.to_thread(draft.unlink)
        log.info("base.fetched", blob=base.blob_id, bytes=base.size)

    async def _write(self, base: Base, draft: Path) -> None:
        digest = hashlib.sha256()
        with await asyncio.to_thread(draft.open, "xb") as file:
            async for chunk in self.store.read(base.key):
                await asyncio.to_thread(digest.update, chunk)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(file.flush)
            await asyncio.to_thread(os.fsync, file.fileno())
            size = file.tell()
        if size != base.size or digest.hexdigest() != base.sha256:
            raise BaseDamaged(f"the store returned other bytes for {base.blob_id} than were stored")
        await asyncio.to_thread(draft.chmod, _READABLE_BY_ALL)

    def remove_drafts(self) -> None:
        """Remove what killed processes have left. Blocks; nothing may be fetched meanwhile."""
        for draft in self.folder.glob(".*.qcow2.*"):
            draft.unlink(missing_ok=True)
