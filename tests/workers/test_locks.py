"""Locks that last as long as the last process that holds them."""

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from workers.hypervisor.locks import held, is_locked, released, try_lock
from workers.hypervisor.port import HypervisorUnavailable


def test_a_lock_is_held_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    lock = try_lock(path)
    assert lock is not None
    assert is_locked(path)
    assert try_lock(path) is None
    assert is_locked(path)
    os.close(lock)
    assert not is_locked(path)


def test_a_shared_lock_keeps_only_others_off(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first, second = try_lock(path, shared=True), try_lock(path, shared=True)
    assert first is not None
    assert second is not None
    assert try_lock(path) is None
    os.close(first)
    assert try_lock(path) is None
    os.close(second)
    assert not is_locked(path)


def test_a_process_that_inherits_a_lock_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock]) as process:
        os.close(lock)
        assert is_locked(path)
        process.kill()
    assert not is_locked(path)


def test_a_lock_on_a_deleted_file_is_not_taken_for_one_on_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None
    path.unlink()
    successor = try_lock(path)
    assert successor is not None
    os.close(lock)
    assert is_locked(path)
    os.close(successor)


def test_who_waits_gets_the_lock_when_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    async def hold(name: str) -> None:
        async with held(path, 60):
            order.append(f"{name} begins")
            await asyncio.sleep(0)
            order.append(f"{name} ends")

    async def all_of_them() -> None:
        await asyncio.gather(*(hold(name) for name in "abc"))

    asyncio.run(all_of_them())
    assert sorted(order[::2]) == ["a begins", "b begins", "c begins"]
    assert [line[0] for line in order[::2]] == [line[0] for line in order[1::2]]


def test_a_lock_that_stays_held_is_an_error_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = try_lock(path)
    assert lock is not None

    async def wait() -> None:
        assert not await released(path, 0)
        async with held(path, 0):
            pytest.fail("two hold it")

    with pytest.raises(HypervisorUnavailable):
        asyncio.run(wait())
    os.close(lock)
    assert asyncio.run(released(path, 0))
