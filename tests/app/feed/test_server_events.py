"""Servers and volumes in the feed: under the same cursor as images, with the same promises (docs/feed.md)."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import inspect

from app.catalog.servers import settling, watching
from app.catalog.servers.settling import ServerFailure
from app.catalog.work import jobs
from app.lifecycle import ServerFailureCode
from app.models import Host, Server, now
from tests.app.feed.test_following import caught_up, following, position, reading, take
from tests.support import watchers
from tests.support.gateway import ADMIN, LEASE, MEMBER, READER, STRANGER, Gateway
from tests.support.serving_servers import add_host, image, launch, remove_hosts, server_row, volume, volume_rows
from tests.support.sharing import done, neighbour, share
from tests.support.watchers import TRANSPORTS, Wanted, Watcher, served

pytestmark = pytest.mark.anyio

ITEM = """__typename
    ... on ProjectEvent { cursor actor }
    ... on ImageEvent { imageId }
    ... on ImageStatusChanged { from to }
    ... on ServerEvent { serverId server { name status desiredStatus } }
    ... on ServerStatusChanged { oldStatus newStatus serverFailure { code message hint occurredAt } }
    ... on ServerUpdated { fields }
    ... on ServerDeleted { serverName }
    ... on VolumeEvent { volumeId volume { name server { id } } }
    ... on VolumeUpdated { fields }
    ... on VolumeDeleted { volumeName }"""
EVENTS = f"""subscription ($project: ID!, $about: ID, $after: EventCursor) {{
  projectEvents(projectId: $project, subjectId: $about, after: $after) {{ {ITEM} }} }}"""
HISTORY = f"""query ($project: ID!, $about: ID, $after: EventCursor, $first: Int, $last: Int, $before: EventCursor) {{
  projectEvents(projectId: $project, subjectId: $about, after: $after, first: $first, last: $last, before: $before) {{
    nodes {{ {ITEM} }} edges {{ cursor }} pageInfo {{ hasNextPage hasPreviousPage }} }} }}"""
IMAGES = """subscription ($project: ID!, $after: EventCursor) {
  imageEvents(projectId: $project, after: $after) { __typename ... on ImageEvent { cursor imageId } } }"""
SERVER = """subscription ($id: ID!, $settled: Boolean! = false) {
  server(id: $id, untilSettled: $settled) { id status desiredStatus failure { code } } }"""
every_transport = pytest.mark.parametrize("transport", TRANSPORTS)

AWAY = ServerFailure(ServerFailureCode.HYPERVISOR_UNAVAILABLE, "It does not start.", "Try again.")


@pytest.fixture(scope="module")
async def address(gateway: Gateway) -> AsyncIterator[str]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield address


@dataclass
class Site:
    """A project with an image to launch, and a host that does what a test says."""

    gateway: Gateway
    address: str
    host: str
    project: str
    disk: dict[str, Any]

    async def cursor(self) -> str:
        found: str = (await self.gateway.ask("{ eventCursor }"))["eventCursor"]
        return found

    def watch(
        self, transport: str, document: str = EVENTS, subject: str = ADMIN, **variables: Any
    ) -> AbstractAsyncContextManager[Watcher]:
        given = variables if "id" in variables else {"project": self.project} | variables
        return watchers.watching(transport, Wanted(self.address, document, given, self.gateway.token(subject)))

    async def history(self, **given: Any) -> list[dict[str, Any]]:
        page = (await self.gateway.ask(HISTORY, project=self.project, **{"first": 100} | given))["projectEvents"]
        assert [edge["cursor"] for edge in page["edges"]] == [node["cursor"] for node in page["nodes"]]
        found: list[dict[str, Any]] = page["nodes"]
        return found

    async def launch(self, **given: Any) -> str:
        server: str = (await launch(self.gateway, self.project, self.disk["id"], **given))["id"]
        return server

    async def settle(self, failure: ServerFailure | None = None) -> None:
        """Do the next job of the host, or fail at it."""
        claim = await jobs.claim_of_host(self.gateway.database, self.host, LEASE)
        assert claim is not None
        order = await settling.order_for(self.gateway.catalogue, claim)
        if failure is None:
            assert await settling.settled(self.gateway.catalogue, claim, order)
        else:
            assert await settling.failed(self.gateway.catalogue, claim, order, failure)


@pytest.fixture
async def site(gateway: Gateway, address: str, project: str) -> Site:
    await remove_hosts(gateway)
    host = await add_host(gateway, f"for {project}")
    return Site(gateway, address, host, project, await image(gateway, project))


def without_subjects(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What items say of what has happened, without what their subjects are now."""
    hidden = ("cursor", "server", "volume")
    return [{name: value for name, value in item.items() if name not in hidden} for item in items]


