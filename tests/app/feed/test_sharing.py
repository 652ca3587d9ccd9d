"""Who watches is told what their project can see, and no longer than they have the right (docs/feed.md, promise 6).

The gateway of these tests looks at its tables by itself once an hour: what ends at once is ended by the feed.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from app.catalog import members
from app.lifecycle import ProjectRole
from tests.app.conftest import NewDatabase
from tests.support.gateway import ADMIN, STRANGER, Gateway, running_gateway
from tests.support.sharing import done, feed_of, neighbour, share
from tests.support.watchers import TRANSPORTS, Wanted, Watcher, served, watching

pytestmark = pytest.mark.anyio

EVENTS = """subscription ($project: ID!, $image: ID, $after: EventCursor) {
  imageEvents(projectId: $project, imageId: $image, after: $after, progress: false) {
    __typename ... on ImageEvent { cursor imageId actor image { name } }
    ... on ImageShareChanged { state share { id } } } }"""
IMAGE = "subscription ($id: ID!) { image(id: $id) { name } }"
every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
async def gateway(new_database: NewDatabase, module_folder: Path) -> AsyncIterator[Gateway]:
    data = Path(tempfile.mkdtemp(dir=module_folder)) / "data"
    async with running_gateway(data, **new_database(data), poll_seconds=3600) as running:
        yield running


@pytest.fixture(scope="module")
async def address(gateway: Gateway) -> AsyncIterator[str]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield address


class Watchers:
    """Subscriptions to one gateway."""

    def __init__(self, gateway: Gateway, address: str) -> None:
        self._gateway = gateway
        self._address = address

    def watch(
        self, document: str, subject: str, transport: str = "sse", *, operator: bool = False, **variables: Any
    ) -> AbstractAsyncContextManager[Watcher]:
        token = self._gateway.tokens.issue(subject, operator=operator)
        return watching(transport, Wanted(self._address, document, variables, token))

    def watch_from(self, place: str, document: str, transport: str, **variables: Any) -> Any:
        """As ADMIN who works in a project, which X-Project names."""
        wanted = Wanted(self._address, document, variables, self._gateway.token(ADMIN), project=place)
        return watching(transport, wanted)


@pytest.fixture
def watchers(gateway: Gateway, address: str) -> Watchers:
    return Watchers(gateway, address)


async def position(gateway: Gateway) -> str:
    found: str = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    return found


async def taken(gateway: Gateway, **given: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A project that ADMIN does not belong to, and an image that it accepted a share of."""
    other = await neighbour(gateway)
    image = await gateway.active(**given)
    made = await share(gateway, image, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=made["id"])
    return other, image, made


async def code_of_the_end(watcher: Watcher) -> str:
    """The code with which a subscription ends; nothing comes after it."""
    answer = await watcher.next()
    (error,) = answer["errors"]
    assert await watcher.ended()
    code: str = error["extensions"]["code"]
    return code


# ---------------------------------------------------------------- the right to a project


@every_transport
async def test_who_is_removed_from_a_project_watches_it_no_longer(
    gateway: Gateway, watchers: Watchers, transport: str
) -> None:
    project = await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject="leaver", role="READER")
    start = await position(gateway)
    image = await gateway.create(projectId=project)
    async with (
        watchers.watch(EVENTS, "leaver", transport, project=project, after=start) as leaver,
        watchers.watch(EVENTS, ADMIN, transport, project=project, after=start) as stayer,
    ):
        assert (await leaver.item())["imageId"] == image["id"]
        await done(gateway, "removeProjectMember", projectId=project, subject="leaver")
        assert await code_of_the_end(leaver) == "NOT_FOUND"
        later = await gateway.create(projectId=project)
        assert [item["imageId"] for item in await stayer.items(2)] == [image["id"], later["id"]]


