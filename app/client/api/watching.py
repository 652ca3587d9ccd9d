"""Follows what happens to images, across broken connections: nothing lost, nothing twice."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from app.client.api import documents
from app.client.api.gateway import Api
from app.client.errors import ClientError, NoAnswer, NotReachable
from app.client.patience import Patience, Trouble

_PAGE = 100

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Watched:
    """What is watched: a project, or one image of it; from the position `after` on."""

    project_id: str
    image_id: str | None
    after: str
    progress: bool = True


async def newest_cursor(api: Api) -> str:
    """The position of the newest event: to watch after it misses nothing from now on."""
    return str((await api.query(documents.EVENT_CURSOR))["eventCursor"])


async def follow(api: Api, watched: Watched, patience: Patience) -> AsyncGenerator[Item, None]:
    """Each item of the feed, without end: events, and ResyncRequired where some may be missing.

    Raises ClientError: what the gateway says, or that it could not be reached for longer than `patience`.
    """
    trouble = Trouble(patience)
    while True:
        try:
            async with aclosing(_one_stream(api, watched)) as items:
                async for item in items:
                    trouble.over()
                    watched = replace(watched, after=item["cursor"])
                    yield item
            await trouble.rest(NotReachable("The stream of events ended."))
        except ClientError as error:
            if not error.temporary:
                raise
            await trouble.rest(error)


async def missed(api: Api, watched: Watched) -> AsyncGenerator[Item, None]:
    """The events that are in the feed already, or ResyncRequired where some may be missing."""
    while True:
        try:
            data = await api.query(
                documents.MISSED_EVENTS, project=watched.project_id, image=watched.image_id, after=watched.after
            )
        except ClientError as error:
            if error.code != "RESYNC_REQUIRED":
                raise
            newest = await newest_cursor(api)
            yield {"__typename": "ResyncRequired", "cursor": newest, "oldest": newest}
            return
        page = data["imageEvents"]
        if page is None:
            raise NoAnswer("The gateway does not tell what has happened.")
        for event in page["nodes"]:
            yield event
        if not page["pageInfo"]["hasNextPage"]:
            return
        watched = replace(watched, after=page["pageInfo"]["endCursor"])


async def newest_events(api: Api, project_id: str, image_id: str | None, count: int) -> list[Item]:
    """The newest `count` events of a project's feed, or of one image in it: the oldest of them first."""
    found: list[Item] = []
    before: str | None = None
    while len(found) < count:
        last = min(_PAGE, count - len(found))
        data = await api.query(documents.NEWEST_EVENTS, project=project_id, image=image_id, last=last, before=before)
        page = data["imageEvents"]
        if page is None:
            raise NoAnswer("The gateway does not tell what has happened.")
        found = [*page["nodes"], *found]
        if not page["pageInfo"]["hasPreviousPage"]:
            break
        before = page["pageInfo"]["startCursor"]
    return found


async def _one_stream(api: Api, watched: Watched) -> AsyncGenerator[Item, None]:
    subscription = api.subscribe(
        documents.WATCH,
        project=watched.project_id,
        image=watched.image_id,
        after=watched.after,
        progress=watched.progress,
    )
    async with aclosing(subscription) as answers:
        async for data in answers:
            yield data["imageEvents"]
