"""What someone who has a signed URL can try: the rows of the tables in docs/signed-urls.md, by their first column."""

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

BODY = bytes(range(250)) * 4
OTHERS = b"what another tenant has stored"

# Objects that stand for others' in each attempt, below the bucket or in another one.
OTHERS_BLOB, OTHERS_UPLOAD = "blobs/of-another.qcow2", "uploads/of-another"
OTHER_BUCKET = "of-others"

_KEY_OF_CUSTOMER = b"k" * 32
_SSE_C = {
    "x-amz-server-side-encryption-customer-algorithm": "AES256",
    "x-amz-server-side-encryption-customer-key": base64.b64encode(_KEY_OF_CUSTOMER).decode(),
    "x-amz-server-side-encryption-customer-key-MD5": base64.b64encode(
        hashlib.md5(_KEY_OF_CUSTOMER, usedforsecurity=False).digest()
    ).decode(),
}


@dataclass(frozen=True)
class Request:
    """A request as it goes over the wire; `bucket` is where the signed URL leads."""

    method: str
    url: str
    bucket: str = ""
    body: bytes | Iterator[bytes] = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Attempt = Callable[[Request], Request]


def headers(**given: str) -> Attempt:
    """With these headers added; underscores stand for dashes."""
    return with_headers({name.replace("_", "-"): value for name, value in given.items()})


def with_headers(given: Mapping[str, str]) -> Attempt:
    return lambda request: replace(request, headers={**request.headers, **given})


def copying(source: str, **more: str) -> Attempt:
    """With the name of an object as the source; `{}` stands for the bucket of the URL."""

    def attempt(request: Request) -> Request:
        return headers(x_amz_copy_source=source.format(request.bucket), **more)(request)

    return attempt


def method(name: str) -> Attempt:
    return lambda request: replace(request, method=name)


def query(*added: tuple[str, str]) -> Attempt:
    """With arguments at the end."""
    return _queried(lambda pairs: [*pairs, *added])


def before(*added: tuple[str, str]) -> Attempt:
    """With arguments in front."""
    return _queried(lambda pairs: [*added, *pairs])


def changed(value: str, *names: str) -> Attempt:
    """With another value for the arguments of these names, different in each store."""
    return _queried(lambda pairs: [(name, value if name in names else was) for name, was in pairs])


def without(*names: str) -> Attempt:
    return _queried(lambda pairs: [(name, value) for name, value in pairs if name not in names])


def path(change: Callable[[str], str]) -> Attempt:
    def attempt(request: Request) -> Request:
        parts = urlsplit(request.url)
        return replace(request, url=urlunsplit(parts._replace(path=change(parts.path))))

    return attempt


def both(*attempts: Attempt) -> Attempt:
    def attempt(request: Request) -> Request:
        for one in attempts:
            request = one(request)
        return request

    return attempt


def _queried(change: Callable[[list[tuple[str, str]]], list[tuple[str, str]]]) -> Attempt:
    def attempt(request: Request) -> Request:
        parts = urlsplit(request.url)
        pairs = change(parse_qsl(parts.query, keep_blank_values=True))
        return replace(request, url=urlunsplit(parts._replace(query=urlencode(pairs, quote_via=quote))))

    return attempt


def _body(body: bytes | Callable[[], Iterator[bytes]]) -> Attempt:
    return lambda request: replace(request, body=body if isinstance(body, bytes) else body())


def _forged(request: Request) -> Request:
    signed, _, signature = request.url.rpartition("=")
    return replace(request, url=f"{signed}={'0' * len(signature)}")


def _crc32(body: bytes) -> str:
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


def _md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()


_TRAILER = both(
    headers(
        x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        x_amz_decoded_content_length="2000",
        x_amz_trailer="x-amz-checksum-crc32",
    ),
    _body(b"7d0\r\n" + bytes(2000) + b"\r\n0\r\nx-amz-checksum-crc32:" + _crc32(bytes(2000)).encode() + b"\r\n\r\n"),
)

