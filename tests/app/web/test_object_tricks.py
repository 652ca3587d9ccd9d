"""What else a request to `/objects/…` may carry, and that none of it changes what the signed address does."""

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from app.adapters.folder.store import FolderStore
from app.errors import NotFound
from app.ports import Asker, SignedRequest
from tests.app.web.test_object_endpoints import PART, Connection, arrived, assert_error, head, put
from tests.support.folder_server import SECRET, served
from tests.support.object_store_contract import StorePlace, soon


@pytest.fixture
def place(tmp_path: Path) -> Iterator[StorePlace]:
    with contextlib.closing(FolderStore(tmp_path / "store", SECRET)) as store:
        with served(store) as url, contextlib.closing(StorePlace(store, url, PART)) as place:
            yield place


@pytest.mark.parametrize("encoding", ["gzip", "GZip", "br, gzip", "aws-chunked", "identity, gzip", "nonsense"])
def test_an_encoded_part_is_refused_with_415(place: StorePlace, encoding: str) -> None:
    upload = place.open(PART)

    answer = place.send(place.store.sign_part(upload, 1, soon()), bytes(PART), **{"Content-Encoding": encoding})

    assert_error(answer, 415, "UNSUPPORTED_ENCODING")
    assert answer.headers["accept-encoding"] == "identity"
    assert arrived(place, upload) == []


def test_a_second_content_encoding_hides_behind_no_harmless_one(place: StorePlace) -> None:
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())

    with Connection(place.base_url) as connection:
        connection.send(put(request, PART, "Content-Encoding: identity", "Content-Encoding: gzip"), bytes(PART))
        answer = connection.answer()

    assert (answer.status, answer.code) == (415, "UNSUPPORTED_ENCODING")
    assert arrived(place, upload) == []


@pytest.mark.parametrize("given", [f"bytes 0-{PART - 1}/{PART}", "bytes 0-9/100", "bytes */*", "", "lines 1-2/3"])
def test_a_part_with_a_range_of_its_own_is_refused_with_400(place: StorePlace, given: str) -> None:
    upload = place.open(PART)

    answer = place.send(place.store.sign_part(upload, 1, soon()), bytes(PART), **{"Content-Range": given})

    assert_error(answer, 400, "INVALID")
    assert "Content-Range" in answer.json()["error"]["hint"]
    assert arrived(place, upload) == []


@pytest.mark.parametrize(
    "header",
    [
        ("X-HTTP-Method-Override", "DELETE"),
        ("X-Method-Override", "GET"),
        ("X-Amz-Copy-Source", "/blobs/secret"),
        ("X-Original-URL", "/objects/blobs/secret"),
        ("X-Rewrite-URL", "/objects/blobs/secret"),
        ("Content-Type", "multipart/form-data; boundary=x"),
        ("Content-Encoding", "identity"),
        ("Range", "bytes=5-9"),
        ("X-Forwarded-Prefix", "/../.."),
    ],
)
def test_other_headers_change_nothing_about_a_part(place: StorePlace, header: tuple[str, str]) -> None:
    place.put_object(b"another tenant's", "blobs/secret")
    content = os.urandom(PART)
    upload = place.open(PART)

    answer = place.send(place.store.sign_part(upload, 1, soon()), content, **{header[0]: header[1]})

    assert answer.status_code == 200
    place.do(place.store.seal_upload(upload))
    assert place.content() == content
    assert place.content("blobs/secret") == b"another tenant's"


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST", "PATCH"])
def test_a_download_turns_into_no_other_method(place: StorePlace, method: str) -> None:
    place.put_object(b"bytes")
    request = place.store.sign_download("uploads/one", "disk", soon())

    for header in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"):
        assert place.send(request, b"", **{header: method}).content == b"bytes"

    assert place.http.post(place.base_url + request.url, headers={"X-HTTP-Method-Override": "GET"}).status_code == 405
    assert place.content() == b"bytes"


@pytest.mark.parametrize(
    "more",
    [
        "&part=2", "&offset=524288", "&length=1", "&expires=9999999999", "&for=", "&key=uploads/two", "&signature=00",
        "&partNumber=2", "&uploadId=x", "&versionId=1", "&acl", "&tagging=", "&x-id=CopyObject",
    ],
)  # fmt: skip
def test_an_address_with_one_more_argument_is_another_address(place: StorePlace, more: str) -> None:
    upload = place.open(2 * PART)
    request = place.store.sign_part(upload, 1, soon())
    path, _, query = request.url.partition("?")

    for url in (f"{path}?{query}{more}", f"{path}?{more[1:]}&{query}"):
        answer = place.send(SignedRequest("PUT", url, request.expires_at), bytes(PART))
        assert_error(answer, 403, "FORBIDDEN")

    assert arrived(place, upload) == []


