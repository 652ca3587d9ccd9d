"""What a signed part URL is good for in versitygw, and that keys with less than all rights work there as in MinIO."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta

import httpx
import minio
import pytest

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.signing import Signer
from app.errors import StoreUnavailable
from app.s3_address import S3Address
from tests.servers.versitygw import KEY, SECRET, Versitygw

BUCKET = "keys-of-two"
VICTIM = "blobs/victim"
GATEWAY = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
LISTING = ["s3:ListBucket", "s3:ListBucketMultipartUploads"]


def allow(user: str, actions: list[str], resource: str) -> dict[str, object]:
    arn = f"arn:aws:s3:::{BUCKET}{resource}"
    return {"Effect": "Allow", "Principal": {"AWS": [user]}, "Action": actions, "Resource": [arn]}


def create_user(server: Versitygw, name: str) -> None:
    admin = {
        "ADMIN_ACCESS_KEY_ID": KEY,
        "ADMIN_SECRET_ACCESS_KEY": SECRET,
        "ADMIN_ENDPOINT_URL": server.endpoint,
        "ADMIN_REGION": "us-east-1",
    }
    command = [
        str(server.program),
        "admin",
        "--allow-insecure",
        "create-user",
        "--access",
        name,
        "--secret",
        secret(name),
        "--role",
        "user",
    ]
    subprocess.run(command, env=os.environ | admin, check=True, capture_output=True, timeout=30)


def secret(name: str) -> str:
    return f"secret-of-{name}"


def bucket_for(server: Versitygw, name: str) -> Bucket:
    return Bucket(address_for(server, name))


def address_for(server: Versitygw, name: str) -> S3Address:
    return S3Address.parse(f"s3+http://{name}:{secret(name)}@127.0.0.1:{server.port}/{BUCKET}")


@pytest.fixture(scope="module")
def server(versitygw: Versitygw) -> Versitygw:
    """versitygw with a user for the gateway, one for parts, and an object that is none of an uploader's business."""
    with closing(Bucket(S3Address.parse(versitygw.store_url(BUCKET)))) as bucket:
        bucket.make()
        bucket.put(VICTIM, b"of another tenant")
    for name in ("gateway", "parts"):
        create_user(versitygw, name)
    rights = [
        allow("gateway", GATEWAY, "/*"),
        allow("gateway", LISTING, ""),
        allow("parts", ["s3:PutObject"], "/uploads/*"),
    ]
    root = minio.Minio(f"127.0.0.1:{versitygw.port}", KEY, SECRET, secure=False, region="us-east-1")
    root.set_bucket_policy(BUCKET, json.dumps({"Version": "2012-10-17", "Statement": rights}))
    return versitygw


@pytest.fixture
def gateway(server: Versitygw) -> Iterator[Bucket]:
    with closing(bucket_for(server, "gateway")) as bucket:
        yield bucket


@pytest.mark.parametrize("signer", ["gateway", "parts"])
def test_a_part_url_copies_nothing_whoever_signed_it(server: Versitygw, gateway: Bucket, signer: str) -> None:
    reference = gateway.open_multipart("uploads/one")
    now = datetime.now(UTC)
    query = {"partNumber": "1", "uploadId": reference}
    signed = Signer(address_for(server, signer))
    url = signed.sign("PUT", "uploads/one", query, at=now, lifetime=timedelta(minutes=5), length=17)

    copied = httpx.put(url, content=bytes(17), headers={"x-amz-copy-source": f"/{BUCKET}/{VICTIM}"})
    sent = httpx.put(url, content=b"of this uploader!")

    assert (copied.status_code, sent.status_code) == (403, 200)
    assert "HeadersNotSigned" in copied.text
    gateway.complete("uploads/one", reference, [(1, part.etag) for part in gateway.parts("uploads/one", reference)])
    assert gateway.read("uploads/one", 0, 17) == b"of this uploader!"


def test_the_key_of_parts_reads_lists_and_deletes_nothing(server: Versitygw, gateway: Bucket) -> None:
    gateway.put("uploads/two", b"bytes")

    with closing(bucket_for(server, "parts")) as parts:
        for attempt in (
            lambda: parts.read(VICTIM, 0, 2),
            lambda: parts.read("uploads/two", 0, 2),
            lambda: list(parts.keys()),
            lambda: parts.delete("uploads/two"),
        ):
            with pytest.raises(StoreUnavailable, match="AccessDenied"):
                attempt()

    assert gateway.read("uploads/two", 0, 5) == b"bytes"
