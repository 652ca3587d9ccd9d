"""The workers of a host as a process runs them: in a thread of their own, woken by the API of the same process."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError
from sqlmodel import select

from app.catalog.servers.hosts import HostReport
from app.lifecycle import ServerStatus
from app.models import Host
from app.sizes import GIB
from tests.support.gateway import Gateway, until
from tests.support.memory_hypervisor import MemoryHypervisor
from tests.support.serving_servers import image, launch, remove_hosts, server_row
from tests.support.sharing import done
from workers.hosts import HostWorkers, ThisHost
from workers.hypervisor.bases import BaseCache
from workers.hypervisor.files import HostFiles

pytestmark = pytest.mark.anyio


def this_host(hypervisor: MemoryHypervisor, folder: Path) -> ThisHost:
    about = HostReport(str(folder), "here", "tcg", 4096 * GIB, 64)
    return ThisHost(hypervisor, about, BaseCache(HostFiles(folder), 0))


@contextmanager
def working(gateway: Gateway, hypervisor: MemoryHypervisor, folder: Path) -> Iterator[None]:
    host = this_host(hypervisor, folder)
    with HostWorkers(gateway.settings, host, gateway.bells, gateway.wakeups, lambda jobs, events: None):
        yield


async def host_of(gateway: Gateway, folder: Path) -> Host:
    async with gateway.database.read() as session:
        return (await session.execute(select(Host).where(Host.token == str(folder)))).scalar_one()


async def test_servers_live_from_launch_to_deletion_and_outlive_the_process_of_their_host(
    gateway: Gateway, project: str, tmp_path: Path
) -> None:
    await remove_hosts(gateway)
    hypervisor, disk = MemoryHypervisor(), await image(gateway, project)
    made: dict[str, Any] = {}

    async def status() -> ServerStatus:
        return (await server_row(gateway, made["id"])).status

    workers = working(gateway, hypervisor, tmp_path)
    await asyncio.to_thread(workers.__enter__)
    try:
        before = await host_of(gateway, tmp_path)
        made = await launch(gateway, project, disk["id"])
        await until(lambda: _is(status, ServerStatus.RUNNING))
    finally:
        await asyncio.to_thread(workers.__exit__, None, None, None)
    assert hypervisor.running == {made["id"]}
    await done(gateway, "stopServer", serverId=made["id"])
    assert await status() == ServerStatus.RUNNING

    workers = working(gateway, hypervisor, tmp_path)
    await asyncio.to_thread(workers.__enter__)
    try:
        await until(lambda: _is(status, ServerStatus.STOPPED))
        assert (await host_of(gateway, tmp_path)).id == before.id
        await done(gateway, "deleteServer", serverId=made["id"])
        await until(lambda: _empty(hypervisor))
    finally:
        await asyncio.to_thread(workers.__exit__, None, None, None)
    assert hypervisor.machines == {}


async def _is(status: Any, wanted: ServerStatus) -> bool:
    return bool(await status() == wanted)


async def _empty(hypervisor: MemoryHypervisor) -> bool:
    return not hypervisor.disks


async def test_a_host_that_can_not_be_registered_says_so_at_its_start(gateway: Gateway, tmp_path: Path) -> None:
    settings = gateway.settings.model_copy(update={"data": tmp_path / "nothing", "database_url": None})
    host = this_host(MemoryHypervisor(), tmp_path)
    workers = HostWorkers(settings, host, gateway.bells, gateway.wakeups, lambda jobs, events: None)
    with pytest.raises(OperationalError, match="no such table"):
        await asyncio.to_thread(workers.__enter__)
