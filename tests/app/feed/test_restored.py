"""A feed that is restored from a backup: no watcher loses an event without being asked to resync."""

import asyncio
import itertools
import os
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.adapters.messaging.local_wakeups import LocalWakeups
from app.catalog.feed import epochs, event_log
from app.catalog.feed.cursors import Cursors, Mark
from app.catalog.feed.items import Resync
from app.catalog.feed.live import Feed
from app.catalog.feed.progress import ProgressBoard
from app.database.sessions import Database
from app.models import Event
from app.viewer import Viewer
from tests.app.conftest import StartGateway
from tests.app.feed.test_streams import EVENTS, IMAGE, Audience
from tests.servers import postgresql
from tests.support.gateway import ADMIN, Gateway, until
from tests.support.watchers import TRANSPORTS, Watcher, served

pytestmark = pytest.mark.anyio

every_transport = pytest.mark.parametrize("transport", TRANSPORTS)
PAGE = """query ($project: ID!, $after: EventCursor, $before: EventCursor) {
  imageEvents(projectId: $project, after: $after, before: $before, first: 9) { nodes { imageId } } }"""
# Position 5, as the version before gave it out.
FIRST_VERSION = "ZmVlZDE6NQ"


# ---------------------------------------------------------------- backups


def backup(gateway: Gateway, path: Path) -> None:
    """Copy the database into a file, as an operator does."""
    if gateway.database.many_writers:
        _run("pg_dump", "--format=custom", f"--file={path}", _address(gateway))
        return
    with closing(sqlite3.connect(_file(gateway))) as database, closing(sqlite3.connect(path)) as copy:
        database.backup(copy)


def restore(gateway: Gateway, path: Path) -> None:
    """Bring a backup back after the gateway has ended. SQLite's copy takes the place of the file."""
    if gateway.database.many_writers:
        _run("pg_restore", "--clean", "--if-exists", f"--dbname={_address(gateway)}", str(path))
        return
    file = _file(gateway)
    for rest in file.parent.glob(f"{file.name}-*"):
        rest.unlink()
    path.replace(file)


async def restore_under(gateway: Gateway, path: Path, position: int) -> None:
    """Set the tables back to a backup, made at a position, while a process has them open."""
    if gateway.database.many_writers:
        # pg_restore would wait for the readers, and they for it.
        async with gateway.database.transaction() as tx:
            await tx.session.execute(text("DELETE FROM event WHERE seq > :last"), {"last": position})
            await tx.session.execute(text("SELECT setval('event_seq_seq', :last)"), {"last": position})
        return

    def copy_back() -> None:
        with closing(sqlite3.connect(path)) as copy, closing(sqlite3.connect(_file(gateway))) as database:
            copy.backup(database)

    await asyncio.to_thread(copy_back)


def _run(program: str, *arguments: str) -> None:
    folder = postgresql.programs()
    assert folder is not None
    subprocess.run([str(folder / program), *arguments], check=True, timeout=60, env={**os.environ, "LC_ALL": "C.UTF-8"})


def _address(gateway: Gateway) -> str:
    return gateway.settings.database_address.replace("postgresql+asyncpg", "postgresql")


def _file(gateway: Gateway) -> Path:
    return Path(gateway.settings.database_address.removeprefix("sqlite+aiosqlite:///"))


# ---------------------------------------------------------------- looking


@asynccontextmanager
async def audience_of(gateway: Gateway) -> AsyncIterator[Audience]:
    async with served(gateway.app, gateway.endpoint) as address:
        yield Audience(gateway, address)


async def cursors_of(gateway: Gateway, project: str) -> dict[str, str]:
    """A cursor of every kind that the API gives out; all of them stand at the newest event or before."""
    payload = (await gateway.ask(
        """mutation ($input: CreateImageInput!) { createImage(input: $input) { cursor image { id } } }""",
        input=gateway.creation(projectId=project),
    ))["createImage"]  # fmt: skip
    document = """query ($p: ID!) { eventCursor images(projectId: $p, first: 1) { asOf }
        imageEvents(projectId: $p, last: 1) { pageInfo { endCursor } edges { cursor } } }"""
    data = await gateway.ask(document, p=project)
    return {
        "payload": payload["cursor"],
        "eventCursor": data["eventCursor"],
        "asOf": data["images"]["asOf"],
        "edge": data["imageEvents"]["edges"][0]["cursor"],
    }


async def requires_resync(watcher: Watcher) -> dict[str, Any]:
    item: dict[str, Any] = await watcher.item()
    assert item["__typename"] == "ResyncRequired"
    return item


