"""`/objects/…` as clients see it: uvicorn, httpx, and plain sockets for what httpx would not send."""

import asyncio
import contextlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import httpx
import pytest

from app.adapters.file_names import attachment, plain_file_name
from app.adapters.folder.store import FolderStore
from app.errors import DatabaseUnavailable
from app.ports import HEAD_BYTES, SignedRequest, UploadHandle
from tests.support.folder_server import SECRET, served
from tests.support.object_store_contract import StorePlace, soon

PART = 512 * 1024


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FolderStore]:
    store = FolderStore(tmp_path / "store", SECRET)
    yield store
    store.close()


@pytest.fixture
def place(store: FolderStore) -> Iterator[StorePlace]:
    with served(store) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
        yield place


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        code: str = json.loads(self.body)["error"]["code"]
        return code


class Connection:
    """One connection, spoken by hand."""

    def __init__(self, url: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60)
        self._answers = self._socket.makefile("rb")

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self._answers.close()
        self._socket.close()

    def send(self, *data: bytes) -> None:
        self._socket.sendall(b"".join(data))

    def end(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def answer(self, *, bodiless: bool = False) -> Answer:
        status = int(self._answers.readline().split()[1])
        headers = {}
        while line := self._answers.readline().strip():
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        return Answer(status, headers, b"" if bodiless else self._answers.read(int(headers["content-length"])))

    def last_status(self) -> int:
        """The status of the answer after which the server closes; waits until it does, and takes a reset for that."""
        said = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := self._socket.recv(4096):
                said += piece
        assert said.count(b"HTTP/1.1 ") == 1
        return int(said.split()[1])

    def is_closed(self) -> bool:
        """Waits until the server closes, or says something: which is then not the case."""
        return self._answers.read(1) == b""


def head(request: SignedRequest, *fields: str, method: str | None = None) -> bytes:
    lines = [f"{method or request.method} {request.url} HTTP/1.1", "Host: test", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


def put(request: SignedRequest, length: int, *fields: str) -> bytes:
    return head(request, f"Content-Length: {length}", *fields)


def arrived(place: StorePlace, upload: UploadHandle) -> list[int]:
    return list(place.do(place.store.receipt(upload)).parts)


def assert_error(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code
    assert error["message"]
    assert error["hint"]
    assert set(error) == {"code", "message", "hint"}


# Addresses


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        ("uploads/one", "uploads/two"),
        ("uploads/one", "%2e%2e/%2e%2e/one"),
        ("part=1", "part=2"),
        ("offset=0", "offset=1"),
        ("length=524288", "length=99999999"),
        (r"expires=\d+", "expires=9999999999"),
        (r"expires=\d+", "expires="),
        (r"&signature=\w+", ""),
        (r"signature=\w+", "signature=%ff%00é"),
        (r"\?.*", ""),
    ],
)
def test_whatever_is_changed_in_an_address_makes_it_worthless(
    place: StorePlace, tmp_path: Path, pattern: str, replacement: str
) -> None:
    upload = place.open(2 * PART)
    place.open(2 * PART, "uploads/two")
    before = sorted(tmp_path.rglob("*"))
    request = place.store.sign_part(upload, 1, soon())
    forged = re.sub(pattern, lambda _: replacement, request.url)
    assert forged != request.url
    answer = place.send(SignedRequest("PUT", forged, request.expires_at), bytes(PART))
    assert_error(answer, 403, "FORBIDDEN")
    assert sorted(tmp_path.rglob("*")) == before
    assert arrived(place, upload) == []


def test_an_expired_address_says_that_it_has_expired(place: StorePlace) -> None:
    upload = place.open(PART)
    past = datetime.now(UTC) - timedelta(seconds=1)
    assert_error(place.send(place.store.sign_part(upload, 1, past), bytes(PART)), 403, "ADDRESS_EXPIRED")
    download = place.store.sign_download("uploads/one", "disk", past)
    assert_error(place.send(download), 403, "ADDRESS_EXPIRED")


def test_an_address_works_with_its_own_method_only(place: StorePlace) -> None:
    place.put_object(b"bytes")
    download = place.store.sign_download("uploads/one", "disk", soon())
    part = place.store.sign_part(UploadHandle("uploads/one", "", 5, 5), 1, soon())
    url = place.base_url
    assert_error(place.http.put(url + download.url, content=b"other"), 403, "FORBIDDEN")
    assert_error(place.http.get(url + part.url), 403, "FORBIDDEN")
    assert_error(place.http.delete(url + download.url), 405, "METHOD_NOT_ALLOWED")
    assert place.content() == b"bytes"


def test_another_secret_signs_nothing_for_this_store(place: StorePlace, tmp_path: Path) -> None:
    place.put_object(b"bytes")
    with contextlib.closing(FolderStore(tmp_path / "store", b"another secret")) as stranger:
        forged = stranger.sign_download("uploads/one", "disk", soon())
    assert_error(place.send(forged), 403, "FORBIDDEN")


# Parts


def test_a_part_of_what_was_never_opened_is_refused(place: StorePlace) -> None:
    request = place.store.sign_part(UploadHandle("uploads/none", "", PART, PART), 1, soon())
    assert_error(place.send(request, bytes(PART)), 409, "UPLOAD_CLOSED")
    assert place.keys() == []


def test_a_second_request_for_an_arriving_part_is_refused_and_the_first_goes_on(place: StorePlace) -> None:
    content = os.urandom(PART)
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())
    with Connection(place.base_url) as first:
        first.send(put(request, PART, "Expect: 100-continue"))
        assert first.answer(bodiless=True).status == 100  # the part is claimed by now
        assert_error(place.send(request, bytes(PART)), 409, "PART_ARRIVING")
        first.send(content)
        assert first.answer().status == 200
    place.do(place.store.seal_upload(upload))
    assert place.content() == content


