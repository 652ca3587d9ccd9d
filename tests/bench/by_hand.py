"""What a user does without a gateway: download from the store, `qemu-img convert`, and upload the result."""

import http.client
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.adapters.s3.bucket import Bucket
from app.adapters.s3.signing import Signer
from app.s3_address import S3Address
from tests.bench.disks import Disk, run_qemu_img
from tests.bench.serving import MeasurementFailed
from tests.bench.uploading import Part, parted, send

_PART = 16 << 20
_AT_ONCE = 4
_ANSWER_SECONDS = 300
_PIECE = 1 << 20
_LIFETIME = timedelta(hours=6)
_SOURCE, _RESULT = "by-hand/source", "by-hand/result"


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds that each of the three steps took."""

    download: float
    convert: float
    upload: float

    @property
    def whole(self) -> float:
        """All three, one after the other."""
        return self.download + self.convert + self.upload


class ByHand:
    """A client of a bucket. The bytes that it sends are neither hashed nor signed."""

    def __init__(self, address: S3Address, bucket: Bucket, folder: Path) -> None:
        self._signer = Signer(address)
        self._bucket = bucket
        self._folder = folder

    def put_source(self, file: Path) -> None:
        """Make ready: the file as an object."""
        self._upload(_SOURCE, file)

    def convert(self, disk: Disk) -> Times:
        """Download the source, convert it, and upload the result, which is deleted afterwards."""
        source, result = self._folder / "by-hand.source", self._folder / "by-hand.qcow2"
        try:
            size = self._bucket.size(_SOURCE)
            download = _timed(lambda: self._download(_SOURCE, source, size))
            command = ("convert", "-W", "-m", "16", "-f", disk.driver, "-O", "qcow2")
            convert = _timed(lambda: run_qemu_img(*command, source, result))
            return Times(download, convert, _timed(lambda: self._upload(_RESULT, result)))
        finally:
            source.unlink(missing_ok=True)
            result.unlink(missing_ok=True)
            self._bucket.delete(_RESULT)

    def remove_source(self) -> None:
        """Delete what `put_source` made."""
        self._bucket.delete(_SOURCE)

    def _upload(self, key: str, file: Path) -> None:
        """Parts of 16 MiB, four at once, from the page cache to the socket inside the kernel."""
        size = file.stat().st_size
        reference = self._bucket.open_multipart(key)
        parts, host = [], ("", 0)
        for number, start in enumerate(range(0, size, _PART), start=1):
            query = {"partNumber": str(number), "uploadId": reference}
            host, path = parted(self._signed("PUT", key, query))
            parts.append(Part(path, start, min(_PART, size - start)))
        send(host, file, parts, _AT_ONCE)
        stored = self._bucket.parts(key, reference)
        self._bucket.complete(key, reference, [(part.number, part.etag) for part in stored])

    def _download(self, key: str, file: Path, size: int) -> None:
        """Four ranges at once."""
        host, path = parted(self._signed("GET", key, {}))
        step = -(-size // _AT_ONCE)
        with file.open("wb", buffering=0) as target, ThreadPoolExecutor(_AT_ONCE) as threads:
            fetch = [
                threads.submit(_fetch, host, path, target.fileno(), start, min(size, start + step))
                for start in range(0, size, step)
            ]
            for done in fetch:
                done.result()

    def _signed(self, method: str, key: str, query: dict[str, str]) -> str:
        return self._signer.sign(method, key, query, at=datetime.now(UTC), lifetime=_LIFETIME)


def _fetch(host: tuple[str, int], path: str, target: int, start: int, end: int) -> None:
    """Write the bytes from `start` to before `end` where they belong. Raises MeasurementFailed."""
    connection = http.client.HTTPConnection(*host, timeout=_ANSWER_SECONDS)
    buffer = memoryview(bytearray(_PIECE))
    try:
        connection.request("GET", path, headers={"Range": f"bytes={start}-{end - 1}"})
        response = connection.getresponse()
        if response.status != 206:
            raise MeasurementFailed(f"GET: {response.status} {response.read()[:500]!r}")
        while start < end:
            got = response.readinto(buffer)
            if not got:
                raise MeasurementFailed("the store sent less than it was asked for")
            os.pwrite(target, buffer[:got], start)
            start += got
    finally:
        connection.close()


def _timed(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began
