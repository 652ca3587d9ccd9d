"""Buckets of a real MinIO with the keys that `images migrate` creates, and no others."""

from contextlib import closing
from functools import cache

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.keys import create_keys
from app.s3_address import S3Address, S3Key
from tests.servers.minio import GATEWAY_SECRET, UPLOAD_SECRET


@cache
def with_limited_keys(owner: S3Address) -> S3Address:
    """Makes the bucket, once; gives its address with a key of its own that may do what a gateway needs."""
    with closing(Bucket(owner)) as bucket:
        bucket.make()
    limited = owner.with_key(S3Key(f"gateway-{owner.bucket}", GATEWAY_SECRET))
    create_keys(limited, upload_key_of(owner), S3Key(owner.key, owner.secret))
    return limited


def empty(bucket: Bucket) -> None:
    """Deletes every object: all tests share a server, which would keep gigabytes."""
    for key, _ in list(bucket.keys()):
        bucket.delete(key)


def upload_key_of(address: S3Address) -> S3Key:
    """The key that signs part URLs for a bucket with limited keys."""
    return S3Key(f"upload-{address.bucket}", UPLOAD_SECRET)