@pytest.mark.parametrize("more", ["&name=evil.html", "&response-content-type=text/html", "&expires=9999999999"])
def test_a_download_with_one_more_argument_is_another_address(place: StorePlace, more: str) -> None:
    place.put_object(b"bytes")
    request = place.store.sign_download("uploads/one", "disk", soon())

    assert_error(place.http.get(place.base_url + request.url + more), 403, "FORBIDDEN")


@pytest.mark.parametrize(
    "path",
    [
        "/objects/uploads/one/../two", "/objects/uploads/one/%2e%2e/two", "/objects/uploads/%2e%2e/uploads/two",
        "/objects//uploads/two", "/objects/./uploads/two", "/objects/uploads%2ftwo", "/objects/uploads/two%00",
        "/objects/uploads/one%3f/../two", "/objects/..%2f..%2fsecret", "/objects/uploads\\two", "/objects/UPLOADS/two",
    ],
)  # fmt: skip
def test_an_address_leads_to_its_own_object_however_the_path_is_written(place: StorePlace, path: str) -> None:
    place.put_object(b"mine")
    place.put_object(b"another tenant's", "uploads/two")
    query = place.store.sign_download("uploads/one", "disk", soon()).url.partition("?")[2]

    with Connection(place.base_url) as connection:
        connection.send(head(SignedRequest("GET", f"{path}?{query}", soon())))
        answer = connection.answer()

    assert answer.status in (403, 404)
    assert b"another tenant's" not in answer.body


@pytest.mark.parametrize(
    "fields",
    [
        ("Transfer-Encoding: chunked", f"Content-Length: {PART}"),
        (f"Content-Length: {PART}", "Transfer-Encoding: chunked"),
        (f"Content-Length: {PART}", "Content-Length: 5"),
        (f"Content-Length: {PART}", "Transfer-Encoding: identity"),
        (f"Content-Length: +{PART}",),
        (f"Content-Length: {PART}, {PART}",),
    ],
)
def test_a_request_with_two_lengths_is_refused_and_nothing_after_it_is_read(
    place: StorePlace, fields: tuple[str, ...]
) -> None:
    upload = place.open(PART)
    request = place.store.sign_part(upload, 1, soon())
    hidden = put(request, PART)

    with Connection(place.base_url) as connection:
        connection.send(head(request, *fields), b"0\r\n\r\n", hidden)
        assert connection.last_status() == 400

    assert arrived(place, upload) == []


def test_several_ranges_get_the_object_once(place: StorePlace) -> None:
    content = os.urandom(PART)
    place.put_object(content)
    request = place.store.sign_download("uploads/one", "disk", soon())
    many = ",".join(f"{n}-" for n in range(1000))

    answer = place.send(request, Range=f"bytes={many}")

    assert (answer.status_code, answer.content) == (200, content)


class Door:
    """Lets everybody through until it is closed."""

    closed = False

    async def require_upload(self, asker: Asker | None, key: str) -> None:
        await self.require_download(asker, key)

    async def require_download(self, asker: Asker | None, key: str) -> None:
        if self.closed:
            raise NotFound("There is no such image.", hint="Check the id: the image may have been deleted.")


def test_what_has_begun_goes_on_when_its_address_expires_and_its_right_ends(tmp_path: Path) -> None:
    door, hours = Door(), [0.0]
    clock = lambda: datetime.now(UTC) + timedelta(hours=hours[0])  # noqa: E731
    content = os.urandom(2**20) * 20
    with (
        contextlib.closing(FolderStore(tmp_path / "store", SECRET, clock)) as store,
        served(store, permission=door) as url,
        contextlib.closing(StorePlace(store, url, PART)) as place,
        Connection(url) as sending,
    ):
        store.path("blobs/one").parent.mkdir()
        store.path("blobs/one").write_bytes(content)
        upload = place.open(PART)
        part, download = store.sign_part(upload, 1, soon()), store.sign_download("blobs/one", "disk", soon())
        with place.http.stream("GET", url + download.url) as running:
            chunks = running.iter_raw()
            received = next(chunks)
            sending.send(put(part, PART, "Expect: 100-continue"))
            assert sending.answer(bodiless=True).status == 100

            door.closed = True
            for request, body in ((download, b""), (part, bytes(PART))):
                assert_error(place.send(request, body), 404, "NOT_FOUND")
            hours[0] = 1
            for request, body in ((download, b""), (part, bytes(PART))):
                assert_error(place.send(request, body), 403, "ADDRESS_EXPIRED")

            assert received + b"".join(chunks) == content
        sending.send(bytes(PART))
        assert sending.answer().status == 200
        assert arrived(place, upload) == [1]


def test_an_object_that_is_lost_is_answered_404_by_every_kind_of_read(place: StorePlace) -> None:
    request = place.store.sign_download("blobs/lost", "disk", soon())

    assert_error(place.send(request), 404, "OBJECT_MISSING")
    assert_error(place.send(request, Range="bytes=0-9"), 404, "OBJECT_MISSING")
    assert place.http.head(place.base_url + request.url).status_code == 404