# ---------------------------------------------------------------- what is published


async def test_the_life_of_a_server_is_in_the_feed_with_its_volumes_and_who_did_what(site: Site) -> None:
    start = await site.cursor()
    data = (await volume(site.gateway, site.project))["id"]
    server = await site.launch(dataVolumeIds=[data])
    boot = (await volume_rows(site.gateway, server))[0].id
    await site.settle()
    await done(site.gateway, "stopServer", serverId=server)
    await done(site.gateway, "stopServer", serverId=server)
    await site.settle()
    await done(site.gateway, "startServer", serverId=server)
    await site.settle(AWAY)
    await done(site.gateway, "deleteServer", serverId=server)
    await site.settle()
    await done(site.gateway, "deleteVolume", volumeId=data)

    def changed(old: str, new: str, actor: str | None = None, failure: Any = None) -> dict[str, Any]:
        return {
            "__typename": "ServerStatusChanged", "actor": actor, "serverId": server, "oldStatus": old,
            "newStatus": new, "serverFailure": failure,
        }  # fmt: skip

    found = await site.history(after=start)
    failure = found[8]["serverFailure"]
    assert (failure["code"], failure["message"], failure["hint"]) == (AWAY.code, AWAY.message, AWAY.hint)
    assert failure["occurredAt"]
    assert without_subjects(found) == [
        {"__typename": "VolumeCreated", "actor": ADMIN, "volumeId": data},
        {"__typename": "ServerCreated", "actor": ADMIN, "serverId": server},
        {"__typename": "VolumeUpdated", "actor": ADMIN, "volumeId": data, "fields": ["server"]},
        {"__typename": "VolumeCreated", "actor": ADMIN, "volumeId": boot},
        changed("STARTING", "RUNNING"),
        {"__typename": "ServerUpdated", "actor": ADMIN, "serverId": server, "fields": ["desiredStatus"]},
        changed("RUNNING", "STOPPED"),
        changed("STOPPED", "STARTING", ADMIN),
        changed("STARTING", "ERROR", None, failure),
        {"__typename": "ServerDeleted", "actor": ADMIN, "serverId": server, "serverName": "web"},
        {"__typename": "VolumeDeleted", "actor": ADMIN, "volumeId": boot, "volumeName": "web"},
        {"__typename": "VolumeUpdated", "actor": None, "volumeId": data, "fields": ["server"]},
        {"__typename": "VolumeDeleted", "actor": ADMIN, "volumeId": data, "volumeName": "data"},
    ]
    assert [item["server"] for item in found if "serverId" in item] == [None] * 7
    assert [item["volume"] for item in found if "volumeId" in item] == [None] * 6


async def test_what_the_host_finds_and_that_it_is_gone_are_events(site: Site) -> None:
    ended, lost, stopping = [await site.launch() for _ in range(3)]
    for _ in range(3):
        await site.settle()
    await done(site.gateway, "stopServer", serverId=stopping)
    start = await site.cursor()
    thought = await watching.thought_to_run(site.gateway.database, site.host)
    assert await watching.found(site.gateway.database, ended, thought[ended], running=False)
    await site.gateway.change(Host, site.host, seen_at=now() - timedelta(days=1))
    await watching.lose_servers(site.gateway.catalogue)
    thought = await watching.thought_to_run(site.gateway.database, site.host)
    assert await watching.found(site.gateway.database, lost, thought[lost], running=True)
    found = await site.history(after=start)
    assert {(item["__typename"], item["actor"]) for item in found} == {("ServerStatusChanged", None)}
    moved = [(item["serverId"], item["oldStatus"], item["newStatus"]) for item in found]
    assert moved[0] == (ended, "RUNNING", "STOPPED")
    assert sorted(moved[1:3]) == sorted([(lost, "RUNNING", "ERROR"), (stopping, "RUNNING", "ERROR")])
    assert moved[3:] == [(lost, "ERROR", "RUNNING")]
    assert [(item["serverFailure"] or {}).get("code") for item in found] == [
        None, "HOST_UNAVAILABLE", "HOST_UNAVAILABLE", None,
    ]  # fmt: skip


