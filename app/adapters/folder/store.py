"""The object store of the embedded mode: a folder, and signed addresses that the gateway serves.

    objects/KEY     sealed objects; the workers convert them in place
    open/NAME/      uploads that accept parts (upload.py); NAME is the key with `+` for `/`
    work/           files of jobs, which this module does not read

Several processes may use one folder. What has arrived is read from it every time, so that all of them, also after a
crash, see the same.
"""

import asyncio
import errno
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import ParamSpec, TypeVar

from app.adapters.folder.addresses import AddressBook, Clock, DownloadAddress, PartAddress
from app.adapters.folder.intake import PartIntake, Written
from app.adapters.folder.listing import LISTED_AT_ONCE, listing
from app.adapters.folder.reader import ObjectReader
from app.adapters.folder.sparse import make_folder
from app.adapters.folder.upload import OpenUpload, PartWriter
from app.errors import ObjectMissing, StoreError, StoreFull, StoreUnavailable, UploadClosed
from app.object_keys import checked_key, is_key
from app.ports import HEAD_BYTES, Asker, SignedRequest, UploadHandle, UploadReceipt
from app.reserve import Reserve
from app.sizes import MIB

P = ParamSpec("P")
T = TypeVar("T")

READ_BYTES = MIB

# A file operation that waits for the disk blocks a thread. The store has its own threads, so that nothing else waits.
_THREADS = 16

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def _utc_now() -> datetime:
    return datetime.now(UTC)