def test_a_body_of_undeclared_length_is_refused(place: StorePlace) -> None:
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())
    with Connection(place.base_url) as connection:
        connection.send(head(request, "Transfer-Encoding: chunked"), b"5\r\nhello\r\n0\r\n\r\n")
        answer = connection.answer()
        assert (answer.status, answer.code) == (411, "LENGTH_REQUIRED")
        assert connection.is_closed()
    with Connection(place.base_url) as connection:
        connection.send(head(request))
        assert connection.answer().status == 411
    assert arrived(place, upload) == []


@pytest.mark.parametrize(("length", "status"), [(PART - 1, 400), (PART + 1, 413), (16 * 1024 * 1024, 413)])
def test_who_sends_everything_before_reading_still_sees_why_it_was_refused(
    place: StorePlace, length: int, status: int
) -> None:
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())
    with Connection(place.base_url) as connection:
        connection.send(put(request, length), bytes(length))
        answer = connection.answer()
        assert answer.status == status
        assert answer.headers["connection"] == "close"
        assert connection.is_closed()
    assert arrived(place, upload) == []


def test_a_refusal_does_not_wait_for_the_body(place: StorePlace) -> None:
    request = place.store.sign_part(place.open(PART), 1, soon())
    with Connection(place.base_url) as connection:
        connection.send(put(request, 50 * 1024**3, "Expect: 100-continue"))
        assert connection.answer().status == 413
        connection.end()
        assert connection.is_closed()


