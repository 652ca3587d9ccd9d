"""The contract of every object store, whatever its backend is.

A test module of an adapter subclasses ObjectStoreContract and provides the fixture `place`.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urljoin

import httpx
import pytest

from app.errors import ObjectMissing, PartsMissing, UploadClosed
from app.ports import HEAD_BYTES, ObjectStore, SignedRequest, UploadHandle

T = TypeVar("T")


@dataclass
class StorePlace:
    """A store to be tried. `part_size` is the least it takes, in bytes; `base_url` completes its addresses.

    `reads_open_uploads` says whether it has the first bytes of an upload before this is sealed.
    """

    store: ObjectStore
    base_url: str
    part_size: int
    reads_open_uploads: bool = False
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))
    runner: asyncio.Runner = field(default_factory=asyncio.Runner)

    def do(self, call: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(call)

    def close(self) -> None:
        self.http.close()
        self.runner.close()

    def open(self, size: int, key: str = "uploads/one") -> UploadHandle:
        return self.do(self.store.open_upload(key, size, self.part_size))

    def send(self, request: SignedRequest, body: bytes | Iterator[bytes] = b"", **headers: str) -> httpx.Response:
        """Makes a signed request with this body."""
        url = urljoin(self.base_url, request.url)
        return self.http.request(request.method, url, content=body, headers={**dict(request.headers), **headers})

    def send_part(self, upload: UploadHandle, number: int, content: bytes) -> httpx.Response:
        """Sends part `number` of the bytes that the whole upload is to become."""
        start = upload.part_offset(number)
        return self.send(
            self.store.sign_part(upload, number, soon()), content[start : start + upload.part_length(number)]
        )

    def put_object(self, content: bytes, key: str = "uploads/one") -> UploadHandle:
        upload = self.open(len(content), key)
        for number in range(1, upload.part_count + 1):
            assert self.send_part(upload, number, content).is_success
        self.do(self.store.seal_upload(upload))
        return upload

    def content(self, key: str = "uploads/one") -> bytes:
        return self.do(joined(self.store.read(key)))

    def keys(self) -> list[str]:
        return [key for key, _ in self.changes()]

    def changes(self) -> list[tuple[str, datetime]]:
        return self.do(listed(self.store))

    def empty(self) -> None:
        """Deletes every object, and aborts every upload."""
        for key in self.keys():
            self.do(self.store.delete(key))


async def listed(store: ObjectStore) -> list[tuple[str, datetime]]:
    return [item async for batch in store.batches() for item in batch]


async def joined(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=5)


class ObjectStoreContract:
    """The tests. Parts are sent by HTTP to the addresses that the store signs."""

    @pytest.fixture
    def content(self, place: StorePlace) -> bytes:
        """Three parts, the last of them short."""
        return os.urandom(2 * place.part_size + 1001)

    def test_parts_sent_in_any_order_become_the_object(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        for number in (3, 1, 2):
            answer = place.send_part(upload, number, content)
            assert answer.status_code == 200
            assert answer.headers["etag"]
        place.do(place.store.seal_upload(upload))
        assert place.content() == content

    def test_the_size_of_an_object_is_known_without_reading_it(self, place: StorePlace) -> None:
        place.put_object(b"bytes", "uploads/one")

        assert place.do(place.store.size("uploads/one")) == 5
        with pytest.raises(ObjectMissing):
            place.do(place.store.size("uploads/two"))

    def test_the_head_of_an_object_is_its_first_bytes(self, place: StorePlace) -> None:
        content = os.urandom(HEAD_BYTES + 1)
        place.put_object(content, "uploads/long")
        place.put_object(b"bytes", "uploads/short")
        place.put_object(b"", "uploads/empty")

        heads = [place.do(place.store.head(f"uploads/{name}")) for name in ("long", "short", "empty", "missing")]

        assert heads == [content[:HEAD_BYTES], b"bytes", b"", b""]

    def test_the_head_of_an_open_upload_is_what_has_arrived_if_it_can_be_read(self, place: StorePlace) -> None:
        content = os.urandom(2 * place.part_size)
        upload = place.open(len(content))
        assert not any(place.do(place.store.head(upload.key)))
        place.send_part(upload, 1, content)

        arrived = content[: place.part_size] + bytes(place.part_size)
        expected = arrived[:HEAD_BYTES] if place.reads_open_uploads else b""
        assert place.do(place.store.head(upload.key)) == expected

    def test_one_part_may_be_the_whole_upload(self, place: StorePlace) -> None:
        content = os.urandom(1234)
        place.put_object(content)
        assert place.content() == content

    def test_an_upload_of_no_bytes_becomes_an_empty_object(self, place: StorePlace) -> None:
        place.put_object(b"")
        assert place.content() == b""

    def test_the_receipt_tells_which_parts_are_here(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        nothing = place.do(place.store.receipt(upload))
        assert (list(nothing.parts), nothing.received_bytes, nothing.sealed) == ([], 0, False)
        assert nothing.last_byte_at is None

        place.send_part(upload, 3, content)
        place.send_part(upload, 1, content)
        some = place.do(place.store.receipt(upload))
        assert (list(some.parts), some.received_bytes) == ([1, 3], place.part_size + 1001)
        assert some.last_byte_at is not None
        assert abs(some.last_byte_at - datetime.now(UTC)) < timedelta(minutes=5)

    def test_the_receipt_of_a_sealed_upload_says_so(self, place: StorePlace, content: bytes) -> None:
        upload = place.put_object(content)
        receipt = place.do(place.store.receipt(upload))
        assert receipt.sealed
        assert (list(receipt.parts), receipt.received_bytes) == ([1, 2, 3], len(content))

    def test_what_has_missing_parts_is_not_sealed(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        place.send_part(upload, 2, content)
        with pytest.raises(PartsMissing) as refusal:
            place.do(place.store.seal_upload(upload))
        assert refusal.value.numbers == (1, 3)
        with pytest.raises(ObjectMissing):
            place.content()
        for number in (1, 3):
            place.send_part(upload, number, content)
        place.do(place.store.seal_upload(upload))
        assert place.content() == content

    def test_sealing_twice_is_harmless(self, place: StorePlace, content: bytes) -> None:
        upload = place.put_object(content)
        place.do(place.store.seal_upload(upload))
        assert place.content() == content

    def test_a_part_sent_again_replaces_all_of_itself(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        for number in (1, 2, 3):
            place.send_part(upload, number, content)
        again = content[: place.part_size] + bytes(place.part_size) + content[2 * place.part_size :]
        place.send_part(upload, 2, again)
        place.do(place.store.seal_upload(upload))
        assert place.content() == again

    def test_a_sealed_upload_takes_no_bytes(self, place: StorePlace, content: bytes) -> None:
        upload = place.put_object(content)
        late = place.send_part(upload, 1, bytes(place.part_size))
        assert 400 <= late.status_code < 500
        assert place.content() == content

    def test_an_aborted_upload_takes_no_bytes_and_is_forgotten(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        place.send_part(upload, 1, content)
        for _ in range(2):
            place.do(place.store.abort_upload(upload))
        assert 400 <= place.send_part(upload, 2, content).status_code < 500
        assert place.keys() == []
        with pytest.raises(UploadClosed):
            place.do(place.store.receipt(upload))
        with pytest.raises(UploadClosed):
            place.do(place.store.seal_upload(upload))

    def test_aborting_leaves_a_sealed_upload_alone(self, place: StorePlace, content: bytes) -> None:
        upload = place.put_object(content)
        place.do(place.store.abort_upload(upload))
        assert place.content() == content

    @pytest.mark.parametrize("difference", [-1, 1])
    def test_a_part_of_another_length_is_refused(self, place: StorePlace, content: bytes, difference: int) -> None:
        upload = place.open(len(content))
        request = place.store.sign_part(upload, 1, soon())
        answer = place.send(request, bytes(place.part_size + difference))
        assert 400 <= answer.status_code < 500
        assert list(place.do(place.store.receipt(upload)).parts) == []

    def test_a_part_of_undeclared_length_is_refused(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        request = place.store.sign_part(upload, 3, soon())
        assert place.send(request, iter([content[-1001:]])).status_code in (403, 411)
        assert list(place.do(place.store.receipt(upload)).parts) == []

    def test_an_expired_address_is_refused(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        request = place.store.sign_part(upload, 3, datetime.now(UTC) - timedelta(minutes=5))
        assert place.send(request, content[-1001:]).status_code == 403
        assert list(place.do(place.store.receipt(upload)).parts) == []

    def test_the_address_of_one_part_does_for_no_other(self, place: StorePlace, content: bytes) -> None:
        upload = place.open(len(content))
        first, second = (place.store.sign_part(upload, number, soon()) for number in (1, 2))
        differing = next(n for n, (a, b) in enumerate(zip(first.url, second.url, strict=False)) if a != b)
        forged = first.url[:differing] + second.url[differing] + first.url[differing + 1 :]
        answer = place.send(SignedRequest("PUT", forged, first.expires_at), content[: place.part_size])
        assert answer.status_code == 403
        assert list(place.do(place.store.receipt(upload)).parts) == []

    def test_an_object_is_downloaded_whole_or_in_a_range(self, place: StorePlace, content: bytes) -> None:
        place.put_object(content)
        request = place.store.sign_download("uploads/one", "disk.qcow2", soon())
        whole = place.send(request)
        assert (whole.status_code, whole.content) == (200, content)
        assert whole.headers["content-length"] == str(len(content))
        assert whole.headers["etag"]
        assert "disk.qcow2" in whole.headers["content-disposition"]
        some = place.send(request, range="bytes=1000-1999")
        assert (some.status_code, some.content) == (206, content[1000:2000])
        assert some.headers["content-range"] == f"bytes 1000-1999/{len(content)}"
        assert place.send(request, range=f"bytes={len(content)}-").status_code == 416

    def test_a_download_that_has_expired_is_refused(self, place: StorePlace) -> None:
        place.put_object(b"bytes")
        past = datetime.now(UTC) - timedelta(minutes=5)
        assert place.send(place.store.sign_download("uploads/one", "disk", past)).status_code == 403

    def test_a_deleted_object_is_gone(self, place: StorePlace) -> None:
        place.put_object(b"bytes")
        for _ in range(2):
            place.do(place.store.delete("uploads/one"))
        with pytest.raises(ObjectMissing):
            place.content()
        request = place.store.sign_download("uploads/one", "disk", soon())
        assert place.send(request).status_code == 404
        assert place.keys() == []

    def test_keys_are_those_of_objects_and_of_open_uploads(self, place: StorePlace) -> None:
        before = datetime.now(UTC) - timedelta(minutes=5)
        place.put_object(b"bytes", "uploads/sealed")
        place.open(1000, "uploads/open")
        keys = place.changes()
        assert sorted(key for key, _ in keys) == ["uploads/open", "uploads/sealed"]
        assert all(before < changed < soon() for _, changed in keys)

    def test_a_store_that_works_passes_its_check(self, place: StorePlace) -> None:
        place.do(place.store.check())
        assert place.keys() == []