async def refuses_pages(gateway: Gateway, project: str, cursor: str) -> None:
    """Pages of events say as well that they may be incomplete."""
    for argument in ("after", "before"):
        error = await gateway.refused(PAGE, project=project, **{argument: cursor})
        assert (error["code"], error["field"]) == ("RESYNC_REQUIRED", [argument])
        assert error["hint"] == "Read the catalogue again and continue from its asOf."


async def goes_on(gateway: Gateway, watcher: Watcher, project: str) -> None:
    image = await gateway.create(projectId=project)
    assert (await watcher.item())["imageId"] == image["id"]


# ---------------------------------------------------------------- restored while nothing runs


async def test_no_cursor_from_before_a_restore_is_misread(start_gateway: StartGateway, tmp_path: Path) -> None:
    async with start_gateway() as gateway:
        project = await gateway.project()
        await gateway.create(projectId=project)
        await asyncio.to_thread(backup, gateway, tmp_path / "backup")
        lost = await cursors_of(gateway, project)
        async with audience_of(gateway) as audience:
            async with audience.watch("sse", project=project, after=lost["payload"]) as watcher:
                await gateway.create(projectId=project)
                lost["id"] = (await watcher.next())["id"]
    await asyncio.to_thread(restore, gateway, tmp_path / "backup")

    async with start_gateway() as gateway, audience_of(gateway) as audience:
        # By now the feed has passed all of these positions again.
        for _ in range(4):
            await gateway.create(projectId=project)
        for cursor, transport in zip(lost.values(), itertools.cycle(TRANSPORTS), strict=False):
            async with audience.watch(transport, project=project, after=cursor) as watcher:
                await requires_resync(watcher)
                await goes_on(gateway, watcher, project)
            await refuses_pages(gateway, project, cursor)
        async with audience.resume("sse", project, lost["id"]) as watcher:
            await requires_resync(watcher)


