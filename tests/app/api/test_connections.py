"""Every connection of the schema is read the same way: in both directions, in pages, with the same errors."""

import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from graphql import build_schema

import app
from app.catalog import members
from app.catalog.feed import event_log
from app.catalog.feed.details import Created
from app.lifecycle import ImageStatus, ImageType, ProjectRole, ShareGrant, ShareState, SourceKind
from app.models import Host, ImageShare, Membership, Server, StorageEntry, Volume
from app.sizes import GIB, MIB
from tests.app.conftest import NewDatabase
from tests.support.gateway import MORNING, Gateway, running_gateway

pytestmark = pytest.mark.anyio

WALT = "walt"


@dataclass(frozen=True, slots=True)
class Listed:
    """A connection: where it is, its field with its own arguments, and the field that identifies a node."""

    of: str
    field: str
    node: str = "id"
    cursor: str = "String"


# By type and field of the schema.
CONNECTIONS = {
    "Query.images": Listed("project", "images(projectId: $id, orderBy: {field: NAME, direction: ASC}"),
    "Query.imageEvents": Listed("project", "imageEvents(projectId: $id", "imageId", "EventCursor"),
    "Query.projectEvents": Listed(
        "project", "projectEvents(projectId: $id", "... on ImageEvent { imageId }", "EventCursor"
    ),
    "Image.promotedTo": Listed("snapshot", "promotedTo("),
    "Image.shares": Listed("image", "shares("),
    "Image.usedBy": Listed("image", "usedBy("),
    "ImageUpload.parts": Listed("upload", "parts(", "number"),
    "Organization.projects": Listed("organization", "projects("),
    "Project.members": Listed("project", "members(", "subject"),
    "Project.acceptedShares": Listed("taker", "acceptedShares("),
    "Project.servers": Listed("project", "servers("),
    "Project.shareOffers": Listed("asked", "shareOffers("),
    "Project.volumes": Listed("project", "volumes("),
    "Server.volumes": Listed("server", "volumes("),
    "StorageUsage.byImage": Listed("project", "byImage(", "imageName"),
    "Viewer.projects": Listed("viewer", "projects("),
    "Volume.snapshots": Listed("volume", "snapshots("),
}


def document(name: str) -> str:
    """A query of a connection by the id of the object that has it."""
    listed = CONNECTIONS[name]
    kind = name.partition(".")[0]
    found = (
        f"list: {listed.field} first: $first, after: $after, last: $last, before: $before) {{"
        f" edges {{ cursor node {{ {listed.node} }} }} nodes {{ {listed.node} }}"
        " pageInfo { hasNextPage hasPreviousPage startCursor endCursor } }"
    )
    if kind == "StorageUsage":
        usage = 'usage(from: "2026-01-01T00:00:00Z", to: "2026-02-01T00:00:00Z")'
        found = f"node(id: $id) {{ ... on Project {{ in: {usage} {{ {found} }} }} }}"
    elif kind != "Query":
        found = f"node(id: $id) {{ ... on {kind} {{ {found} }} }}"
    cursor = listed.cursor
    return f"query ($id: ID!, $first: Int, $after: {cursor}, $last: Int, $before: {cursor}) {{ {found} }}"


@dataclass(frozen=True, slots=True)
class World:
    """A gateway where WALT sees at least five nodes in each connection; `ids` are those of the objects with them."""

    gateway: Gateway
    ids: dict[str, str]

    async def page(self, name: str, **asked: Any) -> dict[str, Any]:
        found = await self.gateway.ask(document(name), WALT, id=self.ids[CONNECTIONS[name].of], **asked)
        while "list" not in found:
            (found,) = found.values()
        page: dict[str, Any] = found["list"]
        assert page["nodes"] == [edge["node"] for edge in page["edges"]]
        return page

    async def refusal(self, name: str, **asked: Any) -> tuple[str, Any]:
        """The code of the error, and the argument that it names."""
        error = await self.gateway.refused(document(name), WALT, id=self.ids[CONNECTIONS[name].of], **asked)
        return error["code"], error["field"]


@pytest.fixture(scope="module")
async def world(new_database: NewDatabase, module_folder: Path) -> AsyncIterator[World]:
    data = Path(tempfile.mkdtemp(dir=module_folder)) / "data"
    async with running_gateway(data, **new_database(data)) as gateway:
        yield World(gateway, await filled(gateway))


async def filled(gateway: Gateway) -> dict[str, str]:
    names = ["home", "one", "two", "three", "four", "five"]
    home, *others = await members.create_organization(gateway.database, "walks", names, WALT, owner=WALT)
    stocked = [{"name": f"image {n}", "status": ImageStatus.ACTIVE, "stored_size": MIB} for n in range(6)]
    images = await gateway.stock(home.id, *stocked)
    async with gateway.database.transaction() as tx:
        tx.session.add_all(share(images[0], other.id, ShareState.ACCEPTED) for other in others)
        tx.session.add_all(share(image, others[0].id, ShareState.ACCEPTED) for image in images[1:])
        tx.session.add_all(share(image, others[1].id, ShareState.OFFERED) for image in images[1:])
        for n, image in enumerate(images):
            tx.session.add(Membership(project_id=home.id, subject=f"member {n}", role=ProjectRole.READER))
            tx.session.add(entry(home.id, image, n))
            event_log.publish(tx, home.id, image, Created(), actor=WALT)
    servers, volume = await used(gateway, home.id, images[0])
    captured = {"type": ImageType.SNAPSHOT, "source_kind": SourceKind.SERVER, "volume_id": volume}
    snapshots = await gateway.stock(home.id, *[{"name": f"snapshot {n}", **captured} for n in range(5)])
    promoted = {"source_kind": SourceKind.SNAPSHOT, "source_image_id": snapshots[0]}
    await gateway.stock(home.id, *[{"name": f"promoted {n}", **promoted} for n in range(5)])
    upload = await gateway.create(WALT, projectId=home.id, upload={"size": 70 * MIB})
    return {
        "project": home.id,
        "taker": others[0].id,
        "asked": others[1].id,
        "image": images[0],
        "server": servers[0],
        "volume": volume,
        "snapshot": snapshots[0],
        "upload": upload["upload"]["id"],
        "organization": home.organization_id,
        "viewer": f"usr_{WALT}",
    }


