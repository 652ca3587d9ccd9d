"""`images console`: what a server wrote, once or for as long as it runs."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest

from app.client.api.console import follow_console, written_since
from app.client.retrying import RetryPolicy
from tests.support.answers import server
from tests.support.scripted_server import Reply, data, errors, in_turn, session_with
from tests.support.typed_commands import ran

POLICY = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)


def showing(text: str, status: str = "RUNNING", truncated: bool = False) -> Reply:
    return data(node={"status": status, "console": {"text": text, "readAt": "T", "truncated": truncated}})


LONG = "".join(f"line {number} of the boot\n" for number in range(200))


@pytest.mark.parametrize(
    ("before", "now", "new"),
    [
        ("", "", ""),
        ("", "one\n", "one\n"),
        ("one\n", "one\n", ""),
        ("one\n", "one\ntwo", "two"),
        # The window has moved on; its first line is cut off.
        (LONG, LONG[1000:] + "next\n", "next\n"),
        (LONG[:3000], LONG[2000:], LONG[3000:]),
        # A character was cut off at the end, and is whole now.
        ("na\ufffd", "na\u00efve", "\u00efve"),
        (LONG + "na\ufffd", LONG[500:] + "na\u00efve", "\u00efve"),
        # So much was written in between that they don't meet.
        (LONG, "something else\n" * 9, None),
        # Of text that repeats itself, no more than was surely written.
        ("tick\n" * 9, "tick\n" * 8 + "end\n", "end\n"),
    ],
)
def test_what_is_new_is_what_follows_the_text_that_is_known(before: str, now: str, new: str | None) -> None:
    assert written_since(before, now) == new


async def followed(*replies: Reply) -> tuple[list[tuple[str, bool]], Sequence[int]]:
    """The texts of a console that is followed, whether something is missing before each, and the KiB asked for."""
    async with session_with(in_turn(*replies)) as (at, gateway):
        async with aclosing(follow_console(at.api, "srv_1", 64, POLICY, poll_seconds=0)) as texts:
            found = [(written.text, written.gap) async for written in texts]
        return found, [asked.variables["kib"] for asked in gateway.asked]


def test_a_console_is_followed_until_the_server_stops_and_read_once_more() -> None:
    texts, asked = asyncio.run(
        followed(
            showing("GRUB\n"),
            showing("GRUB\n"),
            errors("HOST_UNAVAILABLE"),
            showing("GRUB\nLinux\n"),
            showing("GRUB\nLinux\n", "STOPPED"),
            showing("GRUB\nLinux\npower down\n", "STOPPED"),
        )
    )

    assert texts == [("GRUB\n", False), ("Linux\n", False), ("power down\n", False)]
    assert asked == [64, 16, 16, 16, 16, 16]


def test_more_is_read_before_output_counts_as_missing() -> None:
    lost = "x" * 40 + "\n"
    texts, asked = asyncio.run(
        followed(
            showing("a\n"),
            showing("c\n" * 9, truncated=True),
            showing("a\nb\n" + "c\n" * 9),
            showing(lost, truncated=True),
            showing(lost, "STOPPED", truncated=True),
            showing(lost, "STOPPED", truncated=True),
        )
    )

    assert texts == [("a\n", False), ("b\n" + "c\n" * 9, False), (lost, True)]
    assert asked == [64, 16, 256, 16, 256, 16]


SERVER = [data(node=server())]


def test_a_console_is_printed_for_people_and_for_programs() -> None:
    people = ran("console", "srv_1", Server=SERVER[:], Console=[showing("boot\tok\n\x1b[2Jlogin: ")])
    programs = ran(
        "console", "srv_1", "--json", "--last", "7", Server=SERVER[:], Console=[showing("ok\n", truncated=True)]
    )
    empty = ran("console", "srv_1", Server=SERVER[:], Console=[showing("")])

    assert (people.code, people.out) == (0, "boot\tok\n\\x1b[2Jlogin: \n")
    assert programs.json == {"text": "ok\n", "readAt": "T", "truncated": True}
    assert programs.asked[-1].variables["kib"] == 7
    assert (empty.out, empty.code) == ("", 0)
    assert "not written anything" in empty.err


def test_a_console_is_followed_as_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.client.commands.console.POLL_SECONDS", 0)
    replies = [showing("ok\n", "STOPPED"), showing("ok\nend", "STOPPED")]

    people = ran("console", "srv_1", "--follow", Server=SERVER[:], Console=[*replies])
    programs = ran("console", "srv_1", "--follow", "--json", Server=SERVER[:], Console=[*replies])

    assert (people.code, people.out) == (0, "ok\nend")
    assert "web has stopped." in people.err
    lines: list[Any] = [json.loads(line) for line in programs.out.splitlines()]
    assert [line["text"] for line in lines] == ["ok\n", "end"]


def test_a_host_that_does_not_answer_ends_the_command_with_5() -> None:
    away = [errors("HOST_UNAVAILABLE")]

    run = ran("console", "srv_1", "--patience", "0", "--json", Server=SERVER[:], Console=away)

    assert (run.code, run.json["error"]["code"]) == (5, "HOST_UNAVAILABLE")