PARTS: Mapping[str, Attempt] = {
    # what others have stored
    "`x-amz-copy-source`: another project's blob": copying(f"/{{}}/{OTHERS_BLOB}"),
    "`x-amz-copy-source`, with `x-amz-copy-source-range`": copying(
        f"/{{}}/{OTHERS_BLOB}", x_amz_copy_source_range="bytes=0-9"
    ),
    "`x-amz-copy-source`: another project's upload": copying(f"/{{}}/{OTHERS_UPLOAD}"),
    "`x-amz-copy-source`: an object in another bucket": copying(f"/{OTHER_BUCKET}/one"),
    "`x-amz-copy-source`: no such object": copying("/{}/blobs/none"),
    # the signature
    "another signature": _forged,
    "`x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER`": _TRAILER,
    "the same with another signature": both(_forged, _TRAILER),
    "`x-amz-content-sha256: STREAMING-AWS4-HMAC-SHA256-PAYLOAD`": headers(
        x_amz_content_sha256="STREAMING-AWS4-HMAC-SHA256-PAYLOAD", x_amz_decoded_content_length="1000"
    ),
    "`x-amz-content-sha256` of another body": headers(x_amz_content_sha256=hashlib.sha256(b"").hexdigest()),
    "an `Authorization` header": headers(Authorization="AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host"),
    "`x-amz-security-token`": headers(x_amz_security_token="token"),
    # how long the part is
    "a shorter body": _body(BODY[:-1]),
    "a longer body": _body(BODY + b"1"),
    "`Transfer-Encoding: chunked`": _body(lambda: iter([BODY])),
    "`x-amz-decoded-content-length: 5`": headers(x_amz_decoded_content_length="5"),
    "`Content-MD5` of another body": headers(Content_MD5=_md5(b"")),
    "`x-amz-checksum-crc32` of the body": headers(x_amz_checksum_crc32=_crc32(BODY)),
    "`x-amz-checksum-crc32` of another body": headers(x_amz_checksum_crc32=_crc32(b"")),
    # what is stored next to the bytes
    "`x-amz-tagging`": headers(x_amz_tagging="public=yes"),
    "`x-amz-acl`, `x-amz-grant-read`": headers(
        x_amz_acl="public-read", x_amz_grant_read='uri="http://acs.amazonaws.com/groups/global/AllUsers"'
    ),
    "`x-amz-meta-*`": headers(x_amz_meta_a="b"),
    "`Content-Type`, `Cache-Control`, `Content-Disposition`": headers(
        Content_Type="text/html", Cache_Control="public", Content_Disposition="inline"
    ),
    "`x-amz-storage-class`": headers(x_amz_storage_class="REDUCED_REDUNDANCY"),
    "`x-amz-website-redirect-location`": headers(x_amz_website_redirect_location="https://elsewhere.example"),
    "`x-amz-server-side-encryption`": headers(x_amz_server_side_encryption="AES256"),
    "`x-amz-server-side-encryption: aws:kms`": headers(x_amz_server_side_encryption="aws:kms"),
    "`x-amz-server-side-encryption-customer-*`": with_headers(_SSE_C),
    "`x-amz-object-lock-*`": headers(
        x_amz_object_lock_mode="COMPLIANCE",
        x_amz_object_lock_retain_until_date="2099-01-01T00:00:00Z",
        x_amz_object_lock_legal_hold="ON",
    ),
    "`x-amz-request-payer`, `x-amz-expected-bucket-owner`": headers(
        x_amz_request_payer="requester", x_amz_expected_bucket_owner="123456789012"
    ),
    "`If-Match`, `If-None-Match`": headers(If_Match='"0"', If_None_Match="*"),
    # MinIO's own
    "`X-Minio-Source-*` (replication)": headers(
        X_Minio_Source_Replication_Request="true",
        X_Minio_Source_Mtime="2001-01-01T00:00:00Z",
        X_Minio_Source_Etag="0" * 32,
        X_Minio_Replication_Actual_Object_Size="5",
    ),
    "`X-Minio-Internal-*`": headers(
        X_Minio_Internal_actual_size="5", X_Minio_Internal_compression="klauspost/compress/s2"
    ),
    "`X-Amz-Meta-Snowball-Auto-Extract`": headers(X_Amz_Meta_Snowball_Auto_Extract="true"),
    # another method, host, path or query
    "`X-HTTP-Method-Override: DELETE`": headers(X_HTTP_Method_Override="DELETE"),
    "another `Host`": headers(Host="elsewhere.example"),
    "`GET` instead of `PUT`": both(method("GET"), _body(b"")),
    "`HEAD` instead of `PUT`": both(method("HEAD"), _body(b"")),
    "`POST` instead of `PUT`": method("POST"),
    "`DELETE` instead of `PUT`": both(method("DELETE"), _body(b"")),
    "another key": path(lambda was: was.replace("uploads/", "blobs/")),
    "the key behind `..`": path(lambda was: was.replace("uploads/", "blobs/%2E%2E/uploads/")),
    "another part number": changed("2", "partNumber", "part"),
    "a second part number, behind": query(("partNumber", "2"), ("part", "2")),
    "a second part number, in front": before(("partNumber", "2"), ("part", "2")),
    "another upload": changed("1", "uploadId", "offset"),
    "no upload: a plain object": without("partNumber", "uploadId", "part", "offset"),
    "a later end": changed("86400000000", "X-Amz-Expires", "expires"),
    "another length": both(changed("1001", "length"), _body(BODY + b"1")),
    "fewer signed headers": changed("host", "X-Amz-SignedHeaders", "length"),
    "`versionId`": query(("versionId", "null")),
    "`?tagging`, `?acl`, `?retention`": query(("tagging", ""), ("acl", ""), ("retention", "")),
    "`response-content-type`": query(("response-content-type", "text/html")),
    "`x-amz-copy-source` in the query": query(("x-amz-copy-source", f"/images/{OTHERS_BLOB}")),
    "`x-amz-tagging` in the query": query(("x-amz-tagging", "public=yes")),
}