async def test_a_mutation_returns_the_cursor_of_its_last_event_and_none_when_nothing_changed(site: Site) -> None:
    start = await site.cursor()
    made = await launch(site.gateway, site.project, site.disk["id"])
    cursors = [
        await done(site.gateway, "stopServer", serverId=made["id"]),
        await done(site.gateway, "startServer", serverId=made["id"]),
        await done(site.gateway, "deleteServer", serverId=made["id"]),
    ]
    found = [item["cursor"] for item in await site.history(after=start)]
    assert [found[2], found[3], found[5]] == cursors
    assert len(found) == 6


# ---------------------------------------------------------------- watched


@every_transport
async def test_images_servers_and_volumes_are_watched_under_one_cursor(site: Site, transport: str) -> None:
    start = await site.cursor()
    async with site.watch(transport, after=start) as watcher:
        server = await site.launch()
        other = await site.gateway.create(projectId=site.project)
        await site.settle()
        found = await watcher.items(4)
        assert [item["__typename"] for item in found] == [
            "ServerCreated", "VolumeCreated", "ImageCreated", "ServerStatusChanged",
        ]  # fmt: skip
        assert found[3]["server"] == {"name": "web", "status": "RUNNING", "desiredStatus": "RUNNING"}
        assert found[1]["volume"] == {"name": "web", "server": {"id": server}}
        assert found[2]["imageId"] == other["id"]
    assert [item["cursor"] for item in await site.history(after=start)] == [item["cursor"] for item in found]


async def test_from_every_event_all_later_ones_come_exactly_once_over_any_transport(site: Site) -> None:
    start = await site.cursor()
    data = (await volume(site.gateway, site.project))["id"]
    await site.launch(dataVolumeIds=[data])
    await site.gateway.create(projectId=site.project)
    await site.settle()
    cursors = [item["cursor"] for item in await site.history(after=start)]
    assert len(cursors) == 6
    for at, cursor in enumerate(cursors[:-1]):
        async with site.watch([*TRANSPORTS][at % 3], after=cursor) as watcher:
            assert [item["cursor"] for item in await watcher.items(5 - at)] == cursors[at + 1 :]
    back = await site.history(first=None, last=2, before=cursors[5])
    assert [item["cursor"] for item in back] == cursors[3:5]


async def test_who_watches_images_gets_nothing_of_servers_and_volumes(site: Site) -> None:
    start = await site.cursor()
    async with site.watch("sse", IMAGES, after=start) as watcher:
        server = await site.launch()
        first = await site.gateway.create(projectId=site.project)
        await site.settle()
        await done(site.gateway, "deleteServer", serverId=server)
        second = await site.gateway.create(projectId=site.project)
        found = await watcher.items(2)
    assert [(item["__typename"], item["imageId"]) for item in found] == [
        ("ImageCreated", first["id"]), ("ImageCreated", second["id"]),
    ]  # fmt: skip
    # From the table as well, and in pages.
    async with site.watch("sse", IMAGES, after=start) as watcher:
        assert await watcher.items(2) == found
    page = """query ($p: ID!, $after: EventCursor) { imageEvents(projectId: $p, after: $after, first: 9) {
        nodes { __typename cursor imageId } } }"""
    assert (await site.gateway.ask(page, p=site.project, after=start))["imageEvents"]["nodes"] == found


async def test_one_subject_is_watched_alone(site: Site) -> None:
    start = await site.cursor()
    one, other = await site.launch(), await site.launch()
    boot = (await volume_rows(site.gateway, other))[0].id
    for server in (one, other):
        await done(site.gateway, "deleteServer", serverId=server)
    for subject, expected in (
        (one, ["ServerCreated", "ServerDeleted"]),
        (boot, ["VolumeCreated", "VolumeDeleted"]),
    ):
        async with site.watch("sse", after=start, about=subject) as watcher:
            assert [item["__typename"] for item in await watcher.items(2)] == expected
        assert [item["__typename"] for item in await site.history(after=start, about=subject)] == expected


async def test_a_watcher_behind_the_ring_gets_servers_from_the_table(site: Site) -> None:
    start = await position(site.gateway.database)
    server = await site.launch(userData="x" * 1024)
    async with following(site.gateway, ring=2) as other:
        for _ in range(3):
            await done(site.gateway, "stopServer", serverId=server)
            await done(site.gateway, "startServer", serverId=server)
        await caught_up(site.gateway, other)
        # What a server boots with may be large, and is not kept.
        kept = other._subjects[server]
        assert isinstance(kept, Server)
        assert inspect(kept).unloaded >= {"user_data", "ssh_keys"}
        async with reading(other, site.project, start) as items:
            found = await take(items, 8)
            assert len({item.mark.position for item in found}) == 8
            await done(site.gateway, "deleteServer", serverId=server)
            await take(items, 2)
        assert other._subjects.keys().isdisjoint({server})


