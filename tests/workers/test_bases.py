"""A host's base images: each is fetched once, verified, and deleted when nothing uses it and space is short."""

import asyncio
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.workers.images import MiB, qemu_img
from workers.hypervisor.bases import BaseCache, BaseDamaged
from workers.hypervisor.files import HostFiles
from workers.hypervisor.port import VolumeSpec
from workers.hypervisor.volumes import create
from workers.limits import Limits

pytestmark = pytest.mark.needs_program("qemu-img")


class Store:
    """Where bases come from. `fetched` are their digests, in order."""

    def __init__(self, folder: Path) -> None:
        self.fetched: list[str] = []
        self.images: dict[str, bytes] = {}
        for number in range(3):
            path = folder / f"{number}.qcow2"
            qemu_img("create", "-q", "-f", "qcow2", str(path), f"{number + 1}M")
            content = path.read_bytes()
            self.images[hashlib.sha256(content).hexdigest()] = content

    @property
    def digests(self) -> list[str]:
        return list(self.images)

    async def fetch(self, digest: str, path: Path) -> None:
        self.fetched.append(digest)
        await asyncio.sleep(0)
        await asyncio.to_thread(path.write_bytes, self.images[digest])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[HostFiles]:
    files = HostFiles(tmp_path / "host")
    files.create()
    yield files
    assert not list(files.root.glob("bases/.*"))


def cache(host: HostFiles, spare: int = 0) -> BaseCache:
    return BaseCache(host, spare, fetch_seconds=60)


async def got(bases: BaseCache, store: Store, digest: str) -> Path:
    async with bases.base(digest, len(store.images[digest]), lambda path: store.fetch(digest, path)) as path:
        assert path.read_bytes() == store.images[digest]
        return path


def present(host: HostFiles) -> set[str]:
    return {path.stem for path in (host.root / "bases").iterdir()}


def everything(host: HostFiles) -> int:
    """More bytes than the disk has."""
    return 2 * shutil.disk_usage(host.root).total


def test_a_base_is_fetched_once_however_many_want_it(host: HostFiles, store: Store) -> None:
    async def together() -> list[Path]:
        caches = [cache(host), cache(host)]
        return await asyncio.gather(*(got(bases, store, store.digests[0]) for bases in caches * 3))

    [path] = set(asyncio.run(together()))

    assert store.fetched == store.digests[:1]
    assert path.stat().st_mode & 0o777 == 0o444


def test_a_base_with_other_bytes_is_refused(host: HostFiles, store: Store) -> None:
    wanted = "0" * 64

    async def get() -> None:
        async with cache(host).base(wanted, MiB, lambda path: store.fetch(store.digests[0], path)):
            pytest.fail("it is another image")

    for _ in range(2):
        with pytest.raises(BaseDamaged, match=store.digests[0]):
            asyncio.run(get())
    assert present(host) == set()


def test_a_fetch_that_fails_leaves_nothing_and_is_tried_again(host: HostFiles, store: Store) -> None:
    digest = store.digests[0]

    async def half(path: Path) -> None:
        await asyncio.to_thread(path.write_bytes, store.images[digest][:10])
        raise ConnectionError("gone")

    async def get() -> None:
        async with cache(host).base(digest, MiB, half):
            pytest.fail("half of it is there")

    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(get())
    assert present(host) == set()
    asyncio.run(got(cache(host), store, digest))


def test_only_bases_without_a_volume_are_deleted_when_space_is_short(host: HostFiles, store: Store) -> None:
    async def get_all() -> None:
        for digest in store.digests:
            path = await got(cache(host), store, digest)
            if digest == store.digests[1]:
                create(host, host.volume("V1"), VolumeSpec("V1", 4 * MiB, path), Limits())

    asyncio.run(get_all())
    cache(host).evict(0)
    assert present(host) == set(store.digests)
    cache(host).evict(everything(host))
    assert present(host) == {store.digests[1]}


def test_a_base_is_not_deleted_while_somebody_is_about_to_use_it(host: HostFiles, store: Store) -> None:
    digest = store.digests[0]

    async def evict_meanwhile() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(cache(host).base(digest, 1, lambda path: store.fetch(digest, path)))
            cache(host).evict(everything(host))
            assert present(host) == {digest}
        cache(host).evict(everything(host))

    asyncio.run(evict_meanwhile())
    assert present(host) == set()


def test_a_base_that_is_here_makes_room_for_the_volumes_over_it(host: HostFiles, store: Store) -> None:
    async def get_all() -> None:
        for digest in store.digests[:2]:
            await got(cache(host), store, digest)
        await got(cache(host, spare=everything(host)), store, store.digests[0])

    asyncio.run(get_all())
    assert present(host) == {store.digests[0]}
    assert store.fetched == store.digests[:2]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_does_not_fit_is_an_error_that_says_so(host: HostFiles, tmp_path: Path, number: int) -> None:
    full = tmp_path / "qemu-img"
    full.write_text(f"#!/bin/sh\necho 'qemu-img: disk.qcow2: {os.strerror(number)}' >&2\nexit 1\n")
    full.chmod(0o755)
    with pytest.raises(OSError, match="can't create a disk") as caught:
        create(host, host.volume("V1"), VolumeSpec("V1", MiB), Limits(qemu_img=str(full)))
    assert caught.value.errno == number
    create(host, host.volume("V1"), VolumeSpec("V1", MiB), Limits())


def test_the_base_that_was_used_last_stays_longest(
    host: HostFiles, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get_all() -> None:
        for age, digest in enumerate(store.digests):
            path = await got(cache(host), store, digest)
            os.utime(path, (1000 - age, 1000 - age))

    asyncio.run(get_all())
    # The disk is full until two of three are gone.
    monkeypatch.setattr(BaseCache, "_free", lambda self: 100 if len(present(host)) < 2 else 0)
    cache(host).evict(100)
    assert present(host) == {store.digests[0]}


def test_a_base_that_does_not_fit_is_not_fetched(host: HostFiles, store: Store) -> None:
    async def get() -> None:
        async with cache(host).base(store.digests[0], everything(host), lambda path: store.fetch("", path)):
            pytest.fail("it does not fit")

    with pytest.raises(OSError, match="does not fit"):
        asyncio.run(get())
    assert store.fetched == []