async def used(gateway: Gateway, project_id: str, image_id: str) -> tuple[list[str], str]:
    """Servers of an image; the first has all of the project's volumes. Returns the ids of the servers, and of one."""
    given: dict[str, Any] = {"project_id": project_id, "created_by": WALT}
    async with gateway.database.transaction() as tx:
        host = Host(token="here", name="here", accelerator="tcg", memory=GIB, vcpus=1)
        tx.session.add(host)
        await tx.session.flush()
        machine: dict[str, Any] = {"image_id": image_id, "host_id": host.id, "vcpus": 1, "memory": MIB}
        servers = [Server(name=f"server {n}", instance_id=f"i-{n}", **machine, **given) for n in range(6)]
        tx.session.add_all(servers)
        await tx.session.flush()
        attached: dict[str, Any] = {"server_id": servers[0].id, "host_id": host.id, "size": GIB}
        volumes = [Volume(name=f"volume {n}", position=n, **attached, **given) for n in range(6)]
        tx.session.add_all(volumes)
        return [server.id for server in servers], volumes[0].id


def share(image_id: str, project_id: str, state: ShareState) -> ImageShare:
    return ImageShare(image_id=image_id, project_id=project_id, grant=ShareGrant.LAUNCH, state=state, shared_by=WALT)


def entry(project_id: str, image_id: str, n: int) -> StorageEntry:
    return StorageEntry(
        project_id=project_id,
        image_id=image_id,
        blob_id=f"blb_{n}",
        stored_size=MIB,
        since=MORNING,
        until=MORNING + timedelta(hours=1),
    )


async def walk(world: World, name: str, size: int, *, forward: bool) -> list[Any]:
    """All nodes, in the order in which pages of this size return them, from the start or from the end."""
    nodes: list[Any] = []
    cursor = None
    while True:
        asked = {"first": size, "after": cursor} if forward else {"last": size, "before": cursor}
        page = await world.page(name, **asked)
        info, here = page["pageInfo"], page["nodes"]
        assert (info["startCursor"], info["endCursor"]) == (page["edges"][0]["cursor"], page["edges"][-1]["cursor"])
        assert info["hasPreviousPage" if forward else "hasNextPage"] is (cursor is not None)
        nodes = nodes + here if forward else here + nodes
        cursor = info["endCursor" if forward else "startCursor"]
        if not info["hasNextPage" if forward else "hasPreviousPage"]:
            return nodes


def test_the_table_has_every_connection_of_the_schema() -> None:
    built = build_schema((Path(app.__file__).parent.parent / "schema.graphql").read_text())
    found = {
        f"{type_name}.{name}"
        for type_name, type_ in built.type_map.items()
        for name, field in getattr(type_, "fields", {}).items()
        if str(field.type).rstrip("!").endswith("Connection")
    }
    assert found == CONNECTIONS.keys()


@pytest.mark.parametrize("name", CONNECTIONS)
async def test_pages_forwards_and_backwards_give_the_same_rows(world: World, name: str) -> None:
    whole = (await world.page(name, first=100))["nodes"]
    assert len(whole) >= 5
    assert len({str(node) for node in whole}) == len(whole)
    for size in (2, len(whole)):
        assert await walk(world, name, size, forward=True) == whole, size
        assert await walk(world, name, size, forward=False) == whole, size


@pytest.mark.parametrize("name", CONNECTIONS)
async def test_two_cursors_enclose_the_items_between_them(world: World, name: str) -> None:
    edges = (await world.page(name, first=100))["edges"]
    between = {"after": edges[0]["cursor"], "before": edges[4]["cursor"]}
    inside = [edge["node"] for edge in edges[1:4]]
    for asked, nodes in (
        ({"first": 9}, inside),
        ({"last": 9}, inside),
        ({"first": 2}, inside[:2]),
        ({"last": 2}, inside[1:]),
    ):
        assert (await world.page(name, **between, **asked))["nodes"] == nodes, asked


@pytest.mark.parametrize("name", CONNECTIONS)
async def test_sizes_and_cursors_that_are_no_use_are_refused(world: World, name: str) -> None:
    field = name.partition(".")[2]
    sizes: tuple[dict[str, int], ...] = (
        {},
        {"first": 1, "last": 1},
        {"first": 0},
        {"last": 0},
        {"first": 101},
        {"last": 101},
        {"last": -1},
    )
    for asked in sizes:
        assert await world.refusal(name, **asked) == ("BAD_PAGINATION", field), asked
    foreign = await foreign_cursor(world, name)
    for argument in ("after", "before"):
        for cursor in ("nonsense", foreign):
            assert await world.refusal(name, first=1, **{argument: cursor}) == ("INVALID", [argument]), cursor


async def foreign_cursor(world: World, name: str) -> str:
    """A cursor of a list of another order."""
    other = "Query.images" if name != "Query.images" else "Project.members"
    cursor: str = (await world.page(other, first=1))["pageInfo"]["endCursor"]
    return cursor
