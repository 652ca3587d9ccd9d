"""Checks, with test objects, whether a part URL allows more in this store than it should.

A signed URL leaves most headers to the client. docs/signed-urls.md lists what the client can do with them.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.connections import Connections
from app.adapters.s3.errors import StoreBusy, require, store_errors
from app.adapters.s3.signing import Signer
from app.errors import StoreError, StoreUnavailable
from app.object_keys import new_blob_key, new_upload_key
from app.s3_address import S3Address, S3Key

_LIFETIME = timedelta(minutes=1)
_SENT = b"1"
_SENT_ETAG = hashlib.md5(_SENT, usedforsecurity=False).hexdigest()
# Its length differs from that of the sent bytes, so that a part's size shows its source.
_KEPT = b"kept"
# Amazon S3 API reference, "Signature calculations for trailing headers": one chunk, followed by its CRC-32.
_UNSIGNED_HEADERS = {
    "Content-Encoding": "aws-chunked",
    "X-Amz-Content-Sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
    "X-Amz-Decoded-Content-Length": "1",
    "X-Amz-Trailer": "x-amz-checksum-crc32",
}
_UNSIGNED_BODY = b"1\r\n1\r\n0\r\nx-amz-checksum-crc32:g9zvtw==\r\n\r\n"


class UploadKeyRefused(StoreUnavailable):
    """Raised when the key that signs part URLs may not send a part."""


class PartUrlCopies(StoreUnavailable):
    """Raised when a part URL can copy objects of other users."""


class SignatureIgnored(StoreUnavailable):
    """Raised when the store accepts a part with a wrong signature."""


def try_part_urls(address: S3Address, upload_key: S3Key | None) -> None:
    """Send parts like a client, with headers that the store must refuse or ignore.

    Leaves nothing behind, unless the process is killed: then the sweep of orphans finds the objects, and the upload too
    where the store lists it. MinIO does not, and drops it after a day.

    `upload_key` signs the URLs; without it, the key in `address` does. Raises UploadKeyRefused, PartUrlCopies or
    SignatureIgnored; StoreUnavailable or StoreFull for other reasons.
    """
    with ExitStack() as stack:
        bucket = stack.enter_context(closing(Bucket(address, connections=1, patience=0)))
        # A policy may be right for one folder and wrong for the other.
        sources = [stack.enter_context(_stored(bucket, key)) for key in (new_upload_key(), new_blob_key())]
        upload = stack.enter_context(_opened(bucket, new_upload_key()))
        signer = Signer(address.with_key(upload_key) if upload_key else address)
        client = _Client(upload, signer, stack.enter_context(closing(Connections(address, 1))))
        _send(client)
        for number, source in enumerate(sources, 2):
            _copy(client, number, f"/{address.bucket}/{address.prefix}{source}")
        _forge(client)


@dataclass(frozen=True, slots=True)
class _Upload:
    bucket: Bucket
    key: str
    reference: str


@dataclass(frozen=True, slots=True)
class _Client:
    """A client that has the URLs of all parts of an upload."""

    upload: _Upload
    signer: Signer
    connections: Connections

    def url(self, number: int) -> str:
        query = {"partNumber": str(number), "uploadId": self.upload.reference}
        return self.signer.sign(
            "PUT", self.upload.key, query, at=datetime.now(UTC), lifetime=_LIFETIME, length=len(_SENT)
        )

    def put(self, url: str, body: bytes = _SENT, headers: Mapping[str, str] | None = None) -> None:
        """Raises StoreError when the store refuses."""
        with store_errors():
            require(self.connections.bytes.request("PUT", url, body=body, headers=headers), 200)

    def may_put(self, url: str, body: bytes = _SENT, headers: Mapping[str, str] | None = None) -> bool:
        """Whether the store accepts it. Raises StoreBusy when the store does not answer."""
        try:
            self.put(url, body, headers)
        except StoreBusy:
            raise
        except StoreError:
            return False
        return True


def _send(client: _Client) -> None:
    try:
        client.put(client.url(1))
    except StoreBusy:
        raise
    except StoreUnavailable as refused:
        raise UploadKeyRefused(f"part URLs do not work: {refused}") from refused


def _copy(client: _Client, number: int, source: str) -> None:
    if not client.may_put(client.url(number), headers={"X-Amz-Copy-Source": quote(source)}):
        return
    # If the store ignores the header, or a proxy drops it, the part is the body instead.
    upload = client.upload
    taken = [part for part in upload.bucket.parts(upload.key, upload.reference) if part.number == number]
    if [(part.size, part.etag) for part in taken] != [(len(_SENT), _SENT_ETAG)]:
        raise PartUrlCopies("part URLs can copy objects of other users (x-amz-copy-source)")


def _forge(client: _Client) -> None:
    signed, _, signature = client.url(1).rpartition("=")
    forged = f"{signed}={'0' * len(signature)}"
    if client.may_put(forged, _UNSIGNED_BODY, _UNSIGNED_HEADERS):
        raise SignatureIgnored("the store accepts parts with a wrong signature (STREAMING-UNSIGNED-PAYLOAD-TRAILER)")


@contextmanager
def _stored(bucket: Bucket, key: str) -> Iterator[str]:
    try:
        bucket.put(key, _KEPT)
        yield key
    finally:
        # If it can't be deleted now, the sweep of orphans finds it by its key.
        with suppress(StoreError):
            bucket.delete(key)


@contextmanager
def _opened(bucket: Bucket, key: str) -> Iterator[_Upload]:
    reference = bucket.open_multipart(key)
    try:
        yield _Upload(bucket, key, reference)
    finally:
        with suppress(StoreError):
            bucket.abort(key, reference)