DOWNLOADS: Mapping[str, Attempt] = {
    "`Range`": headers(Range="bytes=10-19"),
    "`If-Match` of another object": headers(If_Match='"0"'),
    "`x-amz-copy-source`": copying(f"/{{}}/{OTHERS_BLOB}"),
    "`x-amz-server-side-encryption-customer-*`": with_headers(_SSE_C),
    "`x-amz-checksum-mode`": headers(x_amz_checksum_mode="ENABLED"),
    "`x-amz-request-payer`, `x-amz-expected-bucket-owner`": headers(
        x_amz_request_payer="requester", x_amz_expected_bucket_owner="123456789012"
    ),
    "`X-Minio-Extract` (files in archives)": headers(X_Minio_Extract="true"),
    "`X-Minio-Source-Proxy-Request` (replication)": headers(X_Minio_Source_Proxy_Request="true"),
    "an `Authorization` header": headers(Authorization="AWS4-HMAC-SHA256 Credential=a/b/c/d/e, SignedHeaders=host"),
    "another `Host`": headers(Host="elsewhere.example"),
    "`HEAD` instead of `GET`": method("HEAD"),
    "`PUT` instead of `GET`": both(method("PUT"), _body(b"mine")),
    "`PUT` with `x-amz-content-sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER`": both(method("PUT"), _TRAILER),
    "`PUT` with `x-amz-copy-source`": both(method("PUT"), copying(f"/{{}}/{OTHERS_BLOB}")),
    "`POST` instead of `GET`": both(method("POST"), _body(b"mine")),
    "`DELETE` instead of `GET`": method("DELETE"),
    "another key": path(lambda was: was.replace("plain", "of-another")),
    "another file name": changed("attachment; filename=risk", "response-content-disposition", "name"),
    "a second file name": query(("response-content-disposition", "inline"), ("name", "inline")),
    "`response-content-type`": query(("response-content-type", "text/html")),
    "`versionId`": query(("versionId", "null")),
    "`partNumber`": query(("partNumber", "1")),
    "`?tagging`, `?acl`, `?attributes`": query(("tagging", ""), ("acl", ""), ("attributes", "")),
    "`?uploads` (listing)": query(("uploads", "")),
    "a later end": changed("86400000000", "X-Amz-Expires", "expires"),
}
