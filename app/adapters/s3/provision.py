"""Prepares a bucket at start-up: creates it, checks that it is writable, and sets its CORS rules."""

import html
from collections.abc import Sequence

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.errors import NotOffered
from app.errors import StoreUnavailable
from app.object_keys import new_upload_key

_OURS = "image-gateway"


def provision(bucket: Bucket, allowed_origins: Sequence[str]) -> Sequence[str]:
    """Create the bucket if there is none, write to it, and allow pages of these origins to use its URLs.

    Returns sentences for the operator about what could not be done here, and where it has to be done.
    Raises StoreUnavailable, StoreFull.
    """
    bucket.make()
    probe = new_upload_key()
    bucket.put(probe, b"1")
    bucket.delete(probe)
    return [*_versions(bucket), *_allow(bucket, allowed_origins)]


def _versions(bucket: Bucket) -> Sequence[str]:
    try:
        kept = bucket.is_versioned()
    except StoreUnavailable:
        # A key that may only read and write objects may not ask this. Such a bucket works anyway.
        return []
    return ["The bucket keeps old versions, so deleted objects still use space. Disable versioning."] if kept else []


def _allow(bucket: Bucket, origins: Sequence[str]) -> Sequence[str]:
    if not origins:
        return []
    named = ", ".join(origins)
    rules = cors_rules(origins)
    try:
        there = bucket.cors()
        # Rules that another program or person set for this bucket must not be replaced.
        if there and f"<ID>{_OURS}</ID>".encode() not in there:
            return [f"The bucket already has CORS rules. They must allow {named} to GET and PUT, and to read ETag."]
        bucket.set_cors(rules)
    except NotOffered:
        return [f"The store has no CORS rules per bucket. MINIO_API_CORS_ALLOW_ORIGIN must include {named}."]
    except StoreUnavailable:
        return [f"This key can't set CORS rules. The bucket must allow {named} to GET and PUT, and to read ETag."]
    return []


def cors_rules(origins: Sequence[str]) -> bytes:
    """Rules that allow pages of these origins to send parts and read objects (Amazon S3 API, "PutBucketCors")."""
    allowed = "".join(f"<AllowedOrigin>{html.escape(origin)}</AllowedOrigin>" for origin in origins)
    return (
        '<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CORSRule>'
        f"<ID>{_OURS}</ID>{allowed}"
        "<AllowedMethod>GET</AllowedMethod><AllowedMethod>HEAD</AllowedMethod><AllowedMethod>PUT</AllowedMethod>"
        "<AllowedHeader>*</AllowedHeader>"
        "<ExposeHeader>ETag</ExposeHeader><ExposeHeader>Content-Range</ExposeHeader>"
        "<MaxAgeSeconds>3600</MaxAgeSeconds></CORSRule></CORSConfiguration>"
    ).encode()