class FolderStore:
    """`ports.ObjectStore` in a folder. Keys look like `blobs/01ab`: names of `a-z 0-9 _ . -`, separated by `/`."""

    def __init__(self, root: Path, secret: bytes, clock: Clock = _utc_now, *, reserve: Reserve | None = None) -> None:
        """Creates `root` if it is missing. `secret` signs the addresses, which expire by `clock`.

        While `reserve` is in use, no uploads are opened and no parts accepted.

        Raises StoreUnavailable when the folder can't be created.
        """
        self._objects = root / "objects"
        self._open = root / "open"
        self.work = root / "work"
        self.addresses = AddressBook(secret, clock)
        self._reserve = reserve
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="folder-store")
        try:
            for folder in (self._objects, self._open, self.work):
                make_folder(folder)
        except OSError as error:
            raise store_error(error) from error

    def close(self) -> None:
        """Wait for running writes, and stop the store's threads."""
        self._threads.shutdown()

    def path(self, key: str) -> Path:
        """The path of an object. Raises ValueError for an invalid key."""
        return self._objects / checked_key(key)

    async def open_upload(self, key: str, size: int, part_size: int) -> UploadHandle:
        """As the port says. An upload that is already open keeps its parts. UploadClosed when the object exists."""
        handle = UploadHandle(key, "", size, part_size)
        await self._run(self._create, handle)
        return handle

    def _create(self, handle: UploadHandle) -> None:
        self._require_room()
        if self.path(handle.key).exists():
            raise UploadClosed("the object already exists")
        self._upload(handle.key).create(handle.size, handle.part_count)

    def sign_part(
        self, upload: UploadHandle, number: int, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """As the port says; the address is a path. Raises ValueError when the upload has no such part."""
        if not 1 <= number <= upload.part_count:
            raise ValueError(f"there is no part {number}")
        key = checked_key(upload.key)
        part = PartAddress(key, number, upload.part_offset(number), upload.part_length(number), asker)
        return self.addresses.for_part(part, expires_at)

    async def receive_part(self, part: PartAddress, body: AsyncIterator[bytes], written: Written) -> None:
        """Receive a part. `written` is awaited with the number of bytes of each batch that was written.

        Raises UploadClosed (also when the upload is aborted in the meantime), PartsArriving when another request sends
        the same part, InvalidInput and TooLarge when the body has another length, StoreFull. After an error other than
        the first two, the part is missing.
        """
        writer = PartWriter(self._upload(part.key), part)
        # Each trip to a thread and back waits for a busy event loop, so there are as few as possible.
        try:
            await self._run(self._begin, writer)
            intake = PartIntake(part, lambda chunks, last: self._run(self._append, writer, chunks, last), written)
            await intake.take_all(body)
        except BaseException:
            # The client may send the part again as soon as it has the response, so close first, even when cancelled.
            await asyncio.shield(self._run(writer.close))
            raise

    def _begin(self, writer: PartWriter) -> None:
        self._require_room()
        writer.open()

    def _append(self, writer: PartWriter, chunks: Sequence[bytes], last: bool) -> None:
        self._require_room()
        writer.write(chunks)
        if last:
            writer.finish()

    def _require_room(self) -> None:
        if self._reserve is not None:
            self._reserve.require()

    async def receipt(self, upload: UploadHandle) -> UploadReceipt:
        """As the port says. Bytes of parts that are still arriving are not counted."""
        return await self._run(self._receipt, upload)

    def _receipt(self, upload: UploadHandle) -> UploadReceipt:
        here = self._upload(upload.key)
        try:
            parts = here.arrived()
            received = sum(map(upload.part_length, parts))
            return UploadReceipt(parts, received, sealed=False, last_byte_at=here.last_byte_at())
        except UploadClosed:
            path = self.path(upload.key)
            if not path.exists():
                raise
            sealed_at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            every = range(1, upload.part_count + 1)
            return UploadReceipt(every, upload.size, sealed=True, last_byte_at=sealed_at)

    async def head(self, key: str) -> bytes:
        """As the port says."""
        return await self._run(self._head, key)

    def _head(self, key: str) -> bytes:
        for path in (self._upload(key).data, self.path(key)):
            try:
                with open(path, "rb") as file:
                    return file.read(HEAD_BYTES)
            except FileNotFoundError:
                continue
        return b""

    async def seal_upload(self, upload: UploadHandle) -> None:
        """As the port says. Afterwards the object is safe on the disk."""
        await self._run(self._upload(upload.key).seal, self.path(upload.key))

    async def abort_upload(self, upload: UploadHandle) -> None:
        """As the port says. A sealed upload stays as it is."""
        await self._run(self._upload(upload.key).remove)

    def sign_download(
        self, key: str, file_name: str, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """As the port says; the address is a path."""
        return self.addresses.for_download(DownloadAddress(checked_key(key), file_name, asker), expires_at)

    async def open_object(self, key: str) -> ObjectReader:
        """Open an object to read with `chunks`; then `release` it. Raises ObjectMissing."""
        return await self._run(ObjectReader, self.path(key))

    async def chunks(self, reader: ObjectReader, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of an open object from `start` to `end` (exclusive)."""
        while start < end:
            chunk = await self._run(reader.read, start, min(READ_BYTES, end - start))
            if not chunk:
                raise StoreUnavailable("an object became shorter while it was read")
            start += len(chunk)
            yield chunk

    def release(self, reader: ObjectReader) -> None:
        """Close an object once running reads have ended. Never blocks."""
        self._threads.submit(reader.close)

    async def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """As the port says, in chunks of 1 MiB."""
        reader = await self.open_object(key)
        try:
            async for chunk in self.chunks(reader, 0, reader.size):
                yield chunk
        finally:
            self.release(reader)

    async def delete(self, key: str) -> None:
        """As the port says. Also discards an upload that is open under the key."""
        await self._run(self._delete, key)

    def _delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)
        self._upload(key).remove()

    async def size(self, key: str) -> int:
        """As the port says."""
        try:
            return (await asyncio.get_running_loop().run_in_executor(self._threads, os.stat, self.path(key))).st_size
        except (FileNotFoundError, NotADirectoryError):
            raise ObjectMissing("no such object") from None
        except OSError as error:
            raise store_error(error) from error

    async def batches(self) -> AsyncIterator[Sequence[tuple[str, datetime]]]:
        """As the port says."""
        found = listing(self._objects, self._open)
        while batch := await self._run(lambda: list(islice(found, LISTED_AT_ONCE))):
            # The sweep must not delete files of other programs.
            yield [(key, changed) for key, changed in batch if is_key(key)]

    async def check(self) -> None:
        """As the port says: writes a file and removes it."""
        await self._run(self._check)

    def _check(self) -> None:
        probe = self._open.parent / f".probe-{secrets.token_hex(8)}"
        probe.write_bytes(b"1")
        probe.unlink()
        for folder in (self._objects, self._open):
            os.stat(folder)

    def _upload(self, key: str) -> OpenUpload:
        return OpenUpload(self._open / checked_key(key).replace("/", "+"))

    async def _run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking call in a thread of the store. Raises StoreFull or StoreUnavailable for OSError."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, partial(call, *args, **kwargs))
        except OSError as error:
            raise store_error(error) from error


def store_error(error: OSError) -> StoreError:
    """What an error of the disk is to those who use the store."""
    reason = error.strerror or type(error).__name__
    if error.errno in _NO_ROOM:
        return StoreFull(f"the folder of the object store has no space: {reason}")
    return StoreUnavailable(f"the folder of the object store can't be used: {reason}")
