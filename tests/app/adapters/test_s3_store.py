"""The object store in a bucket of a real S3 server, MinIO or versitygw: the contract, and what S3 adds to it."""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from functools import partial
from itertools import count
from urllib.parse import urlsplit

import httpx
import minio as minio_package
import pytest
from minio.commonconfig import ENABLED
from minio.versioningconfig import VersioningConfig

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.store import S3Store
from app.errors import PartsArriving, PartsMissing, StoreUnavailable, UploadClosed, WrongPart
from app.ports import UploadHandle
from app.s3_address import S3Address, S3Key
from tests.app.conftest import S3Server
from tests.servers.minio import Minio
from tests.servers.versitygw import Versitygw
from tests.support.object_store_contract import ObjectStoreContract, StorePlace, soon
from tests.support.s3_places import upload_key_of, with_limited_keys

PART = 5 * 1024 * 1024  # the least that S3 takes for a part that is not the last
names = (f"store-{number}" for number in count())


@contextlib.contextmanager
def store_at(
    address: S3Address, public_url: str | None = None, upload_key: S3Key | None = None
) -> Iterator[StorePlace]:
    store = S3Store(address, public_url, upload_key)
    with contextlib.closing(store), contextlib.closing(StorePlace(store, "", PART)) as place:
        place.do(store.prepare())
        yield place
        place.empty()


@pytest.fixture
def owner(s3_server: S3Server) -> S3Address:
    """A bucket for the key of the server's owner. All tests share it: to create limited keys takes long."""
    return S3Address.parse(s3_server.store_url("store"))


@pytest.fixture
def address(s3_server: S3Server, owner: S3Address) -> S3Address:
    """The bucket, for the limited key of a gateway; `images migrate` creates such keys in MinIO alone."""
    return with_limited_keys(owner) if isinstance(s3_server, Minio) else owner


@pytest.fixture
def upload_key(s3_server: S3Server, address: S3Address) -> S3Key | None:
    """The key that signs part URLs. versitygw refuses headers that are not signed, and needs none."""
    return upload_key_of(address) if isinstance(s3_server, Minio) else None


@pytest.fixture
def place(address: S3Address, upload_key: S3Key | None) -> Iterator[StorePlace]:
    with store_at(address, upload_key=upload_key) as place:
        yield place


class TestABucketKeepsTheContract(ObjectStoreContract):
    """The whole bucket is the store's."""


class TestAPrefixOfABucketKeepsTheContract(ObjectStoreContract):
    @pytest.fixture
    def owner(self, s3_server: S3Server) -> S3Address:
        return S3Address.parse(s3_server.store_url("store-below", "images/of-one"))

    def test_another_prefix_sees_and_takes_nothing_of_it(self, place: StorePlace, s3_server: S3Server) -> None:
        bucket = urlsplit(place.store.sign_download("uploads/two", "disk", soon()).url).path.split("/")[1]
        place.put_object(b"mine", "uploads/two")
        mine = place.open(1000, "uploads/one")
        with store_at(S3Address.parse(s3_server.store_url(bucket, "images/of-other"))) as other:
            other.put_object(b"theirs", "uploads/two")
            theirs = other.open(1000, "uploads/one")
            for key in ("uploads/two", "uploads/one"):
                other.do(other.store.delete(key))
            assert other.keys() == []
            with pytest.raises(UploadClosed):
                other.do(other.store.receipt(theirs))
        assert place.content("uploads/two") == b"mine"
        assert list(place.do(place.store.receipt(mine)).parts) == []


def store_of(place: StorePlace) -> S3Store:
    assert isinstance(place.store, S3Store)
    return place.store


def put_unfinished(place: StorePlace, upload: UploadHandle, sent: bytes) -> socket.socket:
    """Begins to send part 1 by its signed address, declares its whole length and does not go on."""
    url = urlsplit(place.store.sign_part(upload, 1, soon()).url)
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {upload.part_length(1)}\r\n"
    connection = socket.create_connection((str(url.hostname), url.port or 80), timeout=30)
    connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
    # The store says that it wants the body once it has let the request in.
    assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.sendall(sent)
    return connection


