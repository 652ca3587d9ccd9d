"""Images that are waited for and feeds that are followed, across connections that break."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from app.client.api.settling import settled
from app.client.api.watching import Watched, follow, missed
from app.client.errors import NotAllowed, NotFound, NotReachable
from app.client.retrying import RetryPolicy
from app.client.terminal.output import as_received
from app.client.terminal.reporting import Reporter
from app.client.terminal.showing_events import event_text
from tests.support import answers
from tests.support.scripted_server import Answer, Reply, ScriptedServer, data, errors, events, in_turn, session_with

POLICY = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)


def image(status: str) -> dict[str, Any]:
    return {"image": answers.image(status=status)}


def whole(status: str) -> dict[str, Any]:
    return {"image": answers.found_image(status=status)}


def event(cursor: str) -> dict[str, Any]:
    return {"projectEvents": answers.event("ImageUpdated", cursor, fields=["name"])}


async def waited(answer: Answer) -> tuple[str, ScriptedServer]:
    async with session_with(answer) as (at, server):
        found = await settled(at.api, "img_1", Reporter(), POLICY, poll_seconds=0.001)
        return found.status, server


async def followed(answer: Answer, count: int, policy: RetryPolicy = POLICY) -> tuple[list[str], list[str]]:
    """The cursors of `count` items, and those after which the feed was asked for."""
    cursors: list[str] = []
    async with session_with(answer) as (at, server):
        async for item in follow(at.api, Watched("prj_1", None, "c0"), policy):
            cursors.append(item.cursor)
            if len(cursors) == count:
                break
        return cursors, [asked.variables["after"] for asked in server.asked]


@pytest.mark.parametrize("end", ["ACTIVE", "ERROR"])
def test_an_image_is_waited_for_until_it_settles(end: str) -> None:
    status, server = asyncio.run(waited(in_turn(events(image("QUEUED"), image("SAVING"), image(end)))))

    assert status == end
    assert [asked.headers["accept"] for asked in server.asked] == ["text/event-stream"]


def test_a_stream_that_breaks_is_taken_up_again() -> None:
    status, server = asyncio.run(
        waited(
            in_turn(
                events(image("SAVING"), complete=False),
                Reply(b"", 503),
                Reply(cut=True),
                events(image("SAVING")),
                events(image("ACTIVE")),
            )
        )
    )

    assert status == "ACTIVE"
    assert len(server.asked) == 5


def test_where_no_stream_gets_through_the_image_is_asked_for() -> None:
    status, server = asyncio.run(
        waited(
            in_turn(
                Reply(b"", 406),
                data(**whole("QUEUED")),
                Reply(b"", 503),
                data(**whole("SAVING")),
                data(**whole("ACTIVE")),
            )
        )
    )

    assert status == "ACTIVE"
    assert [asked.operation for asked in server.asked] == ["Settling", *["Image"] * 4]


@pytest.mark.parametrize(
    ("reply", "error"),
    [(events({"image": None}), NotFound), (errors("UNAUTHENTICATED", status=401), NotAllowed)],
)
def test_an_image_that_will_never_settle_is_not_waited_for(reply: Reply, error: type[Exception]) -> None:
    with pytest.raises(error):
        asyncio.run(waited(in_turn(reply)))


def test_a_feed_goes_on_after_its_last_cursor_when_a_connection_breaks() -> None:
    answer = in_turn(
        Reply(b"", 502),
        events(event("c1"), event("c2"), complete=False),
        Reply(cut=True),
        events(event("c3")),
        events({"projectEvents": {"__typename": "ResyncRequired", "cursor": "c9", "oldest": "c5"}}, complete=False),
        events(event("c10")),
    )

    cursors, after = asyncio.run(followed(answer, 5))

    assert cursors == ["c1", "c2", "c3", "c9", "c10"]
    assert after == ["c0", "c0", "c2", "c2", "c3", "c9"]


def test_an_event_that_is_newer_than_the_client_is_followed_past() -> None:
    async def read() -> list[tuple[str, object]]:
        frozen = {"projectEvents": answers.event("ImageFrozen", "c1")}
        async with session_with(in_turn(events(frozen, event("c2"), complete=False))) as (at, _server):
            async with aclosing(follow(at.api, Watched("prj_1", None, "c0"), POLICY)) as items:
                return [(event_text(await anext(items)), as_received(await anext(items))["cursor"])]

    assert asyncio.run(read()) == [("T  ImageFrozen (by ada)", "c2")]


def test_a_feed_that_stays_away_for_too_long_is_given_up() -> None:
    with pytest.raises(NotReachable):
        asyncio.run(followed(lambda _asked: Reply(cut=True), 1, RetryPolicy(0.01, first_pause=0.001)))


def test_a_token_that_expires_ends_the_feed_at_once() -> None:
    answer = in_turn(events(event("c1"), complete=False), errors("TOKEN_EXPIRED", status=401), events(event("c2")))

    with pytest.raises(NotAllowed):
        asyncio.run(followed(answer, 2))


def test_what_was_missed_before_a_restore_ends_in_a_resync() -> None:
    async def read() -> list[tuple[str, str]]:
        replies = in_turn(errors("RESYNC_REQUIRED"), data(eventCursor="c9"))
        async with session_with(replies) as (at, _server):
            watched = Watched("prj_1", "img_1", "c0")
            return [(item.typename__, item.cursor) async for item in missed(at.api, watched)]

    assert asyncio.run(read()) == [("ResyncRequired", "c9")]


def test_what_was_missed_is_read_page_by_page() -> None:
    def page(*cursors: str, more: bool) -> Reply:
        nodes = [event(cursor)["projectEvents"] for cursor in cursors]
        info = answers.page_info(hasNextPage=more, endCursor=cursors[-1] if cursors else None)
        return data(projectEvents={"nodes": nodes, "pageInfo": info})

    async def read() -> tuple[list[str], list[str]]:
        async with session_with(in_turn(page("c1", "c2", more=True), page("c3", more=False))) as (at, server):
            found = [item.cursor async for item in missed(at.api, Watched("prj_1", "img_1", "c0"))]
            return found, [asked.variables["after"] for asked in server.asked]

    assert asyncio.run(read()) == (["c1", "c2", "c3"], ["c0", "c2"])
