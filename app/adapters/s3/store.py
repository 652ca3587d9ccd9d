"""The object store of the scaled-out mode: a bucket of MinIO, or of any S3 store.

Clients send parts to the store itself, with URLs that are signed for one part of one upload and its exact length.
Every upload is a multipart upload, even with a single part: its URLs expire when it is completed or aborted.
What has arrived is read from the store every time.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice
from typing import ParamSpec, TypeVar

from app import metrics
from app.adapters.file_names import attachment
from app.adapters.s3.bucket import Bucket, StoredObject, StoredPart
from app.adapters.s3.provision import provision
from app.adapters.s3.signing import LONGEST, Signer
from app.errors import ObjectMissing, PartsMissing, StoreUnavailable, UploadClosed, WrongPart
from app.object_keys import BLOBS, UPLOADS, checked_key, is_key
from app.ports import HEAD_BYTES, Asker, SignedRequest, UploadHandle, UploadReceipt
from app.s3_address import S3Address, S3Key
from app.sizes import MIB

P = ParamSpec("P")
T = TypeVar("T")

READ_BYTES = MIB

_BLOCK = 4 * READ_BYTES  # one request; the bucket continues it when the connection breaks
_THREADS = 16
_ABORTS = 10
_LISTED_AT_ONCE = 1000
# Seconds of retries: a client waits for these calls, so they give up sooner than a worker's.
_PATIENCE = 5.0
_SECOND = timedelta(seconds=1)


class S3Store:
    """`ports.ObjectStore` in a bucket. Keys look like `blobs/01ab`: names of `a-z 0-9 _ . -`, separated by `/`."""

    def __init__(self, address: S3Address, public_url: str | None = None, upload_key: S3Key | None = None) -> None:
        """`public_url` is where clients reach the store, `http(s)://host:port`; by default, the address itself.

        `upload_key` signs part URLs. Clients can add headers to them that make the store do anything that the key
        allows, so it should only be allowed to put objects below `uploads/`. By default, the address's own key signs.

        Does not connect yet.
        """
        self._bucket = Bucket(address, connections=_THREADS, patience=_PATIENCE)
        self._downloads = Signer(address, public_url)
        self._parts = Signer(address.with_key(upload_key) if upload_key else address, public_url)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="s3-store")

    @property
    def address(self) -> S3Address:
        """The address of the bucket."""
        return self._bucket.address

    def close(self) -> None:
        """Close the connections, wait for running requests, and stop the threads."""
        self._bucket.close()
        self._threads.shutdown(cancel_futures=True)

    async def prepare(self, allowed_origins: Sequence[str] = ()) -> Sequence[str]:
        """Create the bucket if there is none, and allow pages of these origins to use it.

        Returns sentences for the operator about what remains to be done. Raises StoreUnavailable, StoreFull.
        """
        return await self._run(provision, self._bucket, allowed_origins)

    async def check(self) -> None:
        """As the port says: checks once that the bucket exists."""
        await self._run(self._bucket.require)

    # ------------------------------------------------------------ uploads

    async def open_upload(self, key: str, size: int, part_size: int) -> UploadHandle:
        """As the port says. Every call opens another upload. UploadClosed when the object exists."""
        return await self._run(self._open, checked_key(key), size, part_size)

    def _open(self, key: str, size: int, part_size: int) -> UploadHandle:
        try:
            self._bucket.stat(key)
        except ObjectMissing:
            return UploadHandle(key, self._bucket.open_multipart(key), size, part_size)
        raise UploadClosed("the object already exists")

    def sign_part(
        self, upload: UploadHandle, number: int, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """As the port says. Raises ValueError when the upload has no such part."""
        if not 1 <= number <= upload.part_count:
            raise ValueError(f"there is no part {number}")
        query = {"partNumber": str(number), "uploadId": upload.reference}
        return _signed(self._parts, "PUT", upload.key, query, expires_at, upload.part_length(number))

    async def receipt(self, upload: UploadHandle) -> UploadReceipt:
        """As the port says. Bytes of parts that are still arriving are not counted."""
        return await self._run(self._receipt, upload)

    def _receipt(self, upload: UploadHandle) -> UploadReceipt:
        try:
            parts = self._parts_of(upload)
        except UploadClosed:
            made = self._sealed(upload)
            every = range(1, upload.part_count + 1)
            return UploadReceipt(every, upload.size, sealed=True, last_byte_at=made.changed)
        last = max((part.changed for part in parts), default=None)
        return UploadReceipt([part.number for part in parts], sum(part.size for part in parts), last_byte_at=last)

    async def seal_upload(self, upload: UploadHandle) -> None:
        """As the port says."""
        await self._run(self._seal, upload)

    def _seal(self, upload: UploadHandle) -> None:
        try:
            parts = self._parts_of(upload)
            missing = set(range(1, upload.part_count + 1)) - {part.number for part in parts}
            if missing:
                raise PartsMissing(sorted(missing))
            # With their ETags, so that the store refuses when a part is sent again in the meantime.
            self._bucket.complete(upload.key, upload.reference, [(part.number, part.etag) for part in parts])
            metrics.received_by_store(upload.size)
        except UploadClosed:
            pass  # completed or aborted before: the object shows which
        self._sealed(upload)

    def _sealed(self, upload: UploadHandle) -> StoredObject:
        """The object that the upload became. Raises UploadClosed when there is none of its size."""
        try:
            made = self._bucket.stat(upload.key)
        except ObjectMissing:
            raise UploadClosed("the upload is not open") from None
        if made.size != upload.size:
            raise UploadClosed("the upload is not open, and the object under its key has another size")
        return made

    def _parts_of(self, upload: UploadHandle) -> Sequence[StoredPart]:
        """The parts that have arrived. Raises UploadClosed; WrongPart, since each URL is signed for an exact length."""
        here = []
        for part in self._bucket.parts(upload.key, upload.reference):
            due = 1 <= part.number <= upload.part_count
            expected = upload.part_length(part.number) if due else None
            if part.size == expected:
                here.append(part)
            # MinIO may list a part with no bytes while it discards an upload that was open for too long.
            elif part.size or not due:
                raise WrongPart(part.number, part.size, expected)
        return here

    async def abort_upload(self, upload: UploadHandle) -> None:
        """As the port says. A sealed upload is unchanged; a part that is arriving is refused at its end."""
        await self._run(self._abort, upload.key, upload.reference)

    def _abort(self, key: str, reference: str) -> None:
        # A part that arrives at the same time may remain ("AbortMultipartUpload" in the Amazon S3 API reference).
        for _ in range(_ABORTS):
            self._bucket.abort(key, reference)
            try:
                self._bucket.parts(key, reference)
            except UploadClosed:
                return
        raise StoreUnavailable("the object store does not abort an upload")

    # ------------------------------------------------------------ objects

    def sign_download(
        self, key: str, file_name: str, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """As the port says."""
        query = {"response-content-disposition": attachment(file_name)}
        return _signed(self._downloads, "GET", checked_key(key), query, expires_at)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """As the port says, in chunks of 1 MiB. Continues where it was when a connection breaks."""
        size = await self._run(self._bucket.size, checked_key(key))
        for offset in range(0, size, _BLOCK):
            block = await self._run(self._bucket.read, key, offset, min(_BLOCK, size - offset))
            for start in range(0, len(block), READ_BYTES):
                yield block[start : start + READ_BYTES]

    async def head(self, key: str) -> bytes:
        """As the port says. Parts can be read only once they have become an object."""
        return await self._run(self._head, checked_key(key))

    def _head(self, key: str) -> bytes:
        try:
            return self._bucket.read(key, 0, min(HEAD_BYTES, self._bucket.size(key)))
        except ObjectMissing:
            return b""

    async def delete(self, key: str) -> None:
        """As the port says. Also aborts uploads that are open under the key."""
        await self._run(self._delete, checked_key(key))

    def _delete(self, key: str) -> None:
        for reference in self._bucket.multiparts(key):
            self._abort(key, reference)
        self._bucket.delete(key)

    async def size(self, key: str) -> int:
        """As the port says."""
        return await self._run(self._bucket.size, checked_key(key))

    async def batches(self) -> AsyncIterator[Sequence[tuple[str, datetime]]]:
        """As the port says. Omits uploads that MinIO no longer lists after a restart; MinIO discards them itself."""
        found = chain(self._bucket.keys(), await self._run(self._bucket.open_keys, UPLOADS, BLOBS))
        while batch := await self._run(lambda: list(islice(found, _LISTED_AT_ONCE))):
            # The sweep must not delete objects of other programs.
            yield [(key, changed) for key, changed in batch if is_key(key)]

    # ------------------------------------------------------------

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in a thread of the store."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(call, *args, **kwargs))


def _signed(
    signer: Signer, method: str, key: str, query: dict[str, str], expires_at: datetime, length: int | None = None
) -> SignedRequest:
    # Signatures have whole seconds and a lifetime of at least one: an expired request is signed as of the past.
    at = min(datetime.now(UTC).replace(microsecond=0), expires_at - _SECOND)
    lifetime = min(expires_at - at, LONGEST)
    url = signer.sign(method, key, query, at=at, lifetime=lifetime, length=length)
    return SignedRequest(method, url, at + lifetime)
