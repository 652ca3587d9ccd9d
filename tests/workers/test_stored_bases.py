"""The bases of a host: fetched once, verified, and there whole or not at all."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.adapters.folder.store import FolderStore
from app.catalog.servers.settling import Base
from app.errors import ObjectMissing, StoreUnavailable
from app.sizes import MIB
from workers.hypervisor.bases import BaseCache, BaseDamaged
from workers.hypervisor.files import HostFiles
from workers.jobs.bases import BaseNotReady, StoredBases

pytestmark = pytest.mark.anyio

CONTENT = b"qcow" * (3 * MIB // 4)
BASE = Base("blb_1", "blobs/one.qcow2", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store", b"s" * 32)
    path = store.path(BASE.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    return store


def bases_in(folder: Path, store: Any) -> StoredBases:
    return StoredBases(BaseCache(HostFiles(folder), 0), store)


async def fetch(bases: StoredBases, base: Base = BASE) -> Path:
    async with bases.base(base) as path:
        return path


class Counting:
    """A store that counts how often an object is read, and may break off."""

    def __init__(self, store: FolderStore, break_off: bool = False) -> None:
        self.reads = 0
        self._store = store
        self._break_off = break_off

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        self.reads += 1
        async with aclosing(self._store.read(key)) as chunks:
            async for chunk in chunks:
                yield chunk
                if self._break_off:
                    raise StoreUnavailable("it broke off")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


async def test_a_base_is_read_once_for_all_who_want_it(store: FolderStore, tmp_path: Path) -> None:
    counting = Counting(store)
    bases = bases_in(tmp_path, counting)
    paths = await asyncio.gather(*(fetch(bases) for _ in range(5)))
    assert set(paths) == {tmp_path / f"bases/{BASE.sha256}.qcow2"}
    assert (counting.reads, paths[0].read_bytes()) == (1, CONTENT)
    assert paths[0].stat().st_mode & 0o777 == 0o444
    assert await fetch(bases_in(tmp_path, counting)) == paths[0]
    assert counting.reads == 1
    store.close()


async def test_other_bytes_than_were_stored_are_refused(store: FolderStore, tmp_path: Path) -> None:
    bases = bases_in(tmp_path, store)
    with pytest.raises(BaseDamaged):
        await fetch(bases, replace(BASE, sha256="0" * 64))
    assert list((tmp_path / "bases").iterdir()) == []
    assert (await fetch(bases)).read_bytes() == CONTENT
    store.close()


async def test_what_has_no_sha256_yet_waits(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(BaseNotReady):
        await fetch(bases_in(tmp_path, store), replace(BASE, sha256=None))
    assert not (tmp_path / "bases").exists()
    store.close()


async def test_an_object_that_is_missing_or_breaks_off_leaves_no_file(store: FolderStore, tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing):
        await fetch(bases_in(tmp_path, store), replace(BASE, key="blobs/none.qcow2"))
    with pytest.raises(StoreUnavailable):
        await fetch(bases_in(tmp_path, Counting(store, break_off=True)))
    assert list((tmp_path / "bases").iterdir()) == []
    store.close()