def test_a_body_that_breaks_off_leaves_the_part_missing(place: StorePlace) -> None:
    content = os.urandom(PART)
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())
    with Connection(place.base_url) as connection:
        connection.send(put(request, PART), content[: PART // 2])
        connection.end()
        assert connection.is_closed()
    while (again := place.send(request, content)).status_code == 409:
        assert arrived(place, upload) == []  # the server is about to notice
    assert again.status_code == 200
    place.do(place.store.seal_upload(upload))
    assert place.content() == content


def test_a_client_that_falls_silent_lets_others_bring_the_part(store: FolderStore) -> None:
    with (
        served(store, silence_seconds=0.2) as url,
        contextlib.closing(StorePlace(store, url, PART)) as place,
        Connection(url) as connection,
    ):
        upload = place.open(PART)
        request = store.sign_part(upload, 1, soon())
        connection.send(put(request, PART), b"some")
        answer = connection.answer()
        assert (answer.status, answer.code) == (408, "REQUEST_TIMEOUT")
        assert place.send(request, bytes(PART)).status_code == 200


def test_aborting_while_a_part_arrives_answers_it_with_409(store: FolderStore) -> None:
    upload: list[UploadHandle] = []

    async def abort(key: str) -> None:
        await store.abort_upload(upload[0])

    with (
        served(store, abort) as url,
        contextlib.closing(StorePlace(store, url, PART)) as place,
        Connection(url) as connection,
    ):
        upload.append(place.open(PART))
        request = store.sign_part(upload[0], 1, soon())
        connection.send(put(request, PART), bytes(PART))
        answer = connection.answer()
        assert (answer.status, answer.code) == (409, "UPLOAD_CLOSED")
        # All of the body was read, so that the connection is good for more.
        connection.send(put(request, PART), bytes(PART))
        assert connection.answer().status == 409
        assert place.keys() == []


def test_requests_sent_in_one_go_are_answered_one_by_one(place: StorePlace) -> None:
    content = os.urandom(2 * PART)
    upload = place.open(2 * PART)
    first, second = (place.store.sign_part(upload, number, soon()) for number in (1, 2))
    stranger = SignedRequest("PUT", "/objects/uploads/one?part=1", soon())
    with Connection(place.base_url) as connection:
        connection.send(
            put(first, PART), content[:PART], put(stranger, 0), put(second, PART), content[PART:], put(stranger, 0)
        )
        assert [connection.answer().status for _ in range(4)] == [200, 403, 200, 403]
    assert arrived(place, upload) == [1, 2]


def test_every_part_has_an_etag_of_its_own(place: StorePlace) -> None:
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())
    tags = {place.send(request, bytes([n]) * PART).headers["etag"] for n in range(3)}
    assert len(tags) == 3
    assert all(re.fullmatch('"[0-9a-f]+"', tag) for tag in tags)


def test_the_head_is_told_while_the_rest_still_arrives(store: FolderStore, tmp_path: Path) -> None:
    content = os.urandom(2 * PART)
    told = threading.Event()
    heads: list[tuple[str, bytes]] = []

    async def on_head(key: str) -> None:
        data = tmp_path / "store" / "open" / "uploads+one" / "data"
        heads.append((key, (await asyncio.to_thread(data.read_bytes))[:HEAD_BYTES]))
        told.set()

    with (
        served(store, on_head) as url,
        contextlib.closing(StorePlace(store, url, PART)) as place,
        Connection(url) as connection,
    ):
        upload = place.open(2 * PART)
        assert place.send_part(upload, 2, content).status_code == 200
        assert heads == []
        connection.send(put(store.sign_part(upload, 1, soon()), PART), content[:HEAD_BYTES])
        assert told.wait(timeout=60)
        assert heads == [("uploads/one", content[:HEAD_BYTES])]
        connection.send(content[HEAD_BYTES:PART])
        assert connection.answer().status == 200
        assert len(heads) == 1


def test_the_rest_arrives_while_the_head_is_dealt_with(store: FolderStore) -> None:
    content = os.urandom(PART)
    everything_arrived = threading.Event()
    ended: list[str] = []
    arrived = 0

    async def on_head(key: str) -> None:
        await asyncio.to_thread(everything_arrived.wait, 60)
        ended.append(key)

    def on_bytes(_key: str, count: int) -> None:
        nonlocal arrived
        arrived += count
        if arrived == PART:
            everything_arrived.set()

    with served(store, on_head, on_bytes) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
        upload = place.open(PART)
        assert place.send_part(upload, 1, content).status_code == 200
        # The response waited for it.
        assert (arrived, ended) == (PART, ["uploads/one"])


@pytest.mark.parametrize("size", [PART, HEAD_BYTES])
def test_a_head_that_can_not_be_dealt_with_fails_the_request(store: FolderStore, size: int) -> None:
    heads: list[str] = []

    async def on_head(key: str) -> None:
        heads.append(key)
        if len(heads) == 1:
            raise DatabaseUnavailable("the database restarts")

    with served(store, on_head) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
        upload = place.open(size)
        refused = place.send_part(upload, 1, bytes(size))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "UNAVAILABLE")
        assert place.send_part(upload, 1, bytes(size)).status_code == 200
    assert heads == ["uploads/one"] * 2


def test_the_head_is_dealt_with_to_the_end_when_the_client_leaves(store: FolderStore) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    async def on_head(key: str) -> None:
        begun.set()
        await asyncio.to_thread(may_end.wait, 60)
        ended.set()

    with served(store, on_head) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
        upload = place.open(PART)
        with Connection(url) as connection:
            connection.send(put(store.sign_part(upload, 1, soon()), PART), bytes(HEAD_BYTES))
            assert begun.wait(timeout=60)
        may_end.set()
        assert ended.wait(timeout=60)