def status_of(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(1000).split()[1])


def test_a_part_without_a_body_is_refused(place: StorePlace) -> None:
    upload = place.open(1000)
    assert place.send(place.store.sign_part(upload, 1, soon())).status_code == 403
    assert list(place.do(place.store.receipt(upload)).parts) == []


def test_a_part_whose_body_ends_too_soon_has_not_arrived(place: StorePlace) -> None:
    upload = place.open(1000)
    connection = put_unfinished(place, upload, bytes(999))
    connection.shutdown(socket.SHUT_WR)
    # versitygw takes the break for a failure of its own.
    assert status_of(connection) >= 400
    assert list(place.do(place.store.receipt(upload)).parts) == []


def test_a_part_that_still_arrives_when_the_upload_is_aborted_is_refused(place: StorePlace) -> None:
    upload = place.open(1000)
    connection = put_unfinished(place, upload, bytes(999))
    place.do(place.store.abort_upload(upload))
    connection.sendall(b"1")
    assert status_of(connection) == 404
    with pytest.raises(UploadClosed):
        place.do(place.store.receipt(upload))


def test_a_part_that_still_arrives_when_the_upload_is_sealed_does_not_change_it(place: StorePlace) -> None:
    content = os.urandom(1000)
    upload = place.open(1000)
    place.send_part(upload, 1, content)
    connection = put_unfinished(place, upload, bytes(999))
    place.do(place.store.seal_upload(upload))
    connection.sendall(b"1")
    assert status_of(connection) == 404
    assert place.content() == content


