"""What has to be so before a bucket is used, done at start-up: it is there, takes bytes, and lets browsers in."""

import html
from collections.abc import Sequence

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.errors import NotOffered
from app.errors import StoreUnavailable
from app.object_keys import new_upload_key

_OURS = "image-gateway"


def provision(bucket: Bucket, allowed_origins: Sequence[str]) -> Sequence[str]:
    """Make the bucket if there is none, write into it, and let pages of these origins use its addresses.

    Gives sentences for the operator: what could not be done here, and where it has to be done.
    Raises StoreUnavailable, StoreFull.
    """
    bucket.make()
    probe = new_upload_key()
    bucket.put(probe, b"1")
    bucket.delete(probe)
    return [*_versions(bucket), *_let_in(bucket, allowed_origins)]


def _versions(bucket: Bucket) -> Sequence[str]:
    try:
        kept = bucket.is_versioned()
    except StoreUnavailable:
        # Whoever may only read and write objects may not ask. Such a bucket works all the same.
        return []
    return ["The bucket keeps old versions: what is deleted goes on taking room. Turn versioning off."] if kept else []


def _let_in(bucket: Bucket, origins: Sequence[str]) -> Sequence[str]:
    if not origins:
        return []
    named = ", ".join(origins)
    rules = cors_rules(origins)
    try:
        there = bucket.cors()
        # Rules that somebody else wrote for this bucket are not ours to replace.
        if there and f"<ID>{_OURS}</ID>".encode() not in there:
            return [f"The bucket has CORS rules of its own: they have to let {named} GET and PUT, and read ETag."]
        bucket.set_cors(rules)
    except NotOffered:
        return [f"The store has no CORS rules for a bucket: MINIO_API_CORS_ALLOW_ORIGIN has to let in {named}."]
    except StoreUnavailable:
        return [f"CORS rules can't be set with this key: the bucket has to let {named} GET and PUT, and read ETag."]
    return []


def cors_rules(origins: Sequence[str]) -> bytes:
    """Rules that let pages of these origins send parts and read objects (Amazon S3 API, "PutBucketCors")."""
    allowed = "".join(f"<AllowedOrigin>{html.escape(origin)}</AllowedOrigin>" for origin in origins)
    return (
        '<CORSConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><CORSRule>'
        f"<ID>{_OURS}</ID>{allowed}"
        "<AllowedMethod>GET</AllowedMethod><AllowedMethod>HEAD</AllowedMethod><AllowedMethod>PUT</AllowedMethod>"
        "<AllowedHeader>*</AllowedHeader>"
        "<ExposeHeader>ETag</ExposeHeader><ExposeHeader>Content-Range</ExposeHeader>"
        "<MaxAgeSeconds>3600</MaxAgeSeconds></CORSRule></CORSConfiguration>"
    ).encode()
