"""Many clients come back at once after a restore: each is asked to resync, whatever others do meanwhile."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from app.catalog.feed import epochs
from app.catalog.feed.cursors import Mark
from app.database.sessions import Database
from app.lifecycle import ProjectRole
from app.models import Membership
from tests.app.conftest import StartGateway
from tests.app.feed.test_restored import PAGE, audience_of, goes_on, marked, requires_resync
from tests.app.feed.test_streams import Audience
from tests.support.gateway import Gateway

pytestmark = pytest.mark.anyio

# Far more than the connections to the database. Each is a caller of its own, since one caller has a limit on sockets.
CROWD = [f"watcher {number}" for number in range(200)]
WAYS = ("websocket", "sse", "page")
WATCHING = len(CROWD) - len(CROWD[2::3])


@asynccontextmanager
async def crowded(start_gateway: StartGateway) -> AsyncIterator[tuple[Gateway, Audience, str]]:
    """A gateway that reads its feed only on request, its audience, and a project that the crowd may see."""
    async with start_gateway(database_connections=4, poll_seconds=60) as gateway, audience_of(gateway) as audience:
        project = await gateway.project()
        await gateway.create(projectId=project)
        async with gateway.database.transaction() as tx:
            tx.session.add_all(
                Membership(project_id=project, subject=subject, role=ProjectRole.READER) for subject in CROWD
            )
        yield gateway, audience, project


async def return_with(cursor: str, gateway: Gateway, audience: Audience, project: str) -> list[dict[str, Any]]:
    """Let the crowd return at once with a cursor. Each has to resync; returns what those who watch are sent."""

    async def watch(transport: str, subject: str) -> dict[str, Any]:
        async with audience.watch(transport, subject=subject, project=project, after=cursor) as watcher:
            return await requires_resync(watcher)

    async def read_page(subject: str) -> None:
        error = await gateway.refused(PAGE, subject, project=project, after=cursor)
        assert (error["code"], error["field"]) == ("RESYNC_REQUIRED", ["after"])

    returning: list[Coroutine[Any, Any, dict[str, Any] | None]] = [
        read_page(subject) if way == "page" else watch(way, subject)
        for way, subject in zip(itertools.cycle(WAYS), CROWD, strict=False)
    ]
    return [item for item in await asyncio.gather(*returning) if item is not None]


async def test_a_crowd_with_cursors_of_an_earlier_epoch_resyncs_and_others_go_on(start_gateway: StartGateway) -> None:
    async with crowded(start_gateway) as (gateway, audience, project), AsyncExitStack() as stack:
        old = await marked(gateway, lambda head: Mark(head.epoch, head.position))
        await epochs.renew(gateway.database)
        # As it was issued by a process that has already read the new epoch.
        new = await marked(gateway, lambda head: Mark(head.epoch, head.position))

        returning = asyncio.create_task(return_with(old, gateway, audience, project))
        others = [
            await stack.enter_async_context(audience.watch(transport, project=project, after=new))
            for transport in ("websocket", "sse")
        ]
        image = await gateway.create(projectId=project)

        for watcher in others:
            item = await watcher.item()
            assert (item["__typename"], item["imageId"]) == ("ImageCreated", image["id"])
        items = await returning
        assert len(items) == WATCHING


async def test_a_crowd_that_shows_that_the_feed_went_back_begins_one_epoch(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed: list[bytes | None] = []
    renew = epochs.renew

    async def noted(database: Database, expected: bytes | None = None) -> None:
        renewed.append(expected)
        await renew(database, expected)

    async with crowded(start_gateway) as (gateway, audience, project):
        monkeypatch.setattr(epochs, "renew", noted)
        async with gateway.database.read() as session:
            ended = (await epochs.head(session)).epoch
        future = await marked(gateway, lambda head: Mark(head.epoch, head.position + 1))

        items = await return_with(future, gateway, audience, project)

        assert renewed == [ended]
        assert len(items) == WATCHING
        async with audience.watch("websocket", project=project, after=items[0]["cursor"]) as watcher:
            await goes_on(gateway, watcher, project)