def test_the_head_of_a_short_upload_is_all_of_it(store: FolderStore) -> None:
    heads: list[str] = []

    async def on_head(key: str) -> None:
        heads.append(key)

    with served(store, on_head) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
        place.put_object(b"short", "uploads/short")
        place.put_object(b"", "uploads/empty")
    assert heads == ["uploads/short", "uploads/empty"]


def test_every_byte_is_told_as_it_comes(store: FolderStore) -> None:
    counts: list[tuple[str, int]] = []
    size = 5 * 1024 * 1024 + 1

    with (
        served(store, on_bytes=lambda key, count: counts.append((key, count))) as url,
        contextlib.closing(StorePlace(store, url, size)) as place,
    ):
        place.put_object(bytes(size))
    assert {key for key, _ in counts} == {"uploads/one"}
    assert sum(count for _, count in counts) == size
    assert max(count for _, count in counts) < size


def test_a_store_that_is_broken_says_so_and_nothing_else(place: StorePlace, tmp_path: Path) -> None:
    upload = place.open(PART)
    marks = tmp_path / "store" / "open" / "uploads+one" / "marks"
    marks.unlink()
    marks.mkdir()
    answer = place.send(place.store.sign_part(upload, 1, soon()), bytes(PART))
    assert_error(answer, 503, "STORE_UNAVAILABLE")
    assert str(tmp_path) not in answer.text
    assert "directory" not in answer.text


# Browsers


def test_browsers_of_allowed_origins_may_send_parts_and_read_etags(store: FolderStore) -> None:
    origin = "https://console.example"
    with (
        served(store, allowed_origins=[origin]) as url,
        contextlib.closing(StorePlace(store, url, PART)) as place,
    ):
        request = store.sign_part(place.open(PART), 1, soon())
        asked = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
        asked |= {"Access-Control-Request-Headers": "content-type"}
        preflight = place.http.options(url + request.url, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == origin
        assert "PUT" in preflight.headers["access-control-allow-methods"]

        sent = place.send(request, bytes(PART), Origin=origin)
        assert sent.status_code == 200
        assert sent.headers["access-control-allow-origin"] == origin
        assert "etag" in sent.headers["access-control-expose-headers"].lower()

        asked["Origin"] = "https://elsewhere.example"
        refused = place.http.options(url + request.url, headers=asked)
        assert refused.status_code == 400
        assert "access-control-allow-origin" not in refused.headers


def test_browsers_see_errors_too(store: FolderStore) -> None:
    with (
        served(store, allowed_origins=["*"]) as url,
        contextlib.closing(StorePlace(store, url, PART)) as place,
    ):
        request = store.sign_part(place.open(PART), 1, soon())
        answer = place.send(request, bytes(PART + 1), Origin="https://any.example")
        assert_error(answer, 413, "TOO_LARGE")
        assert answer.headers["access-control-allow-origin"] == "*"


# Downloads


@pytest.fixture
def download(place: StorePlace) -> Callable[..., httpx.Response]:
    """Downloads an object of the bytes `content_of_download`, with these header fields."""
    place.put_object(content_of_download)
    request = place.store.sign_download("uploads/one", "disk.qcow2", soon())

    def make(method: str = "GET", **headers: str) -> httpx.Response:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return place.http.request(method, place.base_url + request.url, headers=names)

    return make


content_of_download = bytes(range(256)) * 4


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=1000-", 1000, 1024),
        ("bytes=1000-99999", 1000, 1024),
        ("bytes=-24", 1000, 1024),
        ("bytes=-99999", 0, 1024),
    ],
)
def test_a_range_is_sent_alone(download: Callable[..., httpx.Response], asked: str, start: int, end: int) -> None:
    answer = download(range=asked)
    assert (answer.status_code, answer.content) == (206, content_of_download[start:end])
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/1024"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize(
    "asked", ["bytes=5-2", "bytes=-", "bytes=", "lines=1-2", "bytes=0-1,3-4", "bytes=a-b", "bytes=" + "9" * 5000]
)
def test_what_is_not_one_range_gets_the_whole_object(download: Callable[..., httpx.Response], asked: str) -> None:
    answer = download(range=asked)
    assert (answer.status_code, answer.content) == (200, content_of_download)