async def test_a_start_without_a_restore_keeps_every_cursor(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        project = await gateway.project()
        kept = await cursors_of(gateway, project)

    async with start_gateway() as gateway, audience_of(gateway) as audience:
        async with audience.watch("sse", project=project, after=kept["eventCursor"]) as watcher:
            await goes_on(gateway, watcher, project)
        for cursor in kept.values():
            assert len((await gateway.ask(PAGE, project=project, after=cursor))["imageEvents"]["nodes"]) == 1


async def test_an_operator_begins_a_new_epoch_where_nothing_shows_a_restore(start_gateway: StartGateway) -> None:
    async with start_gateway() as gateway:
        project = await gateway.project()
        cursor = (await cursors_of(gateway, project))["payload"]
        await epochs.renew(gateway.database)

    async with start_gateway() as gateway, audience_of(gateway) as audience:
        async with audience.watch("websocket", project=project, after=cursor) as watcher:
            await requires_resync(watcher)
        await refuses_pages(gateway, project, cursor)


async def test_a_row_of_the_epoch_that_was_lost_is_made_again(gateway: Gateway, other: Database) -> None:
    async with other.transaction() as tx:
        await tx.session.execute(text("DELETE FROM feed_epoch"))

    await epochs.renew(other)

    async with other.read() as session:
        assert len((await epochs.head(session)).key) == 32


# ---------------------------------------------------------------- restored under a running process


@every_transport
async def test_watchers_of_a_running_process_are_asked_to_resync(
    start_gateway: StartGateway, tmp_path: Path, transport: str
) -> None:
    async with start_gateway() as gateway, audience_of(gateway) as audience:
        project = await gateway.project()
        image = await gateway.create(projectId=project)
        async with gateway.database.read() as session:
            position = await event_log.newest_position(session)
        await asyncio.to_thread(backup, gateway, tmp_path / "backup")
        before = await cursors_of(gateway, project)
        events = audience.watch(transport, project=project, after=before["payload"])
        async with events as watcher, audience.watch(transport, IMAGE, id=image["id"]) as other:
            await goes_on(gateway, watcher, project)
            assert (await other.item())["id"] == image["id"]

            await restore_under(gateway, tmp_path / "backup", position)

            item = await requires_resync(watcher)
            # The image may have changed while nobody looked: it is read again.
            assert (await other.item())["id"] == image["id"]
            await goes_on(gateway, watcher, project)
        async with audience.watch(transport, project=project, after=item["cursor"]) as watcher:
            assert (await watcher.item())["__typename"] == "ImageCreated"


async def test_an_event_that_takes_the_number_of_another_one_is_found_out(gateway: Gateway) -> None:
    """The restored feed has counted on to the same position before anybody looked."""
    project = await gateway.project()
    await gateway.create(projectId=project)
    async with following(gateway) as other:
        epoch = other.epoch
        async with gateway.database.transaction() as tx:
            event = await tx.session.get_one(Event, other._newest)
            event.occurred_at -= timedelta(seconds=1)

        async def renewed() -> bool:
            return other.epoch != epoch

        await until(renewed)


@asynccontextmanager
async def following(gateway: Gateway, database: Database | None = None) -> AsyncIterator[Feed]:
    """A feed as another process has it: nobody wakes it, it looks by itself."""
    other = Feed(database or gateway.database, LocalWakeups(), ProgressBoard(), 4, 0.02)
    await other.start()
    running = asyncio.create_task(other.run())
    try:
        yield other
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_every_process_learns_of_a_new_epoch(gateway: Gateway, other: Database) -> None:
    project = await gateway.project()
    async with following(gateway, other) as one, following(gateway, other) as two:
        async with AsyncExitStack() as stack:
            watching = [one.follow(Viewer(ADMIN), project, after=None), two.follow(Viewer(ADMIN), project, after=None)]
            for items in watching:
                stack.push_async_callback(items.aclose)  # type: ignore[attr-defined]
            first = [asyncio.ensure_future(anext(items)) for items in watching]

            async def both_watch() -> bool:
                return one._watchers[project] == two._watchers[project] == 1

            await until(both_watch)
            await epochs.renew(gateway.database)

            async with asyncio.timeout(20):
                found = await asyncio.gather(*first)
            async with gateway.database.read() as session:
                head = await epochs.head(session)
            assert found == [Resync(Mark(head.epoch, head.position), head.position)] * 2


async def test_of_many_processes_that_find_a_restore_one_begins_the_epoch(gateway: Gateway, other: Database) -> None:
    async with gateway.database.read() as session:
        before = (await epochs.head(session)).epoch

    await asyncio.gather(*(epochs.renew(here, before) for here in (gateway.database, other) * 3))

    async with gateway.database.read() as session:
        after = (await epochs.head(session)).epoch
    assert after != before
    await epochs.renew(other, before)
    async with gateway.database.read() as session:
        assert (await epochs.head(session)).epoch == after


# ---------------------------------------------------------------- cursors that can't be known


@pytest.fixture(scope="module")
async def audience(gateway: Gateway) -> AsyncIterator[Audience]:
    async with audience_of(gateway) as audience:
        yield audience


async def marked(gateway: Gateway, move: Callable[[epochs.Head], Mark]) -> str:
    """A cursor that this gateway could have made."""
    async with gateway.database.read() as session:
        head = await epochs.head(session)
    return Cursors(head.key).text(move(head))


@every_transport
async def test_a_cursor_that_the_feed_has_not_reached_shows_that_it_went_back(
    gateway: Gateway, audience: Audience, transport: str
) -> None:
    project = await gateway.project()
    valid = await marked(gateway, lambda head: Mark(head.epoch, head.position))
    future = await marked(gateway, lambda head: Mark(head.epoch, head.position + 1))

    async with audience.watch(transport, project=project, after=future) as watcher:
        await requires_resync(watcher)
        await goes_on(gateway, watcher, project)
        # All others from before may be as wrong as this one.
        await refuses_pages(gateway, project, valid)


async def test_a_page_from_a_cursor_that_the_feed_has_not_reached_ends_the_epoch(gateway: Gateway) -> None:
    project = await gateway.project()
    valid = await marked(gateway, lambda head: Mark(head.epoch, head.position))
    future = await marked(gateway, lambda head: Mark(head.epoch, head.position + 1))

    await refuses_pages(gateway, project, future)

    await refuses_pages(gateway, project, valid)


@every_transport
async def test_a_cursor_of_the_version_before_asks_for_a_resync(
    gateway: Gateway, audience: Audience, transport: str
) -> None:
    project = await gateway.project()
    async with audience.watch(transport, EVENTS, project=project, after=FIRST_VERSION) as watcher:
        await requires_resync(watcher)
        await goes_on(gateway, watcher, project)
    await refuses_pages(gateway, project, FIRST_VERSION)


async def test_a_browser_that_resumes_from_the_version_before_resyncs(gateway: Gateway, audience: Audience) -> None:
    project = await gateway.project()
    async with audience.resume("sse", project, FIRST_VERSION) as watcher:
        await requires_resync(watcher)


async def test_an_idle_tenant_can_not_see_from_cursors_that_others_work(gateway: Gateway) -> None:
    project = await gateway.project()
    quiet = [(await gateway.ask("{ eventCursor }"))["eventCursor"] for _ in range(3)]
    await gateway.create(projectId=await gateway.project())
    busy = (await gateway.ask("{ eventCursor }"))["eventCursor"]

    assert len({*quiet, busy}) == 4
    assert {len(cursor) for cursor in (*quiet, busy)} == {55}
    for cursor in quiet:
        assert (await gateway.ask(PAGE, project=project, after=cursor))["imageEvents"]["nodes"] == []
