"""A bucket of a real S3 server, MinIO or versitygw: what is sent comes back, and every refusal has its error."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count

import pytest

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.orders import Orders
from app.errors import ObjectMissing, PartsArriving, StoreUnavailable, UploadClosed
from app.s3_address import S3Address
from tests.app.conftest import S3Server
from tests.servers.minio import Minio
from tests.support.s3_places import empty

PART = 5 * 1024 * 1024  # the least that S3 takes for a part that is not the last
names = (f"bucket-{number}" for number in count())


@pytest.fixture
def address(s3_server: S3Server) -> S3Address:
    return S3Address.parse(s3_server.store_url(next(names)))


@pytest.fixture
def bucket(address: S3Address) -> Iterator[Bucket]:
    bucket = Bucket(address)
    bucket.make()
    yield bucket
    empty(bucket)
    bucket.close()


def put_object(bucket: Bucket, key: str, *parts: bytes) -> str:
    """Makes an object of these parts; gives the reference of the upload that it came by."""
    reference = bucket.open_multipart(key)
    bucket.complete(key, reference, put_parts(bucket, key, reference, *parts))
    return reference


def put_parts(bucket: Bucket, key: str, reference: str, *parts: bytes) -> list[tuple[int, str]]:
    return [
        (number, bucket.put_part(key, reference, number, partial(iter, [part]), len(part)))
        for number, part in enumerate(parts, 1)
    ]


def test_parts_become_an_object_that_is_read_by_ranges(bucket: Bucket) -> None:
    first, second = os.urandom(PART), os.urandom(1001)
    put_object(bucket, "blobs/one", first, second)
    assert bucket.size("blobs/one") == PART + 1001
    assert bucket.read("blobs/one", PART - 10, 20) == first[-10:] + second[:10]
    buffer = bytearray(PART + 1001)
    bucket.read_into("blobs/one", 0, memoryview(buffer))
    assert buffer == first + second


def test_reading_nothing_asks_for_nothing(bucket: Bucket) -> None:
    assert bucket.read("blobs/none", 0, 0) == b""


def test_a_part_is_streamed_from_pieces_of_any_kind(bucket: Bucket) -> None:
    pieces: list[bytes | memoryview] = [os.urandom(1000), memoryview(os.urandom(500)), memoryview(bytearray(3)), b""]
    reference = bucket.open_multipart("blobs/one")
    etag = bucket.put_part("blobs/one", reference, 1, lambda: iter(pieces), 1503)
    assert etag == hashlib.md5(b"".join(pieces), usedforsecurity=False).hexdigest()
    bucket.complete("blobs/one", reference, [(1, etag)])
    assert bucket.read("blobs/one", 0, 1503) == b"".join(pieces)


@pytest.mark.parametrize("length", [999, 1001])
def test_a_body_of_another_length_is_no_part(bucket: Bucket, length: int) -> None:
    reference = bucket.open_multipart("blobs/one")
    with pytest.raises(ValueError, match="another length"):
        bucket.put_part("blobs/one", reference, 1, lambda: [bytes(length)], 1000)
    assert bucket.parts("blobs/one", reference) == []


def test_a_part_can_be_copied_out_of_another_object(bucket: Bucket) -> None:
    content = os.urandom(PART + 1001)
    put_object(bucket, "uploads/one", content[:PART], content[PART:])
    reference = bucket.open_multipart("blobs/one")
    parts = [
        (1, bucket.copy_part("blobs/one", reference, 1, "uploads/one", 1001, PART)),
        (2, bucket.copy_part("blobs/one", reference, 2, "uploads/one", 7, 100)),
    ]
    bucket.complete("blobs/one", reference, parts)
    assert bucket.read("blobs/one", 0, PART + 100) == content[1001:] + content[7:107]


def test_a_copy_of_nothing_is_refused(bucket: Bucket) -> None:
    reference = bucket.open_multipart("blobs/one")
    with pytest.raises(ObjectMissing):
        bucket.copy_part("blobs/one", reference, 1, "uploads/none", 0, 100)


def test_parts_are_listed_as_they_arrived(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = bucket.open_multipart("blobs/one")
    sent = put_parts(bucket, "blobs/one", reference, b"a", b"bb", b"ccc", b"dddd", b"eeeee")
    here = bucket.parts("blobs/one", reference)
    assert [(part.number, part.etag, part.size) for part in here] == [(n, etag, n) for n, etag in sent]
    assert all(abs(part.changed - datetime.now(UTC)) < timedelta(minutes=5) for part in here)
    monkeypatch.setattr(Orders.parts, "__defaults__", (None, 2))
    assert bucket.parts("blobs/one", reference) == here


def test_what_is_not_there_is_missing(bucket: Bucket) -> None:
    with pytest.raises(ObjectMissing):
        bucket.size("blobs/none")
    with pytest.raises(ObjectMissing):
        bucket.read("blobs/none", 0, 1)


def test_reading_beyond_the_end_is_an_error(bucket: Bucket) -> None:
    bucket.put("blobs/one", b"bytes")
    for offset, length in ((0, 6), (5, 1)):
        with pytest.raises(StoreUnavailable):
            bucket.read("blobs/one", offset, length)


def test_an_upload_that_is_not_open_takes_and_lists_nothing(bucket: Bucket) -> None:
    aborted, completed = bucket.open_multipart("blobs/one"), put_object(bucket, "blobs/two", b"bytes")
    bucket.abort("blobs/one", aborted)
    for key, reference in (("blobs/one", aborted), ("blobs/two", completed)):
        with pytest.raises(UploadClosed):
            bucket.put_part(key, reference, 1, lambda: [b"bytes"], 5)
        with pytest.raises(UploadClosed):
            bucket.copy_part(key, reference, 1, "blobs/two", 0, 5)
        with pytest.raises(UploadClosed):
            bucket.parts(key, reference)
    with pytest.raises(UploadClosed):
        bucket.complete("blobs/one", aborted, [(1, "0" * 32)])


def test_a_large_part_for_a_closed_upload_says_so_though_its_body_is_cut_off(bucket: Bucket) -> None:
    reference = bucket.open_multipart("blobs/one")
    bucket.abort("blobs/one", reference)
    piece = bytes(1024 * 1024)
    with pytest.raises(UploadClosed):
        bucket.put_part("blobs/one", reference, 1, lambda: [piece] * 64, 64 * len(piece))


def test_completing_twice_is_harmless(bucket: Bucket, s3_server: S3Server) -> None:
    reference = bucket.open_multipart("blobs/one")
    parts = put_parts(bucket, "blobs/one", reference, bytes(PART), b"end")
    for _ in range(2):
        bucket.complete("blobs/one", reference, parts)
    # versitygw remembers what it has completed and does not look at the parts again.
    with pytest.raises(UploadClosed) if isinstance(s3_server, Minio) else nullcontext():
        bucket.complete("blobs/one", reference, parts[:1])
    assert bucket.size("blobs/one") == PART + 3


def test_completing_with_a_part_that_was_sent_again_is_refused(bucket: Bucket) -> None:
    reference = bucket.open_multipart("blobs/one")
    parts = put_parts(bucket, "blobs/one", reference, b"first")
    put_parts(bucket, "blobs/one", reference, b"again")
    with pytest.raises(PartsArriving):
        bucket.complete("blobs/one", reference, parts)
    with pytest.raises(ObjectMissing):
        bucket.size("blobs/one")


def test_aborting_and_deleting_are_harmless_when_done_before(bucket: Bucket) -> None:
    reference = bucket.open_multipart("blobs/one")
    bucket.put("blobs/two", b"bytes")
    for _ in range(2):
        bucket.abort("blobs/one", reference)
        bucket.delete("blobs/two")
    assert list(bucket.keys()) == []


def test_open_uploads_are_found_by_their_exact_key(bucket: Bucket) -> None:
    references = {bucket.open_multipart("uploads/one") for _ in range(2)}
    bucket.open_multipart("uploads/one-more")
    assert set(bucket.multiparts("uploads/one")) == references
    assert bucket.multiparts("uploads/on") == []
    assert sorted(key for key, _ in bucket.open_keys()) == ["uploads/one", "uploads/one", "uploads/one-more"]


def test_keys_are_listed_page_by_page(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abcde":
        bucket.put(f"blobs/{name}", b"bytes")
    bucket.put("uploads/one", b"bytes")
    monkeypatch.setattr("app.adapters.s3.bucket._PAGE", 2)
    assert [key for key, _ in bucket.keys("blobs/")] == [f"blobs/{name}" for name in "abcde"]
    assert len(list(bucket.keys())) == 6
    assert all(abs(changed - datetime.now(UTC)) < timedelta(minutes=5) for _, changed in bucket.keys())


def test_a_bucket_that_is_not_there_is_an_error_and_not_a_missing_object(s3_server: S3Server) -> None:
    bucket = Bucket(S3Address.parse(s3_server.store_url(next(names))))
    with pytest.raises(StoreUnavailable, match="no such bucket"):
        bucket.require()
    with pytest.raises(StoreUnavailable, match="no such bucket"):
        bucket.open_multipart("blobs/one")
    bucket.close()


def test_a_wrong_secret_is_refused_and_stays_out_of_the_error(s3_server: S3Server) -> None:
    text = s3_server.store_url(next(names)).replace("images-secret", "a-wrong-secret")
    bucket = Bucket(S3Address.parse(text))
    with pytest.raises(StoreUnavailable) as refusal:
        bucket.open_multipart("blobs/one")
    assert str(refusal.value) == "the object store refuses the request: SignatureDoesNotMatch"
    bucket.close()
