"""Parts on their way: each of them once, whole, and again when something went wrong."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.client.errors import ClientError, NotAllowed, Overloaded, Refused, UploadClosed
from app.client.retrying import RetryPolicy
from app.client.terminal.reporting import Reporter
from app.client.transfer.disk_file import CHUNK, opened
from app.client.transfer.parts import MissingParts, PartSender
from tests.support.scripted_server import Asked, Reply, ScriptedServer, data, session_with

POLICY = RetryPolicy(20, first_pause=0.001, longest_pause=0.002)
PART = CHUNK + 7


class Counting(Reporter):
    """Adds up what it hears."""

    def __init__(self) -> None:
        self.done = 0

    def advance(self, count: int) -> None:
        self.done += count


class Store:
    """An upload of `count` parts behind signed addresses; `trouble` may answer for a part, with how often it came."""

    def __init__(self, size: int, trouble: Callable[[int, int], Reply | None] = lambda _number, _times: None) -> None:
        self.size = size
        self.count = -(-size // PART)
        self.trouble = trouble
        self.state = "OPEN"
        self.may = True
        self.received: dict[int, bytes] = {}
        self.came: Counter[int] = Counter()
        self.pages: list[tuple[int, str | None]] = []
        self.signed = 0

    def __call__(self, asked: Asked) -> Reply:
        if asked.method == "PUT":
            return self._put(asked)
        first, after = asked.variables["first"], asked.variables["after"]
        self.pages.append((first, after))
        numbers = [n for n in range(1, self.count + 1) if n not in self.received and n > int(after or 0)]
        edges = [{"cursor": str(number), "node": self._part(number, asked)} for number in numbers[:first]]
        page = {"edges": edges, "pageInfo": {"hasNextPage": len(numbers) > first}}
        return data(node={"state": self.state, "parts": page})

    def _part(self, number: int, asked: Asked) -> dict[str, Any]:
        self.signed += 1
        offset = (number - 1) * PART
        url = f"http://{asked.headers['host']}/objects/upload?part={number}&signature={self.signed}"
        request = {"method": "PUT", "url": url, "headers": [{"name": "X-Signed", "value": "yes"}]} if self.may else None
        return {"number": number, "offset": offset, "size": min(PART, self.size - offset), "request": request}

    def _put(self, asked: Asked) -> Reply:
        number = int(urlsplit(asked.path).query.split("&")[0].removeprefix("part="))
        self.came[number] += 1
        if (reply := self.trouble(number, self.came[number])) is not None:
            return reply
        assert asked.headers["x-signed"] == "yes"
        assert "authorization" not in asked.headers
        assert "transfer-encoding" not in asked.headers
        self.received[number] = asked.body
        return Reply()


def refused_with(status: int, code: str) -> Reply:
    return Reply(json.dumps({"error": {"code": code, "message": "No.", "hint": None}}).encode(), status)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(4 * PART + 5))
    return path


async def send(store: Store, path: Path, jobs: int = 3, policy: RetryPolicy = POLICY) -> tuple[int, ScriptedServer]:
    reporter = Counting()
    with opened(path) as file:
        async with session_with(store) as (at, server):
            sender = PartSender(at.http, file, reporter, policy, jobs)
            await sender.send(MissingParts(at.api, "upl_1", policy))
    return reporter.done, server


def whole(store: Store) -> bytes:
    return b"".join(store.received[number] for number in range(1, store.count + 1))


def test_every_part_is_sent_once_and_arrives_whole(disk: Path) -> None:
    store = Store(disk.stat().st_size)

    done, _ = asyncio.run(send(store, disk))

    assert whole(store) == disk.read_bytes()
    assert store.came == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    assert done == store.size


def test_only_what_is_missing_is_sent(disk: Path) -> None:
    store = Store(disk.stat().st_size)
    store.received = {2: b"there", 4: b"there"}

    asyncio.run(send(store, disk))

    assert store.came == {1: 1, 3: 1, 5: 1}


def test_parts_beyond_the_first_hundred_are_read_page_by_page_as_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.app.client.test_parts.PART", 3)
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(range(256)) * 3)
    store = Store(768)

    asyncio.run(send(store, path, jobs=4))

    assert whole(store) == path.read_bytes()
    assert store.pages == [(100, None), (100, "100"), (100, "200")]


@pytest.mark.parametrize(
    "reply",
    [
        refused_with(409, "PART_ARRIVING"),
        refused_with(408, "REQUEST_TIMEOUT"),
        refused_with(507, "STORE_FULL"),
        Reply(b"<Error/>", 503),
        Reply(b"", 500),
        Reply(b"x", 200, cut=True),
    ],
)
def test_a_part_that_meets_trouble_that_passes_is_sent_again(disk: Path, reply: Reply) -> None:
    store = Store(disk.stat().st_size, lambda number, times: reply if number == 3 and times < 4 else None)

    done, _ = asyncio.run(send(store, disk))

    assert whole(store) == disk.read_bytes()
    assert store.came[3] == 4
    assert done == store.size


def test_an_address_that_has_expired_is_asked_for_anew(disk: Path) -> None:
    store = Store(
        disk.stat().st_size,
        lambda number, times: refused_with(403, "ADDRESS_EXPIRED") if number == 4 and times == 1 else None,
    )

    _, server = asyncio.run(send(store, disk, jobs=1))

    assert whole(store) == disk.read_bytes()
    assert store.pages == [(100, None), (1, "3")]
    puts = [asked.path for asked in server.asked if asked.method == "PUT" and "part=4" in asked.path]
    assert len(set(puts)) == 2


def test_an_address_that_is_refused_however_new_it_is_ends_the_upload(disk: Path) -> None:
    store = Store(disk.stat().st_size, lambda number, _: refused_with(403, "FORBIDDEN") if number == 2 else None)

    with pytest.raises(NotAllowed):
        asyncio.run(send(store, disk, jobs=1))

    assert store.came == {1: 1, 2: 3}


@pytest.mark.parametrize(
    "reply", [refused_with(409, "UPLOAD_CLOSED"), Reply(b"<Error><Code>NoSuchUpload</Code></Error>", 404)]
)
def test_an_upload_that_takes_nothing_more_is_told_apart_from_trouble(disk: Path, reply: Reply) -> None:
    store = Store(disk.stat().st_size, lambda number, _: reply if number == 2 else None)

    with pytest.raises(UploadClosed):
        asyncio.run(send(store, disk, jobs=1))

    assert store.came == {1: 1, 2: 1}


def test_an_upload_that_is_not_open_any_more_gets_no_bytes(disk: Path) -> None:
    store = Store(disk.stat().st_size)
    store.state = "ABORTED"

    with pytest.raises(UploadClosed):
        asyncio.run(send(store, disk))

    assert store.came == {}


CUT = Reply(b"x", 200, cut=True)


def test_an_upload_that_ends_while_a_part_is_cut_off_gets_no_more_bytes(disk: Path) -> None:
    def end(number: int, _times: int) -> Reply | None:
        if number == 2:
            store.state = "REFUSED"
            return CUT
        return None

    store = Store(disk.stat().st_size, end)

    with pytest.raises(UploadClosed):
        asyncio.run(send(store, disk, jobs=1))

    assert store.came == {1: 1, 2: 1}


def test_a_part_that_arrived_before_the_connection_broke_is_not_sent_again(disk: Path) -> None:
    def arrive(number: int, _times: int) -> Reply | None:
        if number == 2:
            store.received[2] = disk.read_bytes()[PART : 2 * PART]
            return CUT
        return None

    store = Store(disk.stat().st_size, arrive)

    done, _ = asyncio.run(send(store, disk))

    assert whole(store) == disk.read_bytes()
    assert store.came[2] == 1
    assert done == store.size


def test_who_may_not_send_bytes_is_told_so(disk: Path) -> None:
    store = Store(disk.stat().st_size)
    store.may = False

    with pytest.raises(NotAllowed, match="may not"):
        asyncio.run(send(store, disk))


@pytest.mark.parametrize(
    ("reply", "error"), [(refused_with(413, "TOO_LARGE"), Refused), (refused_with(503, "AWAY"), Overloaded)]
)
def test_what_does_not_pass_ends_the_upload_and_all_that_is_under_way(
    disk: Path, reply: Reply, error: type[ClientError]
) -> None:
    store = Store(disk.stat().st_size, lambda number, _: reply if number == 2 else None)

    with pytest.raises(ClientError) as raised:
        asyncio.run(send(store, disk, policy=RetryPolicy(0.01, first_pause=0.001)))

    assert type(raised.value) is error
