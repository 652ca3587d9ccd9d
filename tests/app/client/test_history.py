"""The newest events: read backwards page by page, and printed one per line."""

import asyncio
from typing import Any

import pytest

from app.client.api.watching import newest_events
from app.client.feed import Event
from app.client.generated.events import EventsProjectEvents
from app.client.terminal.showing_events import event_text
from tests.support import answers
from tests.support.scripted_server import Reply, ScriptedServer, data, in_turn, session_with


def page(first: int, last: int, *, earlier: bool) -> Reply:
    nodes = [answers.event(cursor=f"c{number}") for number in range(first, last + 1)]
    info = answers.page_info(hasPreviousPage=earlier, startCursor=f"c{first}")
    return data(projectEvents={"nodes": nodes, "pageInfo": info})


def newest(count: int, *replies: Reply) -> tuple[list[Event], ScriptedServer]:
    async def run() -> tuple[list[Event], ScriptedServer]:
        async with session_with(in_turn(*replies)) as (at, server):
            return await newest_events(at.api, "prj_1", None, count), server

    return asyncio.run(run())


def test_pages_are_read_backwards_until_there_are_enough_events() -> None:
    events, server = newest(
        150,
        page(201, 300, earlier=True),
        page(151, 200, earlier=True),
    )

    assert [event.cursor for event in events] == [f"c{number}" for number in range(151, 301)]
    assert [(asked.variables["last"], asked.variables["before"]) for asked in server.asked] == [
        (100, None),
        (50, "c201"),
    ]


def test_a_feed_that_is_shorter_is_given_whole() -> None:
    events, server = newest(250, page(21, 120, earlier=True), page(1, 20, earlier=False))

    assert len(events) == 120
    assert len(server.asked) == 2


def event(**fields: Any) -> dict[str, Any]:
    return answers.event("ImageShareChanged") | fields


def of_server(kind: str, **fields: Any) -> dict[str, Any]:
    known = {"serverId": "srv_1", "server": {"id": "srv_1", "name": "vm", "status": "RUNNING"}}
    return answers.event(f"Server{kind}", **known | fields)


def of_volume(kind: str, **fields: Any) -> dict[str, Any]:
    return answers.event(f"Volume{kind}", **{"volumeId": "vol_1", "volume": {"id": "vol_1", "name": "data"}} | fields)


FAULT = {"code": "HOST_FULL", "message": "It is full.", "hint": "Free it.", "occurredAt": "T"}
OFFER = {"imageName": "web", "project": {"id": "prj_2", "name": "beta"}, "grant": "LAUNCH", "share": None}


@pytest.mark.parametrize(
    ("happened", "line"),
    [
        (event(state="ACCEPTED", **OFFER), "img_1  web: shared with beta, to launch (by ada)"),
        (event(state="OFFERED", image=None, **OFFER), "img_1  web: offered to beta, to launch (by ada)"),
        (event(state="OFFERED", **OFFER | {"grant": "SOME"}), "img_1  web: offered to beta, to some (by ada)"),
        (event(state="DECLINED", **OFFER), "img_1  web: declined by beta (by ada)"),
        (event(state=None, image=None, **OFFER), "img_1  web: no longer shared with beta (by ada)"),
        (event(__typename="ImageCreated", actor=None), "img_1  web: created"),
        (event(__typename="ImageDeleted", imageName="old", image=None), "img_1  old: deleted (by ada)"),
        (event(__typename="ImageFrozen", temperature=-5), "ImageFrozen (by ada)"),
        (of_server("Created"), "srv_1  server vm: created (by ada)"),
        (
            of_server("StatusChanged", oldStatus="STARTING", newStatus="RUNNING", serverFailure=None, actor=None),
            "srv_1  server vm: STARTING -> RUNNING",
        ),
        (
            of_server("StatusChanged", oldStatus="STARTING", newStatus="ERROR", serverFailure=FAULT),
            "srv_1  server vm: STARTING -> ERROR: It is full. Free it. (by ada)",
        ),
        (of_server("Updated", fields=["desiredStatus"]), "srv_1  server vm: changed desiredStatus (by ada)"),
        (of_server("Deleted", serverName="old", server=None), "srv_1  server old: deleted (by ada)"),
        (of_volume("Created", volume=None), "vol_1  volume (gone): created (by ada)"),
        (of_volume("Updated", fields=["server"]), "vol_1  volume data: changed server (by ada)"),
        (of_volume("Deleted", volumeName="old", volume=None), "vol_1  volume old: deleted (by ada)"),
    ],
)
def test_an_event_says_what_happened_and_who_did_it(happened: dict[str, Any], line: str) -> None:
    page = EventsProjectEvents.model_validate({"nodes": [happened], "pageInfo": answers.page_info()})

    assert page.nodes is not None
    assert page.nodes[0] is not None
    assert event_text(page.nodes[0]) == f"T  {line}"