async def test_one_who_watches_an_image_of_the_project_is_ended_as_well(gateway: Gateway, watchers: Watchers) -> None:
    project = await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject="leaver", role="MEMBER")
    image = await gateway.create(projectId=project)
    async with watchers.watch(IMAGE, "leaver", id=image["id"]) as leaver:
        await leaver.item()
        await done(gateway, "removeProjectMember", projectId=project, subject="leaver")
        assert await code_of_the_end(leaver) == "NOT_FOUND"


async def test_who_becomes_an_admin_watches_on_and_is_told_of_offers(gateway: Gateway, watchers: Watchers) -> None:
    other = await neighbour(gateway, guest=ProjectRole.MEMBER)
    async with watchers.watch(EVENTS, "guest", project=other, after=await position(gateway)) as guest:
        own = await gateway.create(STRANGER, projectId=other)
        assert (await guest.item())["imageId"] == own["id"]
        await done(gateway, "setProjectMember", STRANGER, projectId=other, subject="guest", role="ADMIN")
        offered = await gateway.active()
        await share(gateway, offered, other, offer=True)
        assert (await guest.item())["imageId"] == offered["id"]


async def test_owners_and_operators_watch_projects_that_they_don_t_belong_to(
    gateway: Gateway, watchers: Watchers
) -> None:
    project = await gateway.project()
    await members.create_organization(gateway.database, "demo", [], None, "owner")
    start = await position(gateway)
    image = await gateway.create(projectId=project)
    async with watchers.watch(EVENTS, "owner", project=project, after=start) as owner:
        assert (await owner.item())["imageId"] == image["id"]
        await members.set_owner(gateway.database, "demo", "owner", owns=False)
        assert await code_of_the_end(owner) == "NOT_FOUND"
    async with watchers.watch(EVENTS, "ops", operator=True, project=project, after=start) as operator:
        assert (await operator.item())["imageId"] == image["id"]
        await done(gateway, "setProjectMember", projectId=project, subject="x", role="READER")
        later = await gateway.create(projectId=project)
        assert (await operator.item())["imageId"] == later["id"]


# ---------------------------------------------------------------- the right to an image


@every_transport
async def test_who_watches_an_image_through_a_share_is_ended_when_it_is_revoked(
    gateway: Gateway, watchers: Watchers, transport: str
) -> None:
    _, image, made = await taken(gateway, name="golden")
    async with watchers.watch(IMAGE, STRANGER, transport, id=image["id"]) as watcher:
        assert await watcher.item() == {"name": "golden"}
        await done(gateway, "updateImage", imageId=image["id"], name="silver")
        assert await watcher.item() == {"name": "silver"}
        await done(gateway, "revokeImageShare", shareId=made["id"])
        assert await code_of_the_end(watcher) == "NOT_FOUND"


@every_transport
async def test_what_one_may_do_with_an_image_is_told_for_the_project_that_one_works_in(
    gateway: Gateway, watchers: Watchers, transport: str
) -> None:
    other = await gateway.project()
    image = await gateway.active()
    await share(gateway, image, other)
    document = "subscription ($id: ID!) { image(id: $id) { name viewerCan { launch edit } } }"
    for place, edit in ((gateway.alpha, True), (other, False)):
        async with watchers.watch_from(place, document, transport, id=image["id"]) as watcher:
            assert (await watcher.item())["viewerCan"] == {"launch": True, "edit": edit}
            await done(gateway, "updateImage", imageId=image["id"], name=f"seen from {place}")
            assert (await watcher.item())["viewerCan"] == {"launch": True, "edit": edit}


@every_transport
async def test_a_feed_of_one_shared_image_tells_of_the_end_and_ends(
    gateway: Gateway, watchers: Watchers, transport: str
) -> None:
    other, image, made = await taken(gateway)
    async with watchers.watch(
        EVENTS, STRANGER, transport, project=other, image=image["id"], after=await position(gateway)
    ) as watcher:
        await done(gateway, "revokeImageShare", shareId=made["id"])
        told = await watcher.item()
        assert (told["__typename"], told["state"], told["image"]) == ("ImageShareChanged", None, None)
        assert await code_of_the_end(watcher) == "NOT_FOUND"


