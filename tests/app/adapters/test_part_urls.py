"""Attacks by members of one project on what others keep in the same S3 store, through the part URLs that they get."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import httpx
import pytest

from app.adapters.chosen import storage_of
from app.adapters.s3.bucket import Bucket
from app.catalog.uploads import handle_of, sweep
from app.lifecycle import FailureCode, ImageStatus, UploadState
from app.object_keys import new_blob_key, new_upload_key
from app.s3_address import S3Address
from app.sizes import MIB
from tests.app.conftest import StartGateway
from tests.servers.minio import Minio
from tests.support.gateway import MEMBER, Gateway, until
from tests.support.s3_places import upload_key_of, with_limited_keys

pytestmark = pytest.mark.anyio
names = (f"part-urls-{number}" for number in count())


@pytest.fixture
def owner(minio: Minio) -> S3Address:
    """The bucket of a gateway, for the administrator of the store."""
    return S3Address.parse(minio.store_url(next(names)))


@pytest.fixture
def bucket(owner: S3Address) -> Iterator[Bucket]:
    """The same, as the gateway itself uses it."""
    with closing(Bucket(with_limited_keys(owner))) as bucket:
        yield bucket


@pytest.fixture
async def stored(start_gateway: StartGateway, minio: Minio, bucket: Bucket) -> AsyncIterator[Gateway]:
    """A gateway whose images are kept there."""
    address, key = bucket.address, upload_key_of(bucket.address)
    url = minio.store_url(address.bucket, key=f"{address.key}:{address.secret}")
    async with start_gateway(object_store=url, object_store_upload_key=f"{key.name}:{key.secret}") as gateway:
        yield gateway


def url_of(image: dict[str, Any]) -> str:
    url: str = image["upload"]["parts"]["nodes"][0]["request"]["url"]
    return url


async def put(url: str, content: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.put(url, content=content, headers=named)


async def test_a_member_can_not_copy_what_another_project_or_bucket_holds(
    stored: Gateway, bucket: Bucket, minio: Minio
) -> None:
    secret = os.urandom(5 * MIB)
    victims = [new_blob_key(), new_upload_key()]
    for key in victims:
        bucket.put(key, secret)
    with closing(Bucket(S3Address.parse(minio.store_url("of-another-gateway")))) as beside:
        beside.make()
        beside.put("blobs/one.qcow2", secret)
    sources = [f"/{bucket.address.bucket}/{key}" for key in victims] + ["/of-another-gateway/blobs/one.qcow2"]
    image = await stored.create(MEMBER, upload={"size": 1024})

    for source in sources:
        for more in ({}, {"x_amz_copy_source_range": "bytes=0-1023"}):
            answer = await put(url_of(image), bytes(1024), x_amz_copy_source=source, **more)
            assert answer.status_code == 403
            assert secret[:16] not in answer.content

    mistake = await stored.mistake("completeUpload", {"uploadId": image["upload"]["id"]}, MEMBER)
    assert (mistake["code"], mistake["message"]) == ("NOT_READY", "1 of 1 part is missing: 1.")
    assert (await put(url_of(image), bytes(1024))).status_code == 200
    completed = await stored.mutate("completeUpload", {"uploadId": image["upload"]["id"]}, MEMBER)
    assert completed["userErrors"] == []
    upload = await stored.upload(image["upload"]["id"])
    assert bucket.read(upload.source.key, 0, 1024) == bytes(1024)


async def wrong_part(bucket: Bucket, gateway: Gateway, image: dict[str, Any], size: int = 5 * MIB) -> None:
    """Part 1 of an upload has more bytes than were declared, as if a way had been found to send them."""
    upload = await gateway.upload(image["upload"]["id"])
    bucket.put_part(upload.source.key, upload.reference, 1, partial(iter, [bytes(size)]), size)


@pytest.mark.parametrize("found_by", ["completion", "a question", "the sweep"])
async def test_a_part_of_the_wrong_size_ends_the_upload_and_frees_its_bytes(
    stored: Gateway, bucket: Bucket, found_by: str
) -> None:
    image = await stored.create(MEMBER, upload={"size": 1024})
    await wrong_part(bucket, stored, image)
    message = "Part 1 has 5 MiB, but it should have 1 KiB. The upload was refused."
    hint = "Create the image again and send every part exactly as its `request` says."

    match found_by:
        case "completion":
            payload = await stored.mutate("completeUpload", {"uploadId": image["upload"]["id"]}, MEMBER)
            (mistake,) = payload["userErrors"]
            assert mistake == {"code": "CONFLICT", "message": message, "field": ["uploadId"], "hint": hint}
            assert payload["image"] == {"id": image["id"]}
        case "a question":
            document = """query ($id: ID!) { image(by: {id: $id}) { upload { receivedBytes
                all: parts(first: 9) { nodes { status request { url } } }
                missing: parts(first: 9, status: MISSING) { totalCount } } } }"""
            found = await stored.ask(document, MEMBER, id=image["id"])
            assert found["image"]["upload"] == {
                "receivedBytes": 0,
                "all": {"nodes": [{"status": "DISCARDED", "request": None}]},
                "missing": {"totalCount": 0},
            }
        case "the sweep":
            with closing(storage_of(stored.settings)) as storage:
                await sweep(replace(stored.catalogue, store=storage.store))

    row, upload = await stored.image(image["id"]), await stored.upload(image["upload"]["id"])
    assert (row.status, row.failure_code) == (ImageStatus.ERROR, FailureCode.UPLOAD_REFUSED)
    assert (row.failure_message, row.reserved_size, row.failure_retriable) == (message, 0, False)
    assert (upload.state, upload.source.kept) == (UploadState.REFUSED, False)
    again = await stored.mistake("completeUpload", {"uploadId": image["upload"]["id"]}, MEMBER, image=image)
    assert again == {"code": "CONFLICT", "message": message, "field": ["uploadId"], "hint": hint}
    async with stored.working():
        await until(stored.idle)
    assert bucket.multiparts(handle_of(upload).key) == []
    assert list(bucket.keys()) == []


async def test_part_urls_and_downloads_are_signed_by_different_keys(stored: Gateway, bucket: Bucket) -> None:
    image = await stored.create(MEMBER, upload={"size": 1024})

    credential = httpx.URL(url_of(image)).params["X-Amz-Credential"]

    assert credential.split("/")[0] == upload_key_of(bucket.address).name != bucket.address.key