# ---------------------------------------------------------------- one server


@every_transport
async def test_a_server_is_watched_until_it_has_settled(site: Site, transport: str) -> None:
    server = await site.launch()
    async with site.watch(transport, SERVER, id=server, settled=True) as watcher:
        assert (await watcher.item())["status"] == "STARTING"
        await site.settle()
        assert await watcher.item() == {
            "id": server, "status": "RUNNING", "desiredStatus": "RUNNING", "failure": None,
        }  # fmt: skip
        assert await watcher.ended()
    await done(site.gateway, "stopServer", serverId=server)
    async with site.watch(transport, SERVER, id=server, settled=True) as watcher:
        assert await watcher.item() == {
            "id": server, "status": "RUNNING", "desiredStatus": "STOPPED", "failure": None,
        }  # fmt: skip
        await site.settle()
        assert (await watcher.item())["status"] == "STOPPED"
        assert await watcher.ended()


async def test_a_server_that_fails_has_settled(site: Site) -> None:
    server = await site.launch()
    async with site.watch("sse", SERVER, id=server, settled=True) as watcher:
        await watcher.item()
        await site.settle(AWAY)
        assert await watcher.item() == {
            "id": server, "status": "ERROR", "desiredStatus": "STOPPED", "failure": {"code": "HYPERVISOR_UNAVAILABLE"},
        }  # fmt: skip
        assert await watcher.ended()
    async with site.watch("sse", SERVER, id=server, settled=True) as watcher:
        assert (await watcher.item())["status"] == "ERROR"
        assert await watcher.ended()


async def test_the_end_of_a_deleted_server_is_null(site: Site) -> None:
    server = await site.launch()
    async with site.watch("websocket", SERVER, id=server) as watcher:
        assert (await watcher.item())["status"] == "STARTING"
        await done(site.gateway, "deleteServer", serverId=server)
        assert await watcher.item() is None
        assert await watcher.ended()


# ---------------------------------------------------------------- who may watch


@pytest.mark.parametrize("document", [EVENTS, SERVER])
async def test_a_stranger_watches_no_servers(site: Site, document: str) -> None:
    given = {"id": await site.launch()} if document == SERVER else {}
    async with site.watch("sse", document, STRANGER, **given) as watcher:
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "NOT_FOUND"
        assert await watcher.ended()


async def test_readers_watch_servers_until_they_lose_their_role(site: Site) -> None:
    await done(site.gateway, "setProjectMember", projectId=site.project, subject=READER, role="READER")
    start = await site.cursor()
    server = await site.launch()
    async with (
        site.watch("sse", EVENTS, READER, after=start) as watcher,
        site.watch("websocket", SERVER, READER, id=server) as other,
    ):
        assert [item["__typename"] for item in await watcher.items(2)] == ["ServerCreated", "VolumeCreated"]
        assert (await other.item())["status"] == "STARTING"
        await done(site.gateway, "removeProjectMember", projectId=site.project, subject=READER)
        await site.settle()
        for each in (watcher, other):
            (error,) = (await each.next())["errors"]
            assert error["extensions"]["code"] == "NOT_FOUND"
            assert await each.ended()


async def test_a_project_that_shares_an_image_sees_no_servers_of_the_other(site: Site) -> None:
    other = await neighbour(site.gateway)
    await share(site.gateway, site.disk, other, offer=True)
    offers = "query ($id: ID!) { project(id: $id) { shareOffers(first: 1) { nodes { id } } } }"
    (offer,) = (await site.gateway.ask(offers, STRANGER, id=other))["project"]["shareOffers"]["nodes"]
    await done(site.gateway, "acceptImageShare", STRANGER, shareId=offer["id"])
    start = await site.cursor()
    theirs = (await launch(site.gateway, other, site.disk["id"], STRANGER))["id"]
    mine = await site.launch()
    assert {item.get("serverId", mine) for item in await site.history(after=start)} == {mine}
    assert await site.history(after=start, about=theirs) == []
    async with site.watch("sse", SERVER, MEMBER, id=theirs) as watcher:
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "NOT_FOUND"
    assert (await server_row(site.gateway, theirs)).project_id == other
