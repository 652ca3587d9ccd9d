"""Hosts that never return: an operator removes them, and their servers can be deleted without them."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from app.catalog.servers import forgetting, hosts, settling, watching
from app.catalog.work import jobs
from app.errors import HostForgotten, HostNotForgotten, LeaseLost
from app.lifecycle import JobState, ServerFailureCode, ServerGoal, ServerStatus
from app.models import Host, Job, Server, Volume, now
from tests.support.gateway import LEASE, Gateway
from tests.support.serving_servers import (
    about,
    add_host,
    blob_or_none,
    image,
    jobs_of,
    launch,
    refused,
    remove_hosts,
    server_row,
    volume,
    volume_row,
    volume_rows,
)
from tests.support.sharing import done

pytestmark = pytest.mark.anyio


@pytest.fixture
async def host(gateway: Gateway, project: str) -> str:
    await remove_hosts(gateway)
    return await add_host(gateway, f"for {project}")


@pytest.fixture
async def disk(gateway: Gateway, project: str) -> dict[str, Any]:
    return await image(gateway, project)


async def settle(gateway: Gateway, host: str) -> None:
    """Do a job of the host."""
    claim = await jobs.claim_of_host(gateway.database, host, LEASE)
    assert claim is not None
    assert await settling.settled(gateway.catalogue, claim, await settling.order_for(gateway.catalogue, claim))


async def forget(gateway: Gateway, host: str) -> int:
    """Forget a host that has been silent for long."""
    await gateway.change(Host, host, seen_at=now() - timedelta(days=1))
    return await forgetting.forget(gateway.database, host, hosts.last_alive(gateway.settings))


async def test_the_servers_of_a_forgotten_host_are_in_error_and_are_deleted_at_once(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    data = await volume(gateway, project)
    running = await launch(gateway, project, disk["id"], dataVolumeIds=[data["id"]])
    await settle(gateway, host)
    starting = await launch(gateway, project, disk["id"])
    assert await forget(gateway, host) == 2
    for server in (running, starting):
        row = await server_row(gateway, server["id"])
        assert (row.status, row.goal, row.failure_code) == (
            ServerStatus.ERROR, ServerGoal.STOPPED, ServerFailureCode.HOST_UNAVAILABLE,
        )  # fmt: skip
        assert row.failure_hint == "Delete the server, and launch another one."
        mistake = await refused(gateway, "startServer", serverId=server["id"])
        assert (mistake["code"], mistake["hint"]) == ("NO_HYPERVISOR", row.failure_hint)
    assert await jobs_of(gateway, host) == []
    # What is deleted from now on needs no host.
    for server in (running, starting):
        await done(gateway, "deleteServer", serverId=server["id"])
    assert all(row.base_id is None for row in await volume_rows(gateway, running["id"]))
    assert (await volume_row(gateway, data["id"])).server_id is None
    await done(gateway, "deleteVolume", volumeId=data["id"])
    assert (await volume_row(gateway, data["id"])).host_id is None
    assert await jobs_of(gateway, host) == []


async def test_deletions_that_waited_for_a_forgotten_host_end(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    blob = await gateway.blob(disk)
    kept, unused = await volume(gateway, project), await volume(gateway, project)
    await gateway.change(Volume, unused["id"], host_id=host)
    server = await launch(gateway, project, disk["id"], dataVolumeIds=[kept["id"]])
    await settle(gateway, host)
    await done(gateway, "deleteServer", serverId=server["id"])
    await done(gateway, "deleteVolume", volumeId=unused["id"])
    await gateway.mutate("deleteImage", {"imageId": disk["id"]})
    assert await blob_or_none(gateway, blob.id) is not None
    assert len(await jobs_of(gateway, host)) == 2
    assert await forget(gateway, host) == 0
    assert await jobs_of(gateway, host) == []
    assert await blob_or_none(gateway, blob.id) is None
    assert (await volume_row(gateway, kept["id"])).server_id is None
    assert (await volume_row(gateway, unused["id"])).host_id is None


async def test_forgetting_a_host_twice_changes_nothing(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    await forget(gateway, host)
    before = await gateway.everything()
    events = await gateway.events(server["id"])
    assert await forget(gateway, host) == 1
    assert await gateway.everything() == before
    assert await gateway.events(server["id"]) == events


async def test_a_host_that_is_alive_or_unknown_is_not_forgotten(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    await gateway.change(Host, host, seen_at=now())
    with pytest.raises(HostNotForgotten, match="Stop `images host` there"):
        await forgetting.forget(gateway.database, host, hosts.last_alive(gateway.settings))
    with pytest.raises(HostNotForgotten, match="there is no host hst_x"):
        await forgetting.forget(gateway.database, "hst_x", hosts.last_alive(gateway.settings))
    assert (await server_row(gateway, server["id"])).status == ServerStatus.STARTING


async def test_a_forgotten_host_that_is_back_is_refused_and_its_claims_are_lost(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    server = await launch(gateway, project, disk["id"])
    claim = await jobs.claim_of_host(gateway.database, host, LEASE)
    assert claim is not None
    order = await settling.order_for(gateway.catalogue, claim)
    await forget(gateway, host)
    with pytest.raises(HostForgotten, match="images forget-host"):
        await hosts.report(gateway.database, about(f"for {project}"))
    with pytest.raises(LeaseLost):
        await settling.settled(gateway.catalogue, claim, order)
    assert await watching.thought_to_run(gateway.database, host) == {}
    assert (await server_row(gateway, server["id"])).status == ServerStatus.ERROR


async def test_all_hosts_are_listed_with_their_servers(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    for _ in range(2):
        server = await launch(gateway, project, disk["id"])
    await done(gateway, "deleteServer", serverId=server["id"])
    empty = await add_host(gateway, f"empty {project}")
    lines = {line.host.id: line.servers for line in await forgetting.all_hosts(gateway.database)}
    assert (lines[host], lines[empty]) == (1, 0)


async def test_the_jobs_of_a_forgotten_host_are_over_also_those_that_ran(
    gateway: Gateway, host: str, project: str, disk: dict[str, Any]
) -> None:
    await launch(gateway, project, disk["id"])
    assert await jobs.claim_of_host(gateway.database, host, LEASE) is not None
    await forget(gateway, host)
    async with gateway.database.read() as session:
        states = (await session.execute(select(Job.state).where(Job.host_id == host))).scalars().all()
        servers = (await session.execute(select(Server).where(Server.host_id == host))).scalars().all()
    assert (set(states), len(servers)) == ({JobState.DONE}, 1)
