"""Follows the events of a project across broken connections, without losing or repeating any."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from app.client.api.gateway import Api, present
from app.client.errors import ClientError, NoAnswer, NotReachable
from app.client.feed import Event, Item, OtherEvent, ResyncRequired
from app.client.generated.events import EventsProjectEvents
from app.client.newer import Unknown
from app.client.retrying import RetryPolicy, succeeded

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Watched:
    """What to watch: a project, or one image, server or volume in it, from the cursor `after` on."""

    project_id: str
    subject_id: str | None
    after: str
    progress: bool = True


async def newest_cursor(api: Api) -> str:
    """The cursor of the newest event. Watching after it returns every event from now on."""
    return present((await api.event_cursor()).event_cursor)


async def follow(api: Api, watched: Watched, policy: RetryPolicy) -> AsyncGenerator[Item, None]:
    """The items of the feed, without end: events, and ResyncRequired where some may be missing.

    Raises ClientError: the errors of the gateway, or NoAnswer after retrying for as long as `policy` allows.
    """
    async for attempt in policy.attempts():
        with attempt:
            async with aclosing(_one_stream(api, watched)) as items:
                async for item in items:
                    succeeded(attempt)
                    watched = replace(watched, after=item.cursor)
                    yield item
            raise NotReachable("The event stream ended.")


async def missed(api: Api, watched: Watched) -> AsyncGenerator[Item, None]:
    """The events after `watched.after` so far, or ResyncRequired if some may be missing."""
    while True:
        try:
            page = await _page(api, watched.project_id, watched.subject_id, first=_PAGE, after=watched.after)
        except ClientError as error:
            if error.code != "RESYNC_REQUIRED":
                raise
            newest = await newest_cursor(api)
            yield ResyncRequired(typename__="ResyncRequired", cursor=newest, oldest=newest)
            return
        for event in _events_of(page):
            yield event
        if not page.page_info.has_next_page or page.page_info.end_cursor is None:
            return
        watched = replace(watched, after=page.page_info.end_cursor)


async def newest_events(api: Api, project_id: str, subject_id: str | None, count: int) -> list[Event]:
    """The newest `count` events of a project's feed, or of one image, server or volume in it, oldest first."""
    found: list[Event] = []
    before: str | None = None
    while len(found) < count:
        last = min(_PAGE, count - len(found))
        page = await _page(api, project_id, subject_id, last=last, before=before)
        found = [*_events_of(page), *found]
        if not page.page_info.has_previous_page:
            break
        before = page.page_info.start_cursor
    return found


async def _page(
    api: Api,
    project_id: str,
    subject_id: str | None,
    *,
    first: int | None = None,
    after: str | None = None,
    last: int | None = None,
    before: str | None = None,
) -> EventsProjectEvents:
    answer = await api.events(project_id, subject_id, first, after, last, before)
    if answer.project_events is None:
        raise NoAnswer("The gateway does not return the events.")
    return answer.project_events


def _events_of(page: EventsProjectEvents) -> list[Event]:
    return [event for event in page.nodes or () if event is not None]


async def _one_stream(api: Api, watched: Watched) -> AsyncGenerator[Item, None]:
    stream = api.watch(watched.project_id, watched.progress, watched.subject_id, watched.after)
    async with aclosing(stream) as answers:
        async for data in answers:
            item = data.project_events
            # If the event's type is newer than this client, only the fields that all events have are known.
            yield api.parsed(OtherEvent, item.model_dump()) if isinstance(item, Unknown) else item
