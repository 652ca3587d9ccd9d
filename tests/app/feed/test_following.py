"""The feed inside one process: the ring and the table behind it, slow watchers, progress, and what is pruned."""

import asyncio
import base64
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from app.adapters.messaging.local_wakeups import LocalWakeups
from app.catalog.feed import epochs, event_log
from app.catalog.feed.cursors import KEY_BYTES, Cursors, Mark
from app.catalog.feed.items import Happened, Item, Progressed, Resync
from app.catalog.feed.live import Feed
from app.catalog.feed.progress import ProgressBoard
from app.database.sessions import Database
from app.errors import InvalidInput, NotFound
from app.lifecycle import EventKind, ImagePhase
from app.models import Event, Image, now
from app.ports import ProgressReport
from app.viewer import Viewer
from tests.support.gateway import ADMIN, STRANGER, Gateway, until
from tests.support.sharing import done

pytestmark = pytest.mark.anyio

VIEWER = Viewer(ADMIN)
_NUMBERS = itertools.count()


@asynccontextmanager
async def following(
    gateway: Gateway, ring: int = 4, poll_seconds: float = 0.02, wakeups: LocalWakeups | None = None
) -> AsyncIterator[Feed]:
    """A feed as another process would have it: without `wakeups` nobody wakes it, it looks by itself."""
    other = Feed(gateway.database, wakeups or LocalWakeups(), ProgressBoard(), ring, poll_seconds)
    await other.start()
    running = asyncio.create_task(other.run())
    try:
        yield other
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@asynccontextmanager
async def reading(other: Feed, project: str, after: int | None, **options: Any) -> AsyncIterator[AsyncIterator[Item]]:
    mark = None if after is None else Mark(other.epoch, after)
    items = other.follow(VIEWER, project, after=mark, **options)
    try:
        yield items
    finally:
        await items.aclose()  # type: ignore[attr-defined]


async def take(items: AsyncIterator[Item], count: int) -> list[Item]:
    async with asyncio.timeout(20):
        return [await anext(items) for _ in range(count)]


async def position(database: Database) -> int:
    async with database.read() as session:
        return await event_log.newest_position(session)


async def position_of(gateway: Gateway, cursor: str) -> int:
    async with gateway.database.read() as session:
        key = (await epochs.head(session)).key
    return Cursors(key).mark(cursor).position


async def update_often(gateway: Gateway, image: dict[str, Any], times: int) -> list[int]:
    """Positions of that many changes of an image."""
    positions = []
    for _ in range(times):
        payload = await gateway.mutate("updateImage", {"imageId": image["id"], "name": f"name {next(_NUMBERS)}"})
        positions.append(await position_of(gateway, payload["cursor"]))
    return positions


def name_of(item: Happened) -> str | None:
    return None if item.subject is None else item.subject.name


async def caught_up(gateway: Gateway, other: Feed) -> None:
    """Wait until the feed has read all there is."""

    async def level() -> bool:
        return other._newest == await position(gateway.database)

    await until(level)


def positions_of(items: list[Item]) -> list[int]:
    assert all(isinstance(item, Happened) for item in items), items
    return [item.position for item in items if isinstance(item, Happened)]


