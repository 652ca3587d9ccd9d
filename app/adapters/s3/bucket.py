"""A bucket of an S3 store, as gateway and workers use it: calls that block, from as many threads as one likes.

Orders go through the minio package (s3_orders.py). Bytes go through signed addresses and urllib3: the package would
hash every part before it sends it.
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

__all__ = ["Body", "Bucket", "StoredObject", "StoredPart"]

# Gives the bytes of a part from its beginning; called anew for every attempt.
Body = Callable[[], Iterable[bytes | memoryview]]

_LIFETIME = timedelta(hours=1)
_PIECE = 256 * 1024
_PAGE = 1000


class Bucket:
    """The objects below an address; keys are without its prefix.

    Every method may raise StoreUnavailable, and what takes bytes StoreFull. A store that is busy or does not answer
    is asked again for `patience` seconds.
    """

    def __init__(self, address: S3Address, *, connections: int = 16, patience: float = 10) -> None:
        """Connects when something is asked; keeps up to so many `connections` open between requests."""
        self.address = address
        self._signer = Signer(address)
        self._retries = RetryPolicy(patience)
        self._connections = Connections(address, connections)
        self._orders = Orders(address, self._connections)

    def close(self) -> None:
        """Let go of the connections. Whoever waits for a busy store gets its last error."""
        self._retries.end()
        self._connections.close()

    # ------------------------------------------------------------ the bucket itself

    def require(self) -> None:
        """Raises StoreUnavailable when the store does not answer, or has no such bucket. Asks once."""
        with store_errors():
            found = self._orders.bucket_exists()
        if not found:
            raise StoreUnavailable("the object store has no such bucket")

    def make(self) -> None:
        """Make the bucket, if there is none. Raises StoreUnavailable when that is not allowed."""
        try:
            if not self._retries.attempt(self._orders.bucket_exists):
                self._retries.attempt(self._orders.make_bucket)
        except StoreUnavailable:
            # Somebody else may have made it between the look and the order.
            self.require()

    def is_versioned(self) -> bool:
        """Whether the store keeps what is deleted."""
        return self._retries.attempt(self._orders.is_versioned)

    def cors(self) -> bytes:
        """Which pages may use the bucket, in Amazon's XML; empty when nothing was said. May raise NotOffered."""
        return self._retries.attempt(self._orders.cors)

    def set_cors(self, rules: bytes) -> None:
        """Say which pages may use the bucket; what was said before is forgotten. May raise NotOffered."""
        self._retries.attempt(partial(self._orders.set_cors, rules))

    # ------------------------------------------------------------ objects

    def size(self, key: str) -> int:
        """The length of an object, in bytes. Raises ObjectMissing."""
        return self.look(key).size

    def look(self, key: str) -> StoredObject:
        """Size, ETag and time of an object. Raises ObjectMissing."""
        return self._retries.attempt(partial(self._orders.look, key))

    def read(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises ObjectMissing; StoreUnavailable beyond the object's end."""
        buffer = bytearray(length)
        self.read_into(key, offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, key: str, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes from `offset`. What came before a break is not asked for again.

        Raises ObjectMissing; StoreUnavailable beyond the object's end.
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
                    raise StoreUnavailable("an object is shorter than was asked for")
                length -= len(piece)
                yield piece

    def put(self, key: str, body: bytes) -> None:
        """Make a small object at once."""
        self._retries.attempt(partial(self._orders.put, key, body))

    def delete(self, key: str) -> None:
        """Remove an object. Harmless when there is none."""
        self._retries.attempt(partial(self._orders.delete, key))

    def keys(self, prefix: str = "") -> Iterator[tuple[str, datetime]]:
        """The objects whose keys begin with `prefix`, ascending, with the time of their last change."""
        after = None
        while page := self._retries.attempt(partial(self._orders.keys, prefix, after, _PAGE)):
            yield from page
            after = page[-1][0]

    # ------------------------------------------------------------ multipart uploads

    def open_multipart(self, key: str) -> str:
        """Make ready to receive parts; the store's reference of that."""
        return self._retries.attempt(partial(self._orders.open, key))

    def put_part(self, key: str, reference: str, number: int, body: Body, length: int) -> str:
        """Send a part of `length` bytes; its ETag. Raises UploadClosed; ValueError for a body of another length."""
        query = {"partNumber": str(number), "uploadId": reference}
        headers = {"Content-Length": str(length)}
        tried = False

        def attempt() -> str:
            nonlocal tried
            if tried:
                # A store that refuses in the midst of a body may cut the connection before its reason is read.
                self._orders.parts(key, reference, most=1)
            tried = True
            url = self._signed("PUT", key, query, length)
            pieces = cast(Iterable[bytes], _exactly(body(), length))  # a socket takes any buffer
            response = self._connections.bytes.request("PUT", url, body=pieces, headers=headers)
            require(response, 200)
            return response.headers["etag"].strip('"')

        return self._retries.attempt(attempt)

    def copy_part(self, key: str, reference: str, number: int, source: str, offset: int, length: int) -> str:
        """Have the store make a part of `length` bytes of the object `source`; its ETag.

        Raises UploadClosed; ObjectMissing when there is no such source.
        """
        return self._retries.attempt(partial(self._orders.copy, key, reference, number, source, offset, length))

    def complete(self, key: str, reference: str, parts: Sequence[tuple[int, str]]) -> None:
        """Make the object of these parts, given by number and ETag, ascending. Harmless when done before.

        Raises UploadClosed; PartsArriving when a part is not there with this ETag.
        """
        try:
            self._retries.attempt(partial(self._orders.complete, key, reference, parts))
        except UploadClosed:
            # Where the answer to an earlier attempt was lost, the object is there.
            if not self._is_made_of(key, parts):
                raise

    def _is_made_of(self, key: str, parts: Sequence[tuple[int, str]]) -> bool:
        """Whether there is an object that was put together of just these parts, by its ETag."""
        digests = b"".join(_digest(etag) for _, etag in parts)
        whole = hashlib.md5(digests, usedforsecurity=False).hexdigest()
        try:
            return self.look(key).etag == f"{whole}-{len(parts)}"
        except ObjectMissing:
            return False

    def abort(self, key: str, reference: str) -> None:
        """Forget an upload and the parts of it that are here. Harmless when done before, or when it is complete."""
        try:
            self._retries.attempt(partial(self._orders.abort, key, reference))
        except UploadClosed:
            pass

    def multiparts(self, key: str) -> list[str]:
        """The references of the uploads that are open under exactly this key; a thousand of them at most."""
        found = self._retries.attempt(partial(self._orders.multiparts, key))
        return [upload.reference for upload in found if upload.key == key]

    def open_keys(self, *folders: str) -> list[tuple[str, datetime]]:
        """The keys of the uploads that are open, and when they were opened: a thousand of them at most.

        With `folders`, only keys that begin with one of these are looked at: a policy may hide the others. MinIO tells
        only of what was opened since it was started.
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
        """The parts of an upload that have arrived whole, ascending. Raises UploadClosed."""
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
    """The body as it is. Raises ValueError when it is longer or shorter than `length` bytes."""
    left = length
    for piece in body:
        left -= memoryview(piece).nbytes
        if left < 0:
            break
        yield piece
    if left:
        raise ValueError(f"the body of a part of {length} bytes has another length")
