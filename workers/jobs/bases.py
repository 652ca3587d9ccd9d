"""Makes the bases of volumes available on a host: each is read from the object store once, and verified."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from app.catalog.servers.settling import Base
from app.errors import GatewayError
from app.ports import ObjectStore
from workers.hypervisor.bases import BaseCache

log = structlog.get_logger()

# Makes the file of a base available on the host, during the block and as long as a volume is over it.
Provide = Callable[[Base], AbstractAsyncContextManager[Path]]


class BaseNotReady(GatewayError):
    """Raised when a base can't be verified yet, because its SHA-256 has not been computed."""


@dataclass(frozen=True, slots=True)
class StoredBases:
    """Fetches bases from the object store into the cache of a host."""

    cache: BaseCache
    store: ObjectStore

    @asynccontextmanager
    async def base(self, base: Base) -> AsyncIterator[Path]:
        """The file of a base, read-only.

        Raises BaseNotReady, BaseDamaged, StoreError, HypervisorUnavailable, OSError.
        """
        if base.sha256 is None:
            raise BaseNotReady(f"the SHA-256 of {base.blob_id} has not been computed yet")
        async with self.cache.base(base.sha256, base.size, partial(self._fetch, base)) as path:
            yield path

    async def _fetch(self, base: Base, path: Path) -> None:
        async with aclosing(self.store.read(base.key)) as chunks:
            with await asyncio.to_thread(path.open, "xb") as file:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
        log.info("base.fetched", blob=base.blob_id, bytes=base.size)