def test_a_part_that_is_sent_again_while_the_upload_is_sealed_stops_that(
    place: StorePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = place.open(1000)
    place.send_part(upload, 1, bytes(1000))
    again = os.urandom(1000)
    complete = Bucket.complete

    def late(*call: object) -> None:
        monkeypatch.undo()
        place.send_part(upload, 1, again)
        complete(*call)  # type: ignore[arg-type]

    monkeypatch.setattr(Bucket, "complete", late)
    with pytest.raises(PartsArriving):
        place.do(place.store.seal_upload(upload))
    place.do(place.store.seal_upload(upload))
    assert place.content() == again


@pytest.mark.parametrize(
    ("number", "size", "expected"), [(1, PART + 1, PART), (2, 999, 1000), (3, 10, None), (3, 0, None)]
)
def test_a_part_that_no_url_allows_is_neither_counted_nor_sealed(
    place: StorePlace, address: S3Address, number: int, size: int, expected: int | None
) -> None:
    upload = place.open(PART + 1000)
    for right in {1, 2} - {number}:
        place.send_part(upload, right, bytes(PART + 1000))

    with contextlib.closing(Bucket(address)) as bucket:
        bucket.put_part(upload.key, upload.reference, number, partial(iter, [bytes(size)]), size)

    for look in (place.store.receipt, place.store.seal_upload):
        with pytest.raises(WrongPart) as found:
            place.do(look(upload))
        assert (found.value.number, found.value.size, found.value.expected) == (number, size, expected)


def test_a_part_without_bytes_has_not_arrived(place: StorePlace, address: S3Address) -> None:
    upload = place.open(PART + 1000)
    place.send_part(upload, 1, bytes(PART + 1000))
    with contextlib.closing(Bucket(address)) as bucket:
        bucket.put_part(upload.key, upload.reference, 2, partial(iter, [b""]), 0)
    assert list(place.do(place.store.receipt(upload)).parts) == [1]
    with pytest.raises(PartsMissing) as missing:
        place.do(place.store.seal_upload(upload))
    assert list(missing.value.numbers) == [2]


def test_an_object_of_another_size_is_not_what_was_uploaded(place: StorePlace, address: S3Address) -> None:
    upload = place.open(1000)
    with contextlib.closing(Bucket(address)) as bucket:
        bucket.abort(upload.key, upload.reference)
        bucket.put(upload.key, bytes(999))
    with pytest.raises(UploadClosed):
        place.do(place.store.seal_upload(upload))
    with pytest.raises(UploadClosed):
        place.do(place.store.receipt(upload))


def test_no_upload_is_opened_over_an_object(place: StorePlace) -> None:
    place.put_object(b"bytes")
    with pytest.raises(UploadClosed):
        place.open(1000)
    assert place.keys() == ["uploads/one"]


def test_deleting_ends_the_uploads_that_are_open_under_the_key(place: StorePlace) -> None:
    uploads = [place.open(1000) for _ in range(2)]
    other = place.open(1000, "uploads/one-more")
    place.do(place.store.delete("uploads/one"))
    for upload in uploads:
        assert place.send_part(upload, 1, bytes(1000)).status_code == 404
    assert place.send_part(other, 1, bytes(1000)).status_code == 200
    assert place.keys() == ["uploads/one-more"]


def test_what_others_keep_in_the_bucket_is_not_told(place: StorePlace, owner: S3Address) -> None:
    with contextlib.closing(Bucket(owner)) as bucket:
        bucket.put("Holiday photo.JPG", b"bytes")
        bucket.open_multipart("Another photo.JPG")
    assert place.keys() == []


@pytest.mark.parametrize("key", ["", "../one", "uploads/../../one", "Uploads/one", "uploads//one", "uploads/one?x"])
def test_what_is_no_key_is_refused(place: StorePlace, key: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        place.open(1000, key)
    with pytest.raises(ValueError, match="not a key"):
        place.store.sign_download(key, "disk", soon())


@pytest.mark.parametrize("number", [0, 3])
def test_there_are_no_addresses_for_parts_beyond_the_upload(place: StorePlace, number: int) -> None:
    upload = UploadHandle("uploads/one", "reference", PART + 1, PART)
    with pytest.raises(ValueError, match="no part"):
        place.store.sign_part(upload, number, soon())


def test_a_download_bears_the_name_that_its_owner_typed_and_nothing_else_of_it(place: StorePlace) -> None:
    place.put_object(b"bytes")
    request = place.store.sign_download("uploads/one", 'büro";\r\nSet-Cookie: a=b/&?=+.qcow2', soon())
    answer = place.send(request)
    assert answer.headers["content-disposition"] == (
        'attachment; filename="b_ro_;Set-Cookie_ a=b_&_=+.qcow2"; '
        "filename*=UTF-8''b%C3%BCro_%3BSet-Cookie_%20a%3Db_%26_%3D%2B.qcow2"
    )
    assert "set-cookie" not in answer.headers


def test_a_name_can_not_be_changed_in_an_address(place: StorePlace) -> None:
    place.put_object(b"bytes")
    request = place.store.sign_download("uploads/one", "disk.qcow2", soon())
    assert httpx.get(request.url.replace("disk.qcow2", "risk.qcow2")).status_code == 403


def test_signatures_end_when_they_say_and_after_seven_days_at_most(place: StorePlace) -> None:
    upload = place.open(1000)
    asked = soon()
    assert asked.replace(microsecond=0) <= place.store.sign_part(upload, 1, asked).expires_at <= asked
    late = asked.replace(year=asked.year + 1)
    request = place.store.sign_part(upload, 1, late)
    assert request.expires_at < late
    assert "X-Amz-Expires=604800&" in request.url
    assert place.send(request, bytes(1000)).status_code == 200


def test_clients_reach_the_store_at_its_public_address(
    s3_server: S3Server, address: S3Address, upload_key: S3Key | None
) -> None:
    public = f"http://localhost:{s3_server.port}"
    with store_at(address, public, upload_key) as place:
        upload = place.open(1000)
        request = place.store.sign_part(upload, 1, soon())
        assert request.url.startswith(f"{public}/{address.bucket}/")
        # What is signed for one address holds at no other.
        assert place.send_part(upload, 1, bytes(1000)).status_code == 200
        assert httpx.put(request.url.replace("localhost", "127.0.0.1"), content=bytes(1000)).status_code == 403
        place.do(place.store.seal_upload(upload))
        download = place.store.sign_download("uploads/one", "disk", soon())
        assert download.url.startswith(f"{public}/{address.bucket}/")
        assert place.send(download).content == bytes(1000)


def test_pages_of_other_origins_may_send_parts_and_read_the_etag(place: StorePlace) -> None:
    request = place.store.sign_part(place.open(1000), 1, soon())
    origin = "https://console.example"
    # MinIO lets everybody in; versitygw obeys the rules that this writes for the bucket.
    place.do(store_of(place).prepare([origin]))
    asking = {"Origin": origin, "Access-Control-Request-Method": "PUT"}
    preflight = httpx.options(request.url, headers={**asking, "Access-Control-Request-Headers": "content-type"})
    assert preflight.is_success
    assert preflight.headers["access-control-allow-origin"] == origin
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    answer = place.send(request, bytes(1000), Origin=origin)
    assert answer.headers["access-control-allow-origin"] == origin
    assert "etag" in answer.headers["access-control-expose-headers"].lower()


def test_a_store_without_cors_rules_of_buckets_says_where_they_are_set(minio: Minio) -> None:
    with store_at(S3Address.parse(minio.store_url(next(names)))) as place:
        (sentence,) = place.do(store_of(place).prepare(["https://console.example", "https://other.example"]))
        assert "MINIO_API_CORS_ALLOW_ORIGIN" in sentence
        assert "https://console.example, https://other.example" in sentence
        assert list(place.do(store_of(place).prepare())) == []
        assert place.keys() == []


def test_a_store_with_cors_rules_of_buckets_takes_them_again_and_again(versitygw: Versitygw) -> None:
    with store_at(S3Address.parse(versitygw.store_url(next(names)))) as place:
        for origin in ("https://console.example", "https://other.example"):
            assert list(place.do(store_of(place).prepare([origin]))) == []
        assert place.keys() == []


def test_a_bucket_that_keeps_old_versions_is_told_of(minio: Minio) -> None:
    address = S3Address.parse(minio.store_url(next(names)))
    with store_at(address) as place:
        client = minio_package.Minio(address.host, address.key, address.secret, secure=False)
        client.set_bucket_versioning(address.bucket, VersioningConfig(ENABLED))
        (sentence,) = place.do(store_of(place).prepare())
    assert "Disable versioning." in sentence


def test_a_missing_bucket_fails_the_check(s3_server: S3Server) -> None:
    store = S3Store(S3Address.parse(s3_server.store_url(next(names))))
    with pytest.raises(StoreUnavailable, match="no such bucket"):
        asyncio.run(store.check())
    store.close()


def test_two_that_start_at_once_make_one_bucket(s3_server: S3Server) -> None:
    address = S3Address.parse(s3_server.store_url(next(names)))
    stores = [S3Store(address) for _ in range(8)]

    async def start() -> None:
        await asyncio.gather(*(store.prepare() for store in stores))

    asyncio.run(start())
    for store in stores:
        store.close()


def test_an_object_is_read_in_chunks_across_the_blocks_that_it_is_asked_for_in(
    place: StorePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.adapters.s3.store._BLOCK", 2 * 1024 * 1024)
    content = os.urandom(2 * PART + 17)
    place.put_object(content)

    async def sizes() -> list[int]:
        return [len(chunk) async for chunk in place.store.read("uploads/one")]

    assert place.do(sizes()) == [1024 * 1024] * 10 + [17]
    assert place.content() == content
