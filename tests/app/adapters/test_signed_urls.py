"""What a client may change about a signed URL: docs/signed-urls.md says what comes of it, and this tries every row."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import pytest

from app.adapters.folder.store import FolderStore
from app.adapters.s3.bucket import Bucket
from app.adapters.s3.connections import Connections
from app.adapters.s3.policies import gateway_policy, upload_policy
from app.adapters.s3.store import S3Store
from app.s3_address import S3Address
from tests.servers.minio import Minio
from tests.support.folder_server import SECRET, served
from tests.support.object_store_contract import StorePlace, soon
from tests.support.s3_places import upload_key_of, with_limited_keys
from tests.support.signed_url_attempts import (
    BODY,
    DOWNLOADS,
    OTHER_BUCKET,
    OTHERS,
    OTHERS_BLOB,
    OTHERS_UPLOAD,
    PARTS,
    Attempt,
    Request,
)

DOCUMENT = (Path(__file__).parents[3] / "docs" / "signed-urls.md").read_text()
MINIO, FOLDER = "MinIO", "folder"
PART_SIZE = 5 * 1024 * 1024
# Of an answer, what says how the bytes are to be understood.
_MEANING = ("content-type", "content-disposition", "content-length", "content-encoding", "location", "cache-control")


def documented(heading: str) -> Mapping[str, Mapping[str, str]]:
    """The rows of the table below a heading: what is written for each store, by what is tried."""
    lines = DOCUMENT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("| ")]
    assert rows[0][:3] == ["tried", "MinIO", "folder"]
    return {tried: {MINIO: minio, FOLDER: folder} for tried, minio, folder, *_ in rows[1:] if not tried.startswith("-")}


class Tried:
    """A store with one object of its own, and others' objects in and beside it."""

    def __init__(self, place: StorePlace, owner: S3Address | None = None) -> None:
        self.place = place
        self.owner = owner
        self.bucket = owner.bucket if owner else ""
        self._numbers = count()

    def part(self, attempt: Attempt) -> str:
        """What comes of an attempt with a part URL. Fails when it reveals or changes anything of others."""
        upload = self.place.open(len(BODY), f"uploads/one-{next(self._numbers)}")
        plain = self._request("PUT", self.place.store.sign_part(upload, 1, soon()).url, BODY)

        answer = self._make(attempt(plain))

        arrived = list(self.place.do(self.place.store.receipt(upload)).parts)
        assert OTHERS not in answer.content
        self.assert_others_are_as_they_were()
        if answer.is_error:
            assert arrived == []
            self.place.do(self.place.store.abort_upload(upload))
            return str(answer.status_code)
        assert arrived == [1], answer.content
        self.place.do(self.place.store.seal_upload(upload))
        assert self.place.content(upload.key) == BODY
        assert self._described(upload.key) == self._described("uploads/plain")
        return "no effect"

    def download(self, attempt: Attempt) -> str:
        """What comes of an attempt with a download URL."""
        plain = self._request("GET", self.place.store.sign_download("uploads/plain", "disk.qcow2", soon()).url)
        expected = self._make(plain)

        answer = self._make(attempt(plain))

        self.assert_others_are_as_they_were()
        assert self.place.content("uploads/plain") == BODY
        assert OTHERS not in answer.content
        if answer.is_error:
            return str(answer.status_code)
        if answer.status_code == 206:
            assert answer.content == BODY[10:20]
            return "those bytes"
        assert {name: answer.headers.get(name) for name in _MEANING} == {
            name: expected.headers.get(name) for name in _MEANING
        }
        assert answer.content in (BODY, b"")
        return "no effect" if answer.content else "no body"

    def assert_others_are_as_they_were(self) -> None:
        for key in (OTHERS_BLOB, OTHERS_UPLOAD):
            assert self.place.content(key) == OTHERS
        assert {key for key in self.place.keys() if key.startswith("blobs/")} == {OTHERS_BLOB}

    def _described(self, key: str) -> Any:
        """What MinIO keeps of an object beside its bytes, seen by the owner."""
        if self.owner is None:
            return None
        with closing(Connections(self.owner, 1)) as connections:
            client = connections.orders
            found = client.stat_object(self.owner.bucket, key)
            tags = client.get_object_tags(self.owner.bucket, key)
        passing = ("date", "etag", "last-modified", "x-amz-request-id", "x-amz-id-2", "x-ratelimit-remaining")
        return dict(tags or {}), {
            name.lower(): value for name, value in (found.metadata or {}).items() if name.lower() not in passing
        }

    def _request(self, method: str, url: str, body: bytes = b"") -> Request:
        return Request(method, urljoin(self.place.base_url, url), self.bucket, body)

    def _make(self, request: Request) -> httpx.Response:
        return self.place.http.request(
            request.method, request.url, content=request.body or None, headers=dict(request.headers)
        )


