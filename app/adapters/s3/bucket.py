"""A bucket of an S3 store for the gateway and the workers: blocking calls, which are thread-safe.

Requests without bytes go through the minio package (orders.py). Bytes go through signed URLs and urllib3: the package
would hash every part before sending it.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import cast

from app.adapters.s3.connections import Connections
from app.adapters.s3.errors import require, store_errors
from app.adapters.s3.orders import Orders, StoredObject, StoredPart
from app.adapters.s3.retries import RetryPolicy
from app.adapters.s3.signing import Signer
from app.errors import ObjectMissing, StoreUnavailable, UploadClosed
from app.s3_address import S3Address
from app.sizes import KIB, counted

__all__ = ["Body", "Bucket", "StoredObject", "StoredPart"]

# Returns the bytes of a part from its start. Called for every attempt.
Body = Callable[[], Iterable[bytes | memoryview]]

_LIFETIME = timedelta(hours=1)
_PIECE = 256 * KIB
_PAGE = 1000


class Bucket:
    """The objects below an address; keys are without its prefix.

    Every method may raise StoreUnavailable, and those that store bytes StoreFull. Requests to a store that is busy or
    does not answer are retried for `patience` seconds.
    """

    def __init__(self, address: S3Address, *, connections: int = 16, patience: float = 10) -> None:
        """Connects at the first request; keeps up to `connections` open between requests."""
        self.address = address
        self._signer = Signer(address)
        self._retries = RetryPolicy(patience)
        self._connections = Connections(address, connections)
        self._orders = Orders(address, self._connections)

    def close(self) -> None:
        """Close the connections. Calls that wait for a busy store raise its last error."""
        self._retries.end()
        self._connections.close()

    # ------------------------------------------------------------ the bucket itself

    def require(self) -> None:
        """Raises StoreUnavailable when the store does not answer, or has no such bucket. Does not retry."""
        with store_errors():
            found = self._orders.bucket_exists()
        if not found:
            raise StoreUnavailable("the object store has no such bucket")

    def make(self) -> None:
        """Create the bucket, if there is none. Raises StoreUnavailable when that is not allowed."""
        try:
            if not self._retries.attempt(self._orders.bucket_exists):
                self._retries.attempt(self._orders.make_bucket)
        except StoreUnavailable:
            # Another process may have created it between the check and the request.
            self.require()

    def is_versioned(self) -> bool:
        """Whether the store keeps deleted objects as old versions."""
        return self._retries.attempt(self._orders.is_versioned)

    def cors(self) -> bytes:
        """The bucket's CORS rules, in Amazon's XML; empty when there are none. May raise NotOffered."""
        return self._retries.attempt(self._orders.cors)

    def set_cors(self, rules: bytes) -> None:
        """Replace the bucket's CORS rules. May raise NotOffered."""
        self._retries.attempt(partial(self._orders.set_cors, rules))

    # ------------------------------------------------------------ objects

    def size(self, key: str) -> int:
        """The size of an object, in bytes. Raises ObjectMissing."""
        return self.stat(key).size

    def stat(self, key: str) -> StoredObject:
        """Size, ETag and time of change of an object. Raises ObjectMissing."""
        return self._retries.attempt(partial(self._orders.stat, key))

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises ObjectMissing; StoreUnavailable past the end of the object."""
        buffer = bytearray(length)
        self.read_into(key, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`. A retry continues where the connection broke.

        Raises ObjectMissing; StoreUnavailable past the end of the object.
        """
        done = 0

        def attempt() -> None:
            nonlocal done
            for piece in self._pieces(key, offset + done, len(buffer) - done):
                buffer[done : done + len(piece)] = piece
                done += len(piece)

        self._retries.attempt(attempt)

    def _pieces(self, key: str, offset: int, length: int) -> Iterator[bytes]:
        if not length:
            return
        wanted = {"Range": f"bytes={offset}-{offset + length - 1}"}
        with self._connections.bytes.request(
            "GET", self._signed("GET", key), headers=wanted, preload_content=False, decode_content=False
        ) as response:
            require(response, 206)
            while length:
                piece = response.read(min(_PIECE, length))
                if not piece:
                    raise StoreUnavailable("an object is shorter than expected")
                length -= len(piece)
                yield piece

    def put(self, key: str, body: bytes) -> None:
        """Create a small object in one request."""
        self._retries.attempt(partial(self._orders.put, key, body))

    def delete(self, key: str) -> None:
        """Delete an object. Does nothing when there is none."""
        self._retries.attempt(partial(self._orders.delete, key))

    def keys(self, prefix: str = "") -> Iterator[tuple[str, datetime]]:
        """The keys that begin with `prefix`, ascending, each with the time of the object's last change."""
        after = None
        while page := self._retries.attempt(partial(self._orders.keys, prefix, after, _PAGE)):
            yield from page
            after = page[-1][0]

    # ------------------------------------------------------------ multipart uploads

    def open_multipart(self, key: str) -> str:
        """Open a multipart upload; returns the store's reference to it."""
        return self._retries.attempt(partial(self._orders.open, key))

    def put_part(self, key: str, reference: str, number: int, body: Body, length: int) -> str:
        """Send a part of `length` bytes; returns its ETag. Raises UploadClosed; ValueError for another length."""
        query = {"partNumber": str(number), "uploadId": reference}
        headers = {"Content-Length": str(length)}
        tried = False

        def attempt() -> str:
            nonlocal tried
            if tried:
                # A store that refuses during the body may close the connection before its reason is read.
                self._orders.parts(key, reference, most=1)
            tried = True
            url = self._signed("PUT", key, query, length)
            pieces = cast(Iterable[bytes], _exactly(body(), length))  # a socket takes any buffer
            response = self._connections.bytes.request("PUT", url, body=pieces, headers=headers)
            require(response, 200)
            return response.headers["etag"].strip('"')

        return self._retries.attempt(attempt)

    def copy_part(self, key: str, reference: str, number: int, source: str, offset: int, length: int) -> str:
        """Make the store copy a part of `length` bytes from the object `source`; returns its ETag.

        Raises UploadClosed; ObjectMissing when there is no such source.
        """
        return self._retries.attempt(partial(self._orders.copy, key, reference, number, source, offset, length))

    def complete(self, key: str, reference: str, parts: Sequence[tuple[int, str]]) -> None:
        """Create the object from these parts, by number and ETag, ascending. Idempotent.

        Raises UploadClosed; PartsArriving when there is no part with this number and ETag.
        """
        try:
            self._retries.attempt(partial(self._orders.complete, key, reference, parts))
        except UploadClosed:
            # If the response to an earlier attempt was lost, the object exists.
            if not self._is_made_of(key, parts):
                raise

    def _is_made_of(self, key: str, parts: Sequence[tuple[int, str]]) -> bool:
        """Whether the object exists and consists of exactly these parts, by its ETag."""
        digests = b"".join(_digest(etag) for _, etag in parts)
        whole = hashlib.md5(digests, usedforsecurity=False).hexdigest()
        try:
            return self.stat(key).etag == f"{whole}-{len(parts)}"
        except ObjectMissing:
            return False

    def abort(self, key: str, reference: str) -> None:
        """Discard an upload and its parts. Does nothing when it was aborted or completed before."""
        try:
            self._retries.attempt(partial(self._orders.abort, key, reference))
        except UploadClosed:
            pass

    def multiparts(self, key: str) -> list[str]:
        """The references of the uploads that are open under exactly this key; at most a thousand."""
        found = self._retries.attempt(partial(self._orders.multiparts, key))
        return [upload.reference for upload in found if upload.key == key]

    def open_keys(self, *folders: str) -> list[tuple[str, datetime]]:
        """The keys of open uploads, and when they were opened; at most a thousand.

        With `folders`, only keys that begin with one of these count, since a policy may hide the others. MinIO lists
        only uploads that were opened since it was started.
        """
        found = self._retries.attempt(self._orders.all_multiparts)
        near = [upload for upload in found if upload.key.startswith(folders or "")]
        return [(upload.key, upload.opened) for upload in near if self._is_open(upload.key, upload.reference)]

    def _is_open(self, key: str, reference: str) -> bool:
        try:
            self._retries.attempt(partial(self._orders.parts, key, reference, most=1))
        except UploadClosed:
            return False
        return True

    def parts(self, key: str, reference: str) -> list[StoredPart]:
        """The parts of an upload that have arrived completely, ascending. Raises UploadClosed."""
        found, more = self._retries.attempt(partial(self._orders.parts, key, reference))
        parts = [*found]
        while more:
            found, more = self._retries.attempt(partial(self._orders.parts, key, reference, after=parts[-1].number))
            parts += found
        return parts

    # ------------------------------------------------------------

    def _signed(self, method: str, key: str, query: dict[str, str] | None = None, length: int | None = None) -> str:
        now = datetime.now(UTC)
        return self._signer.sign(method, key, query or {}, at=now, lifetime=_LIFETIME, length=length)


def _digest(etag: str) -> bytes:
    try:
        return bytes.fromhex(etag)
    except ValueError:
        return etag.encode()


def _exactly(body: Iterable[bytes | memoryview], length: int) -> Iterator[bytes | memoryview]:
    """The unchanged body. Raises ValueError when it is longer or shorter than `length` bytes."""
    left = length
    for piece in body:
        left -= memoryview(piece).nbytes
        if left < 0:
            break
        yield piece
    if left:
        raise ValueError(f"the body of a part of {counted(length, 'byte')} has another length")