async def test_the_feed_of_the_project_goes_on_without_the_image(gateway: Gateway, watchers: Watchers) -> None:
    other, image, made = await taken(gateway)
    start = await position(gateway)
    async with watchers.watch(EVENTS, STRANGER, project=other, after=start) as watcher:
        await done(gateway, "revokeImageShare", shareId=made["id"])
        await done(gateway, "updateImage", imageId=image["id"], name="secret")
        own = await gateway.create(STRANGER, projectId=other)
        told = await watcher.items(2)
        assert [item["imageId"] for item in told] == [image["id"], own["id"]]
        assert told[0]["image"] is None


async def test_who_comes_late_is_not_shown_what_the_project_lost_sight_of(gateway: Gateway, watchers: Watchers) -> None:
    other, image, made = await taken(gateway)
    start = await position(gateway)
    async with watchers.watch(EVENTS, STRANGER, project=other, after=start) as early:
        await done(gateway, "updateImage", imageId=image["id"], name="golden")
        assert (await early.item())["image"] == {"name": "golden"}
        await done(gateway, "revokeImageShare", shareId=made["id"])
        await early.item()
        async with watchers.watch(EVENTS, STRANGER, project=other, after=start) as late:
            assert [item["image"] for item in await late.items(2)] == [None, None]
    assert [event["image"] for event in await feed_of(gateway, other, image, STRANGER)] == [None] * 5


async def test_an_image_that_is_shared_again_is_watched_on_from_an_old_cursor(
    gateway: Gateway, watchers: Watchers
) -> None:
    other, image, made = await taken(gateway)
    start = await position(gateway)
    await done(gateway, "revokeImageShare", shareId=made["id"])
    again = await share(gateway, image, other, offer=True)
    await done(gateway, "acceptImageShare", STRANGER, shareId=again["id"])
    async with watchers.watch(EVENTS, STRANGER, project=other, image=image["id"], after=start) as watcher:
        states = [item.get("state") for item in await watcher.items(3)]
        assert states == [None, "OFFERED", "ACCEPTED"]
        await done(gateway, "updateImage", imageId=image["id"], name="golden")
        assert [item["image"] for item in await watcher.items(2)] == [{"name": "disk"}, {"name": "golden"}]


async def test_a_deleted_image_ends_for_those_that_it_was_shared_with(gateway: Gateway, watchers: Watchers) -> None:
    other, image, _ = await taken(gateway)
    start = await position(gateway)
    async with (
        watchers.watch(IMAGE, STRANGER, id=image["id"]) as one,
        watchers.watch(EVENTS, STRANGER, project=other, after=start) as all_of_them,
    ):
        await one.item()
        await done(gateway, "deleteImage", imageId=image["id"])
        assert await one.item() is None
        assert await one.ended()
        gone = await all_of_them.item()
        assert (gone["__typename"], gone["actor"], gone["image"]) == ("ImageDeleted", ADMIN, None)


async def test_an_offer_reaches_admins_of_the_target_as_it_is_made(gateway: Gateway, watchers: Watchers) -> None:
    other = await neighbour(gateway)
    image = await gateway.active()
    start = await position(gateway)
    async with watchers.watch(EVENTS, STRANGER, project=other, after=start) as watcher:
        made = await share(gateway, image, other, offer=True)
        told = await watcher.item()
        assert (told["state"], told["share"], told["image"]) == ("OFFERED", {"id": made["id"]}, None)


async def test_an_offer_passes_by_who_is_no_admin_of_the_target(gateway: Gateway, watchers: Watchers) -> None:
    other = await neighbour(gateway, guest=ProjectRole.MEMBER)
    async with watchers.watch(EVENTS, "guest", project=other, after=await position(gateway)) as watcher:
        await share(gateway, await gateway.active(), other, offer=True)
        own = await gateway.create(STRANGER, projectId=other)
        assert (await watcher.item())["imageId"] == own["id"]