async def test_a_watcher_who_fell_behind_the_ring_is_served_from_the_table(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    start = await position(gateway.database)
    async with following(gateway, ring=4) as other:
        expected = await update_often(gateway, image, 20)
        await caught_up(gateway, other)
        assert len(other._ring) < 8
        assert other._ring_begins > start
        async with reading(other, project, start) as items:
            assert positions_of(await take(items, 20)) == expected
            expected = await update_often(gateway, image, 2)
            assert positions_of(await take(items, 2)) == expected


async def test_from_every_place_in_ring_and_table_all_that_is_later_comes(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    async with following(gateway, ring=4) as other:
        places = [await position(gateway.database), *(await update_often(gateway, image, 13))]
        await caught_up(gateway, other)
        for at, place in enumerate(places[:-1]):
            async with reading(other, project, place) as items:
                assert positions_of(await take(items, len(places) - at - 1)) == places[at + 1 :]


async def test_a_watcher_goes_from_the_table_to_the_ring_without_a_seam(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    start = await position(gateway.database)
    async with following(gateway, ring=3) as other:
        async with reading(other, project, start) as items:
            expected, seen = [], []
            for burst in (1, 9, 2, 7, 1):
                expected += await update_often(gateway, image, burst)
                seen += positions_of(await take(items, burst))
            assert seen == expected


async def test_more_than_one_batch_is_read_from_the_table(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.catalog.feed.live._BATCH", 5)
    project, neighbour = await gateway.project(), await gateway.project()
    image, other_image = await gateway.create(projectId=project), await gateway.create(projectId=neighbour)
    start = await position(gateway.database)
    expected = []
    for _ in range(6):
        expected += await update_often(gateway, image, 2)
        await update_often(gateway, other_image, 3)
    async with following(gateway, ring=2) as other, reading(other, project, start) as items:
        assert positions_of(await take(items, 12)) == expected


async def test_a_feed_that_starts_late_knows_what_was_before(gateway: Gateway) -> None:
    project = await gateway.project()
    start = await position(gateway.database)
    image = await gateway.create(projectId=project)
    async with following(gateway) as other, reading(other, project, start) as items:
        (created,) = await take(items, 1)
        assert isinstance(created, Happened)
        assert (created.kind, created.subject_id) == (EventKind.CREATED, image["id"])


async def test_events_of_the_ring_come_with_their_image_as_it_is_now(gateway: Gateway) -> None:
    project = await gateway.project()
    kept, deleted = await gateway.create(projectId=project), await gateway.create(projectId=project)
    start = await position(gateway.database)
    async with following(gateway, ring=16) as other:
        await update_often(gateway, deleted, 2)
        await update_often(gateway, kept, 3)
        await caught_up(gateway, other)
        await gateway.mutate("updateImage", {"imageId": kept["id"], "name": "the newest name"})
        await gateway.mutate("deleteImage", {"imageId": deleted["id"]})
        await caught_up(gateway, other)
        assert other._ring_begins == start
        async with reading(other, project, start) as items:
            seen = [item for item in await take(items, 7) if isinstance(item, Happened)]
        # However many events there are: one row of each image that exists.
        assert list(other._subjects) == [kept["id"]]
    names = [(item.subject_id, name_of(item)) for item in seen]
    assert names == [(deleted["id"], None)] * 2 + [(kept["id"], "the newest name")] * 4 + [(deleted["id"], None)]


async def test_images_leave_with_the_last_of_their_events_in_the_ring(gateway: Gateway) -> None:
    project = await gateway.project()
    early, late = await gateway.create(projectId=project), await gateway.create(projectId=project)
    async with following(gateway, ring=4) as other:
        await update_often(gateway, early, 1)
        await update_often(gateway, late, 7)
        await caught_up(gateway, other)
        assert list(other._subjects) == [late["id"]]


async def test_without_a_cursor_only_what_happens_from_now_on_comes(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    async with following(gateway) as other, reading(other, project, None) as items:
        first = asyncio.ensure_future(anext(items))

        async def watching() -> bool:
            return other._watchers[project] == 1

        await until(watching)
        expected = await update_often(gateway, image, 1)
        assert positions_of([await first]) == expected


async def test_a_slow_watcher_gets_every_status_and_of_progress_the_newest(gateway: Gateway) -> None:
    project = await gateway.project()
    images = [await gateway.uploaded(projectId=project) for _ in range(2)]
    start = await position(gateway.database)
    async with following(gateway) as other, reading(other, project, start) as items:
        await update_often(gateway, images[0], 1)
        await take(items, 1)
        for image in images:
            await gateway.begun(image["id"])
        for done in range(1, 100):
            for image in images:
                other.wakeups.progressed(report(project, image["id"], done))

        async def heard() -> bool:
            return all((known := other.board.of(image["id"])) and known.report.bytes_done == 99 for image in images)

        await until(heard)
        await caught_up(gateway, other)
        news = await take(items, 4)
        moved = [item for item in news if isinstance(item, Happened)]
        assert [(event.subject_id, event.detail.to_row()["after"]) for event in moved] == [
            (image["id"], "SAVING") for image in images
        ]
        made = [item for item in news if isinstance(item, Progressed)]
        assert [(item.image.id, item.progress.report.bytes_done) for item in made] == [
            (image["id"], 99) for image in images
        ]
        last = await update_often(gateway, images[0], 1)
        assert positions_of(await take(items, 1)) == last


def report(project: str, image_id: str, done: int, total: int | None = 200) -> ProgressReport:
    return ProgressReport(image_id, project, ImagePhase.CONVERTING, done, total, now())


async def test_progress_of_other_projects_and_images_stays_there(gateway: Gateway) -> None:
    project, neighbour = await gateway.project(), await gateway.project()
    mine, other_image = await gateway.uploaded(projectId=project), await gateway.uploaded(projectId=project)
    theirs = await gateway.uploaded(projectId=neighbour)
    async with following(gateway) as other, reading(other, project, None, subject_id=mine["id"]) as items:
        first = asyncio.ensure_future(anext(items))

        async def watching() -> bool:
            return other._watchers[project] == 1

        await until(watching)
        for image, owner in ((theirs, neighbour), (other_image, project), (mine, project)):
            other.wakeups.progressed(report(owner, image["id"], 7))
        item = await first
        assert isinstance(item, Progressed)
        assert item.image.id == mine["id"]


# ---------------------------------------------------------------- what is not kept any more


async def test_what_is_older_than_the_feed_is_kept_asks_for_one_resync(gateway: Gateway) -> None:
    project = await gateway.project()
    start = await position(gateway.database)
    image = await gateway.create(projectId=project)
    kept = await update_often(gateway, image, 3)
    async with gateway.database.transaction() as tx:
        old = now() - timedelta(days=8)
        await tx.session.execute(update(Event).where(col(Event.seq) < kept[1]).values(occurred_at=old))
    await event_log.prune(gateway.database, timedelta(days=7))
    async with following(gateway, ring=2) as other:
        async with reading(other, project, start) as items:
            assert await take(items, 1) == [Resync(Mark(other.epoch, kept[2]), kept[1] - 1)]
            later = await update_often(gateway, image, 1)
            assert positions_of(await take(items, 1)) == later
        # The oldest cursor that is named still works.
        async with reading(other, project, kept[1] - 1) as items:
            assert positions_of(await take(items, 3)) == [*kept[1:], *later]


async def test_pruning_leaves_the_newest_event_however_old_it_is(gateway: Gateway) -> None:
    project = await gateway.project()
    await gateway.create(projectId=project)
    newest = await position(gateway.database)
    async with gateway.database.transaction() as tx:
        await tx.session.execute(update(Event).values(occurred_at=now() - timedelta(days=30)))
    await event_log.prune(gateway.database, timedelta(days=7))
    assert await position(gateway.database) == newest
    async with gateway.database.read() as session:
        assert await event_log.oldest_position(session) == newest - 1
    await gateway.create(projectId=project)
    assert await position(gateway.database) == newest + 1


# ---------------------------------------------------------------- who may follow


async def test_a_stranger_follows_nothing(gateway: Gateway) -> None:
    async with following(gateway) as other:
        items = other.follow(Viewer(STRANGER), gateway.alpha, after=None)
        with pytest.raises(NotFound):
            await anext(items)
        assert other._watchers[gateway.alpha] == 0


async def test_a_database_that_is_away_for_a_while_does_not_end_the_feed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    start = await position(gateway.database)
    async with following(gateway) as other:
        failed = asyncio.Event()

        async def away(*_args: Any, **_options: Any) -> Any:
            failed.set()
            raise OSError("the disk is away")

        with monkeypatch.context() as broken:
            broken.setattr(event_log, "events_after", away)
            expected = await update_often(gateway, image, 1)
            async with asyncio.timeout(20):
                await failed.wait()
        async with reading(other, project, start) as items:
            assert positions_of(await take(items, 1)) == expected


# ---------------------------------------------------------------- cursors


CURSORS = Cursors(bytes(KEY_BYTES))
EPOCH = b"an epoch"
KNOWN = CURSORS.text(Mark(EPOCH, 5))


@pytest.mark.parametrize("place", [0, 1, 17, 10**17, 2**63 - 1])
def test_a_cursor_comes_back_as_the_mark_that_it_was_made_of(place: int) -> None:
    for mark in (Mark(EPOCH, place), Mark(EPOCH, place).unlinked()):
        assert CURSORS.mark(CURSORS.text(mark)) == mark


def test_cursors_of_neighbouring_events_have_nothing_in_common_to_read() -> None:
    raw = [base64.urlsafe_b64decode(CURSORS.text(Mark(EPOCH, place)) + "=") for place in range(1000)]
    assert len({each[1:17] for each in raw}) == len({each[17:] for each in raw}) == 1000
    assert {len(each) for each in raw} == {41}
    assert not any(EPOCH in each for each in raw)


def test_an_event_has_one_cursor_and_the_newest_place_another_each_time() -> None:
    mark = Mark(EPOCH, 5)
    assert CURSORS.text(mark) == Cursors(bytes(KEY_BYTES)).text(mark)
    assert len({CURSORS.text(mark.unlinked()) for _ in range(100)} - {CURSORS.text(mark)}) == 100


@pytest.mark.parametrize(
    "text",
    [
        "", "0", "feed1:0", KNOWN + "=", KNOWN + "\n", " " + KNOWN, KNOWN[:-1], KNOWN + "A", KNOWN[:-1] + "B",
        Cursors(bytes(31) + b"1").text(Mark(EPOCH, 5)), "ZmVlZDE6MDU", "ZmVlZDI6NQ", "ZmVlZDE6NS4w", "ZmVlZDE6LTE",
        "é", "\ud800", "\0", "A" * 55, "A" * 10_000, "ZmVlZDE6-_8",
    ],
    ids=lambda text: ascii(text[:20]),
)  # fmt: skip
def test_other_texts_are_no_cursors(text: str) -> None:
    refuses(text)


def test_no_bit_of_a_cursor_can_be_changed() -> None:
    raw = base64.urlsafe_b64decode(KNOWN + "=")
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        refuses(base64.urlsafe_b64encode(changed).decode().rstrip("="))


def refuses(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        CURSORS.mark(text)
    assert refused.value.message == "This is not a cursor of the event feed."
    assert refused.value.field == ("after",)
    assert refused.value.hint == "Use a cursor from eventCursor, asOf, an event or a mutation's payload."


# ---------------------------------------------------------------- imageEvents, page by page

PAGE = """query ($project: ID!, $image: ID, $after: EventCursor, $first: Int!) {
  imageEvents(projectId: $project, imageId: $image, after: $after, first: $first) {
    nodes { __typename cursor imageId occurredAt image { id }
      ... on ImageUpdated { fields } ... on ImageStatusChanged { from to failure { code occurredAt } } }
    edges { cursor node { imageId } } pageInfo { hasNextPage hasPreviousPage startCursor endCursor } } }"""


async def test_what_has_happened_is_read_page_by_page(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.failed(projectId=project)
    await gateway.create(projectId=await gateway.project())
    other = await gateway.create(projectId=project)
    found: list[dict[str, Any]] = []
    after = None
    while True:
        data = await gateway.ask(PAGE, project=project, after=after, first=2)
        page = data["imageEvents"]
        assert [edge["cursor"] for edge in page["edges"]] == [node["cursor"] for node in page["nodes"]]
        assert page["pageInfo"]["hasPreviousPage"] is (after is not None)
        assert (page["pageInfo"]["startCursor"], page["pageInfo"]["endCursor"]) == (
            page["nodes"][0]["cursor"], page["nodes"][-1]["cursor"],
        )  # fmt: skip
        found += page["nodes"]
        after = page["pageInfo"]["endCursor"]
        if not page["pageInfo"]["hasNextPage"]:
            break
    assert [(node["__typename"], node["imageId"]) for node in found] == [
        ("ImageCreated", image["id"]),
        ("ImageUpdated", image["id"]),
        ("ImageStatusChanged", image["id"]),
        ("ImageStatusChanged", image["id"]),
        ("ImageCreated", other["id"]),
    ]
    assert (found[2]["from"], found[2]["to"], found[2]["failure"]) == ("QUEUED", "SAVING", None)
    assert (found[3]["from"], found[3]["to"], found[3]["failure"]["code"]) == ("SAVING", "ERROR", "CORRUPT_IMAGE")
    only = (await gateway.ask(PAGE, project=project, image=other["id"], first=9))["imageEvents"]
    assert [node["cursor"] for node in only["nodes"]] == [found[4]["cursor"]]
    empty = (await gateway.ask(PAGE, project=project, after=after, first=9))["imageEvents"]
    assert empty["nodes"] == []
    assert empty["pageInfo"]["endCursor"] is None


async def test_events_show_the_image_as_it_is_by_now(gateway: Gateway) -> None:
    project = await gateway.project()
    image = await gateway.create(projectId=project)
    document = "query ($p: ID!) { imageEvents(projectId: $p, first: 9) { nodes { image { name } } } }"
    await gateway.change(Image, image["id"], name="now")
    assert (await gateway.ask(document, p=project))["imageEvents"]["nodes"] == [{"image": {"name": "now"}}]
    await gateway.mutate("deleteImage", {"imageId": image["id"]})
    assert (await gateway.ask(document, p=project))["imageEvents"]["nodes"] == [{"image": None}] * 2


@pytest.mark.parametrize("first", [0, 101, -1])
async def test_a_page_of_events_has_one_to_a_hundred(gateway: Gateway, first: int) -> None:
    assert (await gateway.refused(PAGE, project=gateway.alpha, first=first))["code"] == "BAD_PAGINATION"


@pytest.mark.parametrize("after", ["x", KNOWN, KNOWN + "=", "\ud800"])
async def test_events_are_not_read_after_what_is_no_cursor(gateway: Gateway, after: str) -> None:
    error = await gateway.refused(PAGE, project=gateway.alpha, first=1, after=after)
    assert (error["code"], error["field"]) == ("INVALID", ["after"])


async def test_who_is_known_as_a_member_is_looked_at_anew_when_the_feed_tells_of_a_change(gateway: Gateway) -> None:
    project = await gateway.project()
    await done(gateway, "setProjectMember", projectId=project, subject=STRANGER, role="ADMIN")
    async with following(gateway, poll_seconds=3600, wakeups=gateway.wakeups) as other:
        async with reading(other, project, await position(gateway.database)) as items:
            await gateway.create(projectId=project)
            await take(items, 1)
            await other._refresh_members()
            assert ADMIN in other._members[project]
            await done(gateway, "removeProjectMember", STRANGER, projectId=project, subject=ADMIN)
            with pytest.raises(NotFound):
                await take(items, 1)
