"""Downloads an image as qcow2, resumes an earlier run, and verifies the result."""

import asyncio
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

import httpx

from app.client.api.catalogue import require_image
from app.client.api.gateway import Api, present
from app.client.errors import AddressRefused, NoAnswer, NotReachable, Refused, UnusableFile
from app.client.generated.download import DownloadImage
from app.client.generated.fragments import ImageFields, SignedRequestFields
from app.client.generated.input_types import ImageLookup
from app.client.retrying import RetryPolicy, succeeded
from app.client.terminal.reporting import Reporter
from app.client.transfer import signed
from app.sizes import MIB

_CHUNK = MIB
# If this many new addresses in a row are refused, the reason is not their age.
_ADDRESSES = 3
_MAXIMUM_NAME = 200
_RANGE = re.compile(r"bytes (\d{1,19})-\d{1,19}/(\d{1,19})")


@dataclass(slots=True)
class Partial:
    """The bytes received so far, in `file`, and their digest."""

    file: FileIO
    size: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def read_earlier(self) -> None:
        """Read the bytes of an earlier run. Blocks."""
        self.file.seek(0)
        while chunk := self.file.read(_CHUNK):
            self.digest.update(chunk)
            self.size += len(chunk)

    def start_over(self) -> None:
        """Discard all bytes."""
        self.file.seek(0)
        self.file.truncate()
        self.size, self.digest = 0, hashlib.sha256()

    def append(self, chunk: bytes) -> None:
        """Append bytes. Blocks. Raises UnusableFile, for example if the disk is full."""
        left = memoryview(chunk)
        while left:
            try:
                written = self.file.write(left)
            except OSError as error:
                raise UnusableFile(f"{self.file.name} can't be written: {error.strerror}.") from error
            self.digest.update(left[:written])
            self.size += written
            left = left[written:]


@dataclass(frozen=True, slots=True)
class Downloading:
    """The download of an image to the file `target`."""

    api: Api
    http: httpx.AsyncClient
    image: ImageFields
    target: Path
    overwrite: bool
    reporter: Reporter
    policy: RetryPolicy

    async def fetch(self) -> dict[str, Any]:
        """The result of the download: path, size in bytes, SHA-256, and whether it was verified.

        Raises ClientError; UnusableFile if `target` exists and must not be overwritten.
        """
        self._require_free()
        with _claimed(self._partial_path()) as file:
            partial = Partial(file)
            await asyncio.to_thread(partial.read_earlier)
            await self._receive(partial)
            expected = (await self._download()).sha256
            digest = partial.digest.hexdigest()
            if expected is not None and digest != expected:
                os.unlink(file.name)
                raise NoAnswer(f"The downloaded file's SHA-256 is {digest}, not {expected}.", hint="Download it again.")
            self._require_free()
            await asyncio.to_thread(self._keep, file)
        return {
            "imageId": self.image.id,
            "path": str(self.target),
            "size": partial.size,
            "sha256": digest,
            "verified": expected is not None,
        }

    def _keep(self, file: FileIO) -> None:
        try:
            os.fsync(file.fileno())
            os.replace(file.name, self.target)
        except OSError as error:
            raise UnusableFile(f"{self.target} can't be written: {error.strerror}.") from error

    async def _receive(self, partial: Partial) -> None:
        async for attempt in self.policy.attempts():
            with attempt:
                before = partial.size
                try:
                    return await self._receive_from_some_address(partial)
                finally:
                    if partial.size > before:
                        succeeded(attempt)

    async def _receive_from_some_address(self, partial: Partial) -> None:
        # An address is valid for minutes, and a download takes hours: only refusals in a row count.
        for _ in range(_ADDRESSES - 1):
            try:
                return await self._receive_rest(present((await self._download()).download), partial)
            except AddressRefused:
                continue
        await self._receive_rest(present((await self._download()).download), partial)

    async def _download(self) -> DownloadImage:
        by_id = ImageLookup(id=self.image.id)
        image = require_image((await self.policy.until_done(lambda: self.api.download(by_id))).image)
        if image.download is None:
            raise Refused(
                f"The image can't be downloaded: its status is {image.status}.",
                hint="Download only images that are ACTIVE.",
                code="NOT_READY",
            )
        return image

    async def _receive_rest(self, request: SignedRequestFields, partial: Partial) -> None:
        headers = {**signed.headers_of(request), "Accept-Encoding": "identity"}
        if partial.size:
            headers["Range"] = f"bytes={partial.size}-"
        try:
            async with self.http.stream(
                request.method, request.url, headers=headers, timeout=signed.TIMEOUT
            ) as response:
                total = await self._begin(response, partial)
                # Write bytes as they arrive: bytes held back to fill a chunk would be lost if the connection breaks.
                async for chunk in response.aiter_raw():
                    await asyncio.to_thread(partial.append, chunk)
                    self.reporter.advance(len(chunk))
        except httpx.TransportError as error:
            raise signed.broken(error) from error
        if total is not None and partial.size != total:
            raise NotReachable(f"The download was interrupted after {partial.size} of {total} bytes.")

    async def _begin(self, response: httpx.Response, partial: Partial) -> int | None:
        """Prepare for the body of the response. The size of the whole file, if known. Raises ClientError."""
        if response.status_code == 416 and response.headers.get("content-range") == f"bytes */{partial.size}":
            return partial.size
        if not response.is_success:
            await response.aread()
            raise signed.refusal_of(response)
        sent = _RANGE.fullmatch(response.headers.get("content-range", ""))
        if response.status_code == 206 and (sent is None or int(sent[1]) != partial.size):
            raise NoAnswer("The object store returned a different range than requested.")
        if sent is None:
            partial.start_over()
        length = response.headers.get("content-length", "")
        total = int(sent[2]) if sent else int(length) if length.isdecimal() else None
        self.reporter.begin(f"downloading {self.image.name}", partial.size, total)
        return total

    def _require_free(self) -> None:
        if self.target.is_dir():
            raise UnusableFile(f"{self.target} is a folder.", hint="Choose a file with --output.")
        if not self.overwrite and self.target.exists():
            raise UnusableFile(
                f"{self.target} already exists.",
                hint="Choose another file with --output, or overwrite it with --force.",
            )

    def _partial_path(self) -> Path:
        """Next to the target, under a name unique to the image, so that the bytes of two images are never mixed."""
        mark = hashlib.sha256(self.image.id.encode()).hexdigest()[:12]
        return self.target.with_name(f"{self.target.name[:_MAXIMUM_NAME]}.{mark}.part")


def file_name_for(image: ImageFields) -> str:
    """A safe name for an image's file: the image's name never becomes a path."""
    name = re.sub(r"[^\w.-]+", "_", image.name, flags=re.ASCII).lstrip(".-_")[:_MAXIMUM_NAME]
    return (name or re.sub(r"\W+", "_", image.id, flags=re.ASCII)).removesuffix(".qcow2") + ".qcow2"


@contextmanager
def _claimed(path: Path) -> Iterator[FileIO]:
    """The file at `path`, locked and open for appending. Raises UnusableFile."""
    try:
        file = open(path, "a+b", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))
    except OSError as error:
        raise UnusableFile(f"{path} can't be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnusableFile(f"Another process is writing {path}.", hint="Wait until it has ended.") from None
        yield file
