"""What every project sees is told once, in the public feed; every watcher gets it among the events of their project."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import func, insert
from sqlmodel import col, select

from app.catalog.feed import event_log
from app.catalog.feed.cursors import Mark
from app.catalog.feed.details import Created
from app.catalog.feed.items import Happened
from app.lifecycle import ImageVisibility, ProjectRole
from app.models import PUBLIC_FEED, Event, Image, Organization, Project
from app.viewer import Viewer
from tests.app.feed.test_following import caught_up, following, position, position_of, positions_of, reading, take
from tests.support.gateway import ADMIN, MEMBER, READER, STRANGER, Gateway
from tests.support.sharing import done
from tests.support.watchers import TRANSPORTS, Wanted, served, watching

pytestmark = pytest.mark.anyio

PROJECTS = 10_000
EVENTS = """subscription ($project: ID!, $image: ID, $after: EventCursor) {
  imageEvents(projectId: $project, imageId: $image, after: $after, progress: false) {
    __typename ... on ImageEvent { cursor imageId image { name } } ... on ResyncRequired { cursor } } }"""
IMAGE = "subscription ($id: ID!) { image(id: $id) { name } }"
PAGE = """query ($p: ID!, $image: ID, $first: Int, $last: Int, $after: EventCursor, $before: EventCursor) {
  imageEvents(projectId: $p, imageId: $image, first: $first, last: $last, after: $after, before: $before) {
    nodes { cursor imageId } pageInfo { hasNextPage hasPreviousPage } } }"""


@pytest.fixture(scope="module")
async def address(gateway: Gateway) -> AsyncIterator[str]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield address


async def public(gateway: Gateway) -> dict[str, Any]:
    """An image that every project sees; its project has ADMIN as its only member."""
    image = await gateway.active(projectId=await gateway.project(), name="public")
    await gateway.make_public(image["id"])
    return image


async def rename(gateway: Gateway, *images: dict[str, Any]) -> list[str]:
    """Change images one after the other; gives the cursors of the changes."""
    at = await position(gateway.database)
    changes = [{"imageId": image["id"], "name": f"name {at + n}"} for n, image in enumerate(images)]
    return [(await gateway.mutate("updateImage", change))["cursor"] for change in changes]


async def events_after(gateway: Gateway, place: int) -> list[Event]:
    query = select(Event).where(col(Event.seq) > place).order_by(col(Event.seq))
    async with gateway.database.read() as session:
        return list((await session.execute(query)).scalars())


# ---------------------------------------------------------------- one row, and all who follow it


async def test_what_ten_thousand_projects_see_is_one_row_and_wakes_the_watchers_of_each(
    gateway: Gateway, address: str
) -> None:
    image = await public(gateway)
    async with gateway.database.transaction() as tx:
        organization = Organization(name="many")
        tx.session.add(organization)
        await tx.session.flush()
        rows = [Project(organization_id=organization.id, name=str(n)).model_dump() for n in range(PROJECTS)]
        await tx.session.execute(insert(Project), rows)
    async with gateway.database.read() as session:
        assert (await session.execute(select(func.count()).select_from(Project))).scalar_one() > PROJECTS

    one, other = await gateway.project(), await gateway.project()
    mine, theirs = await gateway.create(projectId=one), await gateway.create(projectId=other)
    start = await position(gateway.database)
    after = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    wanted = [Wanted(address, EVENTS, {"project": id_, "after": after}, gateway.token(ADMIN)) for id_ in (one, other)]
    async with watching("sse", wanted[0]) as first, watching("websocket", wanted[1]) as second:
        cursors = await rename(gateway, mine, image, theirs, image, mine)
        got = [[(item["imageId"], item["cursor"]) for item in await watcher.items(n)] for watcher, n in
               ((first, 4), (second, 3))]  # fmt: skip
    ids = [image_["id"] for image_ in (mine, image, theirs, image, mine)]
    expected = list(zip(ids, cursors, strict=True))
    assert got == [[expected[n] for n in (0, 1, 3, 4)], [expected[n] for n in (1, 2, 3)]]
    feeds = [event.feed for event in await events_after(gateway, start)]
    assert feeds == [one, PUBLIC_FEED, other, PUBLIC_FEED, one]


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_who_sees_an_image_as_everybody_does_watches_it_alone(
    gateway: Gateway, address: str, transport: str
) -> None:
    image, other = await public(gateway), await public(gateway)
    wanted = Wanted(address, IMAGE, {"id": image["id"]}, gateway.token(STRANGER))
    async with watching(transport, wanted) as watcher:
        assert await watcher.item() == {"name": "public"}
        await rename(gateway, other)
        await done(gateway, "updateImage", imageId=image["id"], name="renamed")
        assert await watcher.item() == {"name": "renamed"}
        await done(gateway, "deleteImage", imageId=image["id"])
        assert await watcher.item() is None
        assert await watcher.ended()


async def test_who_is_removed_from_a_project_watches_the_public_feed_no_longer(gateway: Gateway, address: str) -> None:
    image, project = await public(gateway), await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject=MEMBER, role="READER")
    after = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    wanted = Wanted(address, EVENTS, {"project": project, "after": after}, gateway.token(MEMBER))
    async with watching("sse", wanted) as watcher:
        await rename(gateway, image)
        assert (await watcher.item())["imageId"] == image["id"]
        await done(gateway, "removeProjectMember", projectId=project, subject=MEMBER)
        await rename(gateway, image)
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "NOT_FOUND"


async def test_events_from_when_an_image_was_public_do_not_show_what_became_of_it(gateway: Gateway) -> None:
    image, project = await public(gateway), await gateway.project()
    start = await position(gateway.database)
    async with following(gateway, ring=16) as other:
        await rename(gateway, image)
        await caught_up(gateway, other)
        async with gateway.database.transaction() as tx:
            row = await tx.session.get_one(Image, image["id"])
            row.visibility = ImageVisibility.PROJECT
        await rename(gateway, image)
        await caught_up(gateway, other)
        async with reading(other, project, start) as items:
            (item,) = await take(items, 1)
        assert isinstance(item, Happened)
        assert (item.subject_id, item.subject) == (image["id"], None)


# ---------------------------------------------------------------- out of the ring, and out of the table


async def test_one_who_fell_behind_gets_both_feeds_from_the_table_in_the_order_of_commits(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.catalog.feed.live._BATCH", 5)
    image, project = await public(gateway), await gateway.project()
    own, foreign = await gateway.create(projectId=project), await gateway.create(projectId=await gateway.project())
    start = await position(gateway.database)
    cursors = await rename(gateway, *([own, image, foreign, image, own, own] * 4))
    expected = [await position_of(gateway, cursor) for n, cursor in enumerate(cursors) if n % 6 != 2]
    async with following(gateway, ring=3) as other:
        await caught_up(gateway, other)
        async with reading(other, project, start) as items:
            found = await take(items, 20)
            assert positions_of(found) == expected
            (later,) = await rename(gateway, image)
            assert positions_of(await take(items, 1)) == [await position_of(gateway, later)]
        async with reading(other, project, start, subject_id=image["id"]) as items:
            assert positions_of(await take(items, 8)) == [place for n, place in enumerate(expected) if n % 5 in (1, 2)]
    assert {item.feed for item in found if isinstance(item, Happened)} == {project, PUBLIC_FEED}


async def test_pages_go_through_both_feeds_forward_and_backward_without_a_seam(gateway: Gateway) -> None:
    image, project = await public(gateway), await gateway.project()
    start = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    own, foreign = await gateway.create(projectId=project), await gateway.create(projectId=await gateway.project())
    (created,) = (await gateway.ask(PAGE, p=project, after=start, first=9))["imageEvents"]["nodes"]
    cursors = await rename(gateway, own, image, foreign, image, image, own)
    expected = [created["cursor"], *(cursor for n, cursor in enumerate(cursors) if n != 2)]

    async def page(**given: Any) -> tuple[list[str], bool, bool]:
        found = (await gateway.ask(PAGE, p=project, **given))["imageEvents"]
        info = found["pageInfo"]
        return [node["cursor"] for node in found["nodes"]], info["hasPreviousPage"], info["hasNextPage"]

    for limit in range(1, 7):
        for at in range(5):
            forward = await page(first=limit, after=expected[at])
            assert forward == (expected[at + 1 : at + 1 + limit], True, at + 1 + limit < 6)
            backward = await page(last=limit, after=start, before=expected[at + 1])
            assert backward == (expected[max(0, at + 1 - limit) : at + 1], at + 1 > limit, True)
    of_one = await page(first=9, after=start, image=image["id"])
    assert of_one[0] == [expected[n] for n in (2, 3, 4)]


async def test_a_watcher_gets_no_more_of_the_public_feed_than_their_role_may_see(gateway: Gateway) -> None:
    image, project = await public(gateway), await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject=READER, role="READER")
    start = await position(gateway.database)
    async with gateway.database.transaction() as tx:
        for role in (ProjectRole.ADMIN, ProjectRole.READER):
            event_log.publish(tx, PUBLIC_FEED, image["id"], Created(), actor=None, least_role=role)
    async with following(gateway) as other:
        for subject, seen in ((ADMIN, [start + 1, start + 2]), (READER, [start + 2])):
            items = other.follow(Viewer(subject), project, after=Mark(other.epoch, start))
            assert positions_of(await take(items, len(seen))) == seen
            await items.aclose()  # type: ignore[attr-defined]
