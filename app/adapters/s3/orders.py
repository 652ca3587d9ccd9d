"""Requests to a store that carry no bytes: one function per request, without retries.

They go through the minio package. Its functions for multipart uploads are private; its version is pinned, and no other
file calls them. All raise errors that `errors.store_errors` translates.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from urllib.parse import quote

from minio.datatypes import Part
from minio.error import S3Error

from app.adapters.s3.connections import Connections
from app.adapters.s3.errors import StoreBusy
from app.s3_address import S3Address

_PARTS = 10_000  # MinIO returns all parts of an upload at once, Amazon at most a thousand

# Amazon starts its response before the work is done: an error may follow a status of success.
_FAILED_LATE = "the object store failed during its response"


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that has arrived completely. `size` is in bytes, `changed` is when it arrived."""

    number: int
    size: int
    etag: str
    changed: datetime


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Metadata of an object. `size` is in bytes, `changed` is when it was created."""

    size: int
    etag: str
    changed: datetime


@dataclass(frozen=True, slots=True)
class OpenMultipart:
    """An upload that accepts parts, or did so when it was listed."""

    key: str
    reference: str
    opened: datetime


class Orders:
    """Requests for the objects below one address; keys are without its prefix."""

    def __init__(self, address: S3Address, connections: Connections) -> None:
        self._address = address
        self._bucket = address.bucket
        self._client = connections.orders
        self._patient = connections.heavy

    # ------------------------------------------------------------ the bucket

    def bucket_exists(self) -> bool:
        return self._client.bucket_exists(self._bucket)

    def make_bucket(self) -> None:
        self._client.make_bucket(self._bucket, self._address.region)

    def is_versioned(self) -> bool:
        found = self._client.get_bucket_versioning(self._bucket).status
        return found is not None and found.lower() != "off"

    def cors(self) -> bytes:
        try:
            return self._client._execute("GET", self._bucket, query_params={"cors": ""}).data
        except S3Error as error:
            if error.code == "NoSuchCORSConfiguration":
                return b""
            raise

    def set_cors(self, rules: bytes) -> None:
        digest = b64encode(hashlib.md5(rules, usedforsecurity=False).digest()).decode()
        headers: dict[str, str | list[str] | tuple[str]] = {"Content-MD5": digest}
        self._client._execute("PUT", self._bucket, body=rules, headers=headers, query_params={"cors": ""})

    # ------------------------------------------------------------ objects

    def stat(self, key: str) -> StoredObject:
        found = self._client.stat_object(self._bucket, self._path(key))
        return StoredObject(found.size or 0, found.etag or "", found.last_modified or datetime.now(UTC))

    def put(self, key: str, body: bytes) -> None:
        self._client._put_object(self._bucket, self._path(key), body)

    def delete(self, key: str) -> None:
        self._client.remove_object(self._bucket, self._path(key))

    def keys(self, prefix: str, after: str | None, most: int) -> Sequence[tuple[str, datetime]]:
        """Up to `most` keys that begin with `prefix` and come after `after`, with the time of the last change."""
        found = self._client.list_objects(
            self._bucket, self._path(prefix), recursive=True, start_after=None if after is None else self._path(after)
        )
        named = ((str(entry.object_name), entry.last_modified) for entry in islice(found, most))
        return [(self._key(path), changed or datetime.now(UTC)) for path, changed in named]

    # ------------------------------------------------------------ multipart uploads

    def open(self, key: str) -> str:
        return self._client._create_multipart_upload(self._bucket, self._path(key), {})

    def copy(self, key: str, reference: str, number: int, source: str, offset: int, length: int) -> str:
        headers: dict[str, str | list[str] | tuple[str]] = {
            "x-amz-copy-source": quote(f"/{self._bucket}/{self._path(source)}"),
            "x-amz-copy-source-range": f"bytes={offset}-{offset + length - 1}",
        }
        try:
            return self._patient._upload_part_copy(self._bucket, self._path(key), reference, number, headers)[0]
        except ValueError as error:
            raise StoreBusy(_FAILED_LATE) from error

    def complete(self, key: str, reference: str, parts: Sequence[tuple[int, str]]) -> None:
        named = [Part(number, etag) for number, etag in parts]
        made = self._patient._complete_multipart_upload(self._bucket, self._path(key), reference, named)
        if made.etag is None:
            raise StoreBusy(_FAILED_LATE)

    def abort(self, key: str, reference: str) -> None:
        self._client._abort_multipart_upload(self._bucket, self._path(key), reference)

    def multiparts(self, prefix: str) -> Sequence[OpenMultipart]:
        """The uploads whose keys begin with `prefix`; in MinIO, whose keys equal it. At most a thousand."""
        return self._uploads(self._path(prefix))

    def all_multiparts(self) -> Sequence[OpenMultipart]:
        """All uploads below the address. MinIO lists either all prefixes or none, including uploads it has dropped."""
        return self._uploads(self._address.prefix if self._address.is_amazon else "")

    def _uploads(self, path: str) -> Sequence[OpenMultipart]:
        found = self._client._list_multipart_uploads(self._bucket, prefix=path).uploads
        return [
            OpenMultipart(self._key(name), upload.upload_id or "", upload.initiated_time or datetime.now(UTC))
            for upload in found
            if (name := upload.object_name or "").startswith(self._address.prefix)
        ]

    def parts(
        self, key: str, reference: str, after: int | None = None, most: int = _PARTS
    ) -> tuple[Sequence[StoredPart], bool]:
        """The parts that come after part `after`, and whether there may be more."""
        marker = None if after is None else str(after)
        page = self._client._list_parts(
            self._bucket, self._path(key), reference, max_parts=most, part_number_marker=marker
        )
        return [_stored(part) for part in page.parts], page.is_truncated and bool(page.parts)

    # ------------------------------------------------------------

    def _path(self, key: str) -> str:
        return self._address.prefix + key

    def _key(self, path: str) -> str:
        return path.removeprefix(self._address.prefix)


def _stored(part: Part) -> StoredPart:
    return StoredPart(part.part_number, part.size or 0, part.etag, part.last_modified or datetime.now(UTC))