@contextmanager
def tried_minio(minio: Minio, bucket: str, *, limited: bool = True) -> Iterator[Tried]:
    """A bucket with the two keys that it should have, or with that of MinIO's owner alone."""
    owner = S3Address.parse(minio.store_url(bucket))
    address = with_limited_keys(owner)
    store = S3Store(address, upload_key=upload_key_of(owner)) if limited else S3Store(owner)
    with closing(store), closing(StorePlace(store, "", PART_SIZE)) as place, closing(Bucket(owner)) as bucket_:
        for key in (OTHERS_BLOB, OTHERS_UPLOAD):
            bucket_.put(key, OTHERS)
        with closing(Bucket(S3Address.parse(minio.store_url(OTHER_BUCKET)))) as beside:
            beside.make()
            beside.put("one", OTHERS)
        place.put_object(BODY, "uploads/plain")
        yield Tried(place, owner)


@pytest.fixture(scope="module", params=[MINIO, FOLDER])
def kind(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture(scope="module")
def tried(kind: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tried]:
    if kind == MINIO:
        with tried_minio(request.getfixturevalue("minio"), "signed-urls") as found:
            yield found
        return
    store = FolderStore(tmp_path_factory.mktemp("signed-urls"), SECRET)
    with closing(store), served(store) as url, closing(StorePlace(store, url, PART_SIZE)) as place:
        for key in (OTHERS_BLOB, OTHERS_UPLOAD):
            path = store.path(key)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(OTHERS)
        place.put_object(BODY, "uploads/plain")
        yield Tried(place)


def test_every_attempt_has_its_row_in_the_document_and_the_other_way_round() -> None:
    assert list(documented("Part URLs")) == list(PARTS)
    assert list(documented("Download URLs")) == list(DOWNLOADS)


@pytest.mark.parametrize("attempt", PARTS)
def test_of_a_part_url_comes_what_the_document_says(tried: Tried, kind: str, attempt: str) -> None:
    assert tried.part(PARTS[attempt]) == documented("Part URLs")[attempt][kind]


@pytest.mark.parametrize("attempt", DOWNLOADS)
def test_of_a_download_url_comes_what_the_document_says(tried: Tried, kind: str, attempt: str) -> None:
    assert tried.download(DOWNLOADS[attempt]) == documented("Download URLs")[attempt][kind]


def test_signed_by_the_owner_of_the_store_a_part_url_would_copy_anything(minio: Minio) -> None:
    """The reason for the second key."""
    with tried_minio(minio, "signed-by-the-owner", limited=False) as tried:
        upload = tried.place.open(len(BODY), "uploads/mine")
        url = tried.place.store.sign_part(upload, 1, soon()).url

        answer = httpx.put(url, content=BODY, headers={"x-amz-copy-source": f"/{OTHER_BUCKET}/one"})

        assert answer.status_code == 200
        assert tried.owner is not None
        with closing(Bucket(tried.owner)) as bucket:
            (part,) = bucket.parts(upload.key, upload.reference)
            assert part.size == len(OTHERS)
            bucket.complete(upload.key, upload.reference, [(1, part.etag)])
            assert bucket.read(upload.key, 0, part.size) == OTHERS


def test_the_policies_in_the_document_are_those_that_the_gateway_creates() -> None:
    address = S3Address("store", True, "BUCKET", "key", "secret")
    written = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]
    assert written == [upload_policy(address), gateway_policy(address)]