@pytest.mark.parametrize("asked", ["bytes=1024-", "bytes=5000-6000", "bytes=-0"])
def test_a_range_behind_the_end_is_refused(download: Callable[..., httpx.Response], asked: str) -> None:
    answer = download(range=asked)
    assert_error(answer, 416, "RANGE_NOT_SATISFIABLE")
    assert answer.headers["content-range"] == "bytes */1024"


def test_what_the_client_has_already_is_not_sent(download: Callable[..., httpx.Response]) -> None:
    etag = download().headers["etag"]
    assert re.fullmatch('"[0-9a-f]+"', etag)
    for known in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = download(if_none_match=known)
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["etag"] == etag
    assert download(if_none_match='"other"').status_code == 200


def test_a_range_of_another_version_is_not_mixed_in(download: Callable[..., httpx.Response]) -> None:
    etag = download().headers["etag"]
    assert download(range="bytes=0-9", if_range=etag).status_code == 206
    for other in ('"other"', f"W/{etag}", "Thu, 01 Jan 2026 00:00:00 GMT"):
        answer = download(range="bytes=0-9", if_range=other)
        assert (answer.status_code, answer.content) == (200, content_of_download)


def test_head_tells_what_get_would_send(download: Callable[..., httpx.Response]) -> None:
    whole, told = download(), download("HEAD", range="bytes=0-9")
    assert (told.status_code, told.content) == (200, b"")
    for name in ("content-length", "etag", "content-type", "content-disposition", "accept-ranges"):
        assert told.headers[name] == whole.headers[name]


def test_a_download_is_saved_and_never_shown(download: Callable[..., httpx.Response]) -> None:
    headers = download().headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["accept-ranges"] == "bytes"
    expected = "attachment; filename=\"disk.qcow2\"; filename*=UTF-8''disk.qcow2"
    assert headers["content-disposition"] == expected


def test_the_etag_stays_while_the_bytes_do_and_changes_with_them(place: StorePlace, store: FolderStore) -> None:
    place.put_object(b"bytes")
    request = store.sign_download("uploads/one", "disk", soon())
    tags = [place.send(request).headers["etag"] for _ in range(2)]
    assert tags[0] == tags[1]
    with open(store.path("uploads/one"), "ab") as converted:
        converted.write(b" and tables")
    assert place.send(request).headers["etag"] != tags[0]


def test_holes_are_sent_as_zeros(place: StorePlace) -> None:
    content = bytes(PART) + b"end"
    place.put_object(content)
    assert place.send(place.store.sign_download("uploads/one", "disk", soon())).content == content


def test_a_long_object_is_sent_whole_and_a_client_may_leave_halfway(place: StorePlace, store: FolderStore) -> None:
    content = os.urandom(1024 * 1024) * 20
    store.path("blobs/one").parent.mkdir()
    store.path("blobs/one").write_bytes(content)
    request = store.sign_download("blobs/one", "disk", soon())
    with place.http.stream("GET", place.base_url + request.url) as leaving:
        begun = next(leaving.iter_raw())
        assert begun == content[: len(begun)]
    assert place.send(request).content == content


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("disk.qcow2", "disk.qcow2"),
        ("Größe 磁盘.raw", "Größe 磁盘.raw"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "image"),
        ("", "image"),
        ("\u202e2wocq.exe", "2wocq.exe"),
        ('a"b\r\nSet-Cookie: x=1', "a_bSet-Cookie_ x=1"),
        ("nul\0byte\x7f.raw", "nulbyte.raw"),
        ("half \ud800 pair", "half  pair"),
        ("C:\\disk.vhd", "C__disk.vhd"),
        ("x" * 10_000 + ".vmdk", "x" * 175 + ".vmdk"),
        ("磁" * 10_000, "磁" * 60),
    ],
)
def test_a_hostile_name_becomes_a_harmless_one(place: StorePlace, name: str, plain: str) -> None:
    assert plain_file_name(name) == plain
    place.put_object(b"bytes")
    answer = place.send(place.store.sign_download("uploads/one", name, soon()))
    assert answer.status_code == 200
    value = answer.headers["content-disposition"]
    assert value == attachment(name)
    match = re.fullmatch("attachment; filename=\"([ -~]+)\"; filename\\*=UTF-8''([!-~]+)", value)
    assert match is not None
    assert not set(match[1]) & set('"\\/%')
    assert unquote(match[2]) == plain
