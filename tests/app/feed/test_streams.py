"""The feed's promises to those who watch, over each of the three transports on a real server (docs/feed.md)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import delete
from sqlmodel import col

from app.catalog import conversions
from app.lifecycle import ImagePhase, ProjectRole
from app.models import Membership, now
from app.ports import ProgressReport
from app.sizes import MIB
from tests.support.gateway import ADMIN, READER, STRANGER, Gateway, outcome
from tests.support.watchers import TRANSPORTS, Wanted, Watcher, served, watching

pytestmark = pytest.mark.anyio

EVENTS = """subscription ($project: ID!, $image: ID, $after: EventCursor, $progress: Boolean! = false) {
  imageEvents(projectId: $project, imageId: $image, after: $after, progress: $progress) {
    __typename
    ... on ImageEvent { cursor imageId image { id status name } }
    ... on ImageStatusChanged { from to failure { code message hint retriable } }
    ... on ImageUpdated { fields }
    ... on ImageDeleted { imageName }
    ... on ImageProgressed { progress { phase percent bytesDone bytesTotal } }
    ... on ResyncRequired { cursor oldest } } }"""
IMAGE = """subscription ($id: ID!, $settled: Boolean! = false) {
  image(id: $id, untilSettled: $settled) { id status name revision progress { phase bytesDone } } }"""
every_transport = pytest.mark.parametrize("transport", TRANSPORTS)


@pytest.fixture(scope="module")
async def address(gateway: Gateway) -> AsyncIterator[str]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield address


class Audience:
    """Watchers of one gateway."""

    def __init__(self, gateway: Gateway, address: str) -> None:
        self._gateway = gateway
        self._address = address

    def watch(
        self, transport: str, document: str = EVENTS, subject: str | None = ADMIN, **variables: Any
    ) -> AbstractAsyncContextManager[Watcher]:
        token = self._gateway.token(subject) if subject else None
        return watching(transport, Wanted(self._address, document, variables, token))

    def resume(self, transport: str, project: str, last: str) -> AbstractAsyncContextManager[Watcher]:
        """As a browser does after a break."""
        wanted = Wanted(self._address, EVENTS, {"project": project}, self._gateway.token(ADMIN), last)
        return watching(transport, wanted)

    def until_expiry(self, transport: str, project: str) -> AbstractAsyncContextManager[Watcher]:
        """With a token that has just expired, and is still taken because clocks differ."""
        token = self._gateway.token(ADMIN, timedelta(seconds=-2))
        return watching(transport, Wanted(self._address, EVENTS, {"project": project}, token))


@pytest.fixture
def audience(gateway: Gateway, address: str) -> Audience:
    return Audience(gateway, address)


async def cursor(gateway: Gateway) -> str:
    found: str = (await gateway.ask("{ eventCursor }"))["eventCursor"]
    return found


# ---------------------------------------------------------------- promises 1 to 3


@every_transport
async def test_after_a_cursor_comes_first_what_was_missed_and_then_what_happens(
    gateway: Gateway, audience: Audience, transport: str
) -> None:
    project = await gateway.project()
    start = await cursor(gateway)
    image = await gateway.create(projectId=project, name="seen")
    async with audience.watch(transport, project=project, after=start) as watcher:
        created = await watcher.item()
        assert (created["__typename"], created["imageId"]) == ("ImageCreated", image["id"])
        renamed = await gateway.mutate("updateImage", {"imageId": image["id"], "name": "other"})
        updated = await watcher.item()
        assert (updated["__typename"], updated["fields"]) == ("ImageUpdated", ["name"])
        assert updated["image"]["name"] == "other"
        assert updated["cursor"] == renamed["cursor"]
        await gateway.mutate("abortUpload", {"uploadId": image["upload"]["id"]})
        failed = await watcher.item()
        assert (failed["from"], failed["to"]) == ("QUEUED", "ERROR")
        assert failed["failure"]["code"] == "UPLOAD_ABORTED"
        deleted = await gateway.mutate("deleteImage", {"imageId": image["id"]})
        gone = await watcher.item()
        assert gone == {
            "__typename": "ImageDeleted", "cursor": deleted["cursor"], "imageId": image["id"], "image": None,
            "imageName": "other",
        }  # fmt: skip


@pytest.mark.parametrize("resumed", TRANSPORTS)
@every_transport
async def test_a_cursor_of_one_transport_goes_on_over_another(
    gateway: Gateway, audience: Audience, transport: str, resumed: str
) -> None:
    project = await gateway.project()
    start = await cursor(gateway)
    made = [(await gateway.create(projectId=project))["id"] for _ in range(3)]
    async with audience.watch(transport, project=project, after=start) as watcher:
        first = await watcher.item()
    async with audience.watch(resumed, project=project, after=first["cursor"]) as watcher:
        assert [item["imageId"] for item in await watcher.items(2)] == made[1:]


async def test_a_browser_resumes_by_the_id_of_the_last_event(gateway: Gateway, audience: Audience) -> None:
    project = await gateway.project()
    start = await cursor(gateway)
    made = [(await gateway.create(projectId=project))["id"] for _ in range(3)]
    async with audience.watch("sse", project=project, after=start) as watcher:
        answer = await watcher.next()
        assert answer["id"] == answer["data"]["imageEvents"]["cursor"]
    async with audience.resume("sse", project, answer["id"]) as watcher:
        assert [item["imageId"] for item in await watcher.items(2)] == made[1:]


@pytest.mark.parametrize("last", ["x", "1", "A" * 55, "ZmVlZDE6LTE"])
async def test_what_is_no_event_id_is_refused(gateway: Gateway, audience: Audience, last: str) -> None:
    async with audience.resume("sse", gateway.alpha, last) as watcher:
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "INVALID"
        assert error["message"] == "Last-Event-ID is not a cursor of the feed."


async def test_nothing_is_missed_or_doubled_while_many_write_and_watchers_come_and_go(
    gateway: Gateway, audience: Audience
) -> None:
    project = await gateway.project()
    start = await cursor(gateway)
    writers, rounds = 4, 6

    async def write() -> None:
        for at in range(rounds):
            image = await gateway.create(projectId=project)
            await gateway.mutate("updateImage", {"imageId": image["id"], "name": f"n{at}"})

    async def watch(transport: str, breaks: bool) -> list[str]:
        seen: list[str] = []
        while len(seen) < 2 * writers * rounds:
            async with audience.watch(transport, project=project, after=seen[-1] if seen else start) as watcher:
                for _ in range(7 if breaks else 2 * writers * rounds):
                    if len(seen) < 2 * writers * rounds:
                        seen.append((await watcher.item())["cursor"])
        return seen

    watchers = [watch(transport, breaks) for transport in TRANSPORTS for breaks in (False, True)]
    *seen, _ = await asyncio.gather(*watchers, asyncio.gather(*(write() for _ in range(writers))))
    document = """query ($project: ID!, $after: EventCursor) {
        imageEvents(projectId: $project, after: $after, first: 100) { nodes { cursor } } }"""
    stored = (await gateway.ask(document, project=project, after=start))["imageEvents"]["nodes"]
    expected = [event["cursor"] for event in stored]
    assert len(expected) == 2 * writers * rounds
    assert all(found == expected for found in seen)


async def test_a_watcher_of_one_image_sees_nothing_of_others(gateway: Gateway, audience: Audience) -> None:
    project = await gateway.project()
    start = await cursor(gateway)
    image, other = [await gateway.create(projectId=project) for _ in range(2)]
    async with audience.watch("sse", project=project, image=image["id"], after=start) as watcher:
        assert (await watcher.item())["imageId"] == image["id"]
        await gateway.mutate("deleteImage", {"imageId": other["id"]})
        await gateway.mutate("deleteImage", {"imageId": image["id"]})
        assert (await watcher.item())["__typename"] == "ImageDeleted"


# ---------------------------------------------------------------- promise 4


@pytest.mark.parametrize(
    "after", ["x", "ZmVlZDE6LTE", "ZmVlZDE6MDE", "é", "\x00", "a" * 200, "ZmVlZDE6OTk5OTk5OTk5OTk5OTk5OTk5OTk"]
)
async def test_what_is_no_cursor_of_the_feed_is_refused(gateway: Gateway, audience: Audience, after: str) -> None:
    async with audience.watch("websocket", project=gateway.alpha, after=after) as watcher:
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "INVALID"
        assert error["extensions"]["field"] == ["after"]


# ---------------------------------------------------------------- promise 5: progress


def report(image_id: str, project: str, done: int, phase: ImagePhase = ImagePhase.CONVERTING) -> ProgressReport:
    return ProgressReport(image_id, project, phase, done, 100, now())


@every_transport
async def test_progress_comes_to_those_who_want_it_and_none_after_the_end(
    gateway: Gateway, audience: Audience, transport: str
) -> None:
    project = await gateway.project()
    image = await gateway.uploaded(projectId=project)
    claim, assignment = await gateway.begun(image["id"])
    start = await cursor(gateway)
    quiet = audience.watch(transport, project=project, after=start)
    async with audience.watch(transport, project=project, after=start, progress=True) as watcher, quiet as other:
        # Once this has come, both watch.
        await gateway.mutate("updateImage", {"imageId": image["id"], "protected": True})
        assert [(await watched.item())["__typename"] for watched in (watcher, other)] == ["ImageUpdated"] * 2
        gateway.wakeups.progressed(report(image["id"], project, 40))
        progressed = await watcher.item()
        assert progressed["progress"] == {"phase": "CONVERTING", "percent": 40.0, "bytesDone": 40, "bytesTotal": 100}
        assert progressed["image"]["status"] == "SAVING"
        late = report(image["id"], project, 99)
        await conversions.succeed(gateway.catalogue, claim, assignment, outcome())
        assert (await watcher.item())["to"] == "ACTIVE"
        gateway.wakeups.progressed(late)
        await gateway.mutate("deleteImage", {"imageId": (await gateway.create(projectId=project))["id"]})
        rest = [await watcher.item() for _ in range(2)]
        assert [item["__typename"] for item in rest] == ["ImageCreated", "ImageDeleted"]
        kinds = [item["__typename"] for item in await other.items(3)]
        assert kinds == ["ImageStatusChanged", "ImageCreated", "ImageDeleted"]


# ---------------------------------------------------------------- promise 6


@every_transport
async def test_a_right_that_is_taken_away_ends_the_stream(gateway: Gateway, audience: Audience, transport: str) -> None:
    project = await gateway.project()
    async with audience.watch(transport, project=project, after=await cursor(gateway)) as watcher:
        await gateway.create(projectId=project)
        assert (await watcher.item())["__typename"] == "ImageCreated"
        async with gateway.database.transaction() as tx:
            await tx.session.execute(delete(Membership).where(col(Membership.project_id) == project))
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "NOT_FOUND"
        assert error["message"] == "You no longer have access to this project."
        assert await watcher.ended()


@every_transport
async def test_a_token_that_expires_ends_the_stream_and_says_so(
    gateway: Gateway, audience: Audience, transport: str
) -> None:
    async with audience.until_expiry(transport, gateway.alpha) as watcher:
        answer = await watcher.next()
        if transport == "websocket":
            assert answer == {"closed": 4403}
        else:
            assert [error["extensions"]["code"] for error in answer["errors"]] == ["TOKEN_EXPIRED"]
        assert await watcher.ended()


@every_transport
@pytest.mark.parametrize("document", [EVENTS, IMAGE])
async def test_a_stranger_watches_nothing(gateway: Gateway, audience: Audience, transport: str, document: str) -> None:
    image = await gateway.create()
    given = {"project": gateway.alpha} if document == EVENTS else {"id": image["id"]}
    async with audience.watch(transport, document, STRANGER, **given) as watcher:
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "NOT_FOUND"
        assert await watcher.ended()


@pytest.mark.parametrize("transport", ["websocket", "sse", "multipart"])
async def test_without_a_token_nothing_is_watched(gateway: Gateway, audience: Audience, transport: str) -> None:
    async with audience.watch(transport, EVENTS, None, project=gateway.alpha) as watcher:
        (error,) = (await watcher.next())["errors"]
        assert error["extensions"]["code"] == "UNAUTHENTICATED"


@every_transport
async def test_a_reader_may_watch(gateway: Gateway, audience: Audience, transport: str) -> None:
    start = await cursor(gateway)
    image = await gateway.create()
    async with audience.watch(transport, EVENTS, READER, project=gateway.alpha, after=start) as watcher:
        assert (await watcher.item())["imageId"] == image["id"]
    async with audience.watch(transport, IMAGE, READER, id=image["id"]) as watcher:
        assert (await watcher.item())["status"] == "QUEUED"


async def test_whoever_got_the_right_just_now_may_watch_beside_others(gateway: Gateway, audience: Audience) -> None:
    project = await gateway.project()
    start = await cursor(gateway)
    image = await gateway.create(projectId=project)
    async with audience.watch("sse", project=project, after=start) as watcher:
        await watcher.item()
        for at in range(5):
            newcomer = f"newcomer {at}"
            async with gateway.database.transaction() as tx:
                tx.session.add(Membership(project_id=project, subject=newcomer, role=ProjectRole.READER))
            async with audience.watch("sse", EVENTS, newcomer, project=project, after=start) as other:
                assert (await other.item())["imageId"] == image["id"]


@pytest.mark.parametrize("hostile", ["img_\ud800", "prj_\0", "x" * 10_240, ""])
async def test_hostile_ids_are_not_found(gateway: Gateway, audience: Audience, hostile: str) -> None:
    for document, given in ((EVENTS, {"project": hostile}), (IMAGE, {"id": hostile})):
        async with audience.watch("websocket", document, **given) as watcher:
            (error,) = (await watcher.next())["errors"]
            assert error["extensions"]["code"] == "NOT_FOUND"


# ---------------------------------------------------------------- one image


@every_transport
async def test_an_image_is_watched_until_it_has_settled(gateway: Gateway, audience: Audience, transport: str) -> None:
    image = await gateway.create(upload={"size": MIB})
    async with audience.watch(transport, IMAGE, id=image["id"], settled=True) as watcher:
        assert (await watcher.item())["status"] == "QUEUED"
        await gateway.send(image, b"\1" * MIB)
        await gateway.mutate("completeUpload", {"uploadId": image["upload"]["id"]})
        claim, assignment = await gateway.begun(image["id"])
        await conversions.succeed(gateway.catalogue, claim, assignment, outcome())
        seen = [await watcher.item()]
        while seen[-1]["status"] != "ACTIVE":
            seen.append(await watcher.item())
        assert seen[-1]["progress"] is None
        assert await watcher.ended()


@every_transport
async def test_an_image_that_has_settled_before_comes_once(
    gateway: Gateway, audience: Audience, transport: str
) -> None:
    image = await gateway.failed()
    async with audience.watch(transport, IMAGE, id=image["id"], settled=True) as watcher:
        assert (await watcher.item())["status"] == "ERROR"
        assert await watcher.ended()


@every_transport
async def test_the_end_of_a_deleted_image_is_null(gateway: Gateway, audience: Audience, transport: str) -> None:
    image = await gateway.active()
    async with audience.watch(transport, IMAGE, id=image["id"]) as watcher:
        assert (await watcher.item())["status"] == "ACTIVE"
        await gateway.mutate("deleteImage", {"imageId": image["id"]})
        assert await watcher.item() is None
        assert await watcher.ended()
