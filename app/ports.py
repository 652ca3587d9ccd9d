"""Protocols for what the use cases need from the outside world. `app/adapters/` implements them."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from app.sizes import KIB

# The bytes that are inspected while the rest of an upload arrives: enough for every header, and few enough to be early.
HEAD_BYTES = 256 * KIB


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request that anyone who has it can make until it expires.

    `url` is absolute. Where the gateway itself serves the bytes, it is a path below the public URL.
    """

    method: str
    url: str
    expires_at: datetime
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asker:
    """Who requested a signed request, and the id of the image or upload that it is for.

    A store whose requests pass through the gateway stores both in the request, encrypted: at every use, the gateway
    decides again whether `subject` may still do this. `operator` is a claim of a token and can't be looked up later:
    it stays valid as long as the request.
    """

    subject: str
    operator: bool
    target: str


@dataclass(frozen=True, slots=True)
class UploadHandle:
    """An upload as the store knows it.

    `key` names the object that the parts become. `reference` is the store's own name for the open upload (an S3 upload
    id; empty for a folder). Sizes are in bytes; every part except the last has `part_size` bytes.
    """

    key: str
    reference: str
    size: int
    part_size: int

    @property
    def part_count(self) -> int:
        return max(1, -(-self.size // self.part_size))

    def part_offset(self, number: int) -> int:
        """The offset of part `number` (from 1), in bytes."""
        return (number - 1) * self.part_size

    def part_length(self, number: int) -> int:
        """The length of part `number` (from 1), in bytes."""
        return min(self.part_size, self.size - self.part_offset(number))


@dataclass(frozen=True, slots=True)
class UploadReceipt:
    """What a store has received of an upload: the numbers of complete parts, ascending, and the bytes in them.

    `sealed` is true once the parts have become an object. `last_byte_at` is None until the first byte arrives.
    """

    parts: Sequence[int] = field(default=())
    received_bytes: int = 0
    sealed: bool = False
    last_byte_at: datetime | None = None


class ObjectStore(Protocol):
    """Stores bytes. The gateway chooses the keys, which never contain anything that a user typed.

    Every method may raise StoreUnavailable.
    """

    async def open_upload(self, key: str, size: int, part_size: int) -> UploadHandle:
        """Prepare to receive `size` bytes that become the object `key`."""

    def sign_part(
        self, upload: UploadHandle, number: int, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """The request that uploads part `number`, of exactly its length.

        A store whose requests do not pass through the gateway ignores `asker`.
        """

    async def receipt(self, upload: UploadHandle) -> UploadReceipt:
        """What has arrived of an upload.

        Raises UploadClosed when the store has neither the upload nor the object; WrongPart.
        """

    async def seal_upload(self, upload: UploadHandle) -> None:
        """Turn the parts into the object, whose bytes then can't change. Idempotent.

        Raises PartsMissing, PartsArriving, UploadClosed, WrongPart.
        """

    async def abort_upload(self, upload: UploadHandle) -> None:
        """Discard the upload and its bytes, including a part that is arriving. Idempotent."""

    def sign_download(
        self, key: str, file_name: str, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """The request that reads an object, also in ranges. A browser saves it as `file_name`.

        `asker` is used as in `sign_part`.
        """

    def read(self, key: str) -> AsyncGenerator[bytes, None]:
        """The bytes of an object, in order. The caller closes the generator. Raises ObjectMissing."""

    async def head(self, key: str) -> bytes:
        """The first `HEAD_BYTES` of an object or an open upload; all bytes of a shorter one.

        Empty when neither exists, or when the store can't read it: an S3 store can't read open uploads. Bytes of an
        upload that have not arrived are zeros.
        """

    async def delete(self, key: str) -> None:
        """Delete an object and free its bytes. Does nothing when there is none."""

    async def size(self, key: str) -> int:
        """The size of an object, in bytes. Raises ObjectMissing."""

    def batches(self) -> AsyncIterator[Sequence[tuple[str, datetime]]]:
        """The keys of all objects and open uploads, each with the time of its last change, in no particular order.

        They come in batches, since not all may fit into memory. An object that has an open upload comes twice.
        """

    async def check(self) -> None:
        """Check that the store can be used. Raises StoreUnavailable with the reason."""


class JobQueue(Protocol):
    """Wakes workers. A message may be lost or arrive twice: the table of jobs is the source of truth."""

    def wake(self, kind: str) -> None:
        """Make a worker take the next job of this kind. Never blocks for long, and never raises.

        Every call sends its own message, so two calls may wake two workers.
        """

    async def check(self) -> None:
        """Check that messages can be sent. Raises GatewayError with the reason."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """Progress of an image, in bytes, at an instant in UTC. Never stored: only the newest per image counts."""

    image_id: str
    project_id: str
    phase: str
    bytes_done: int
    bytes_total: int | None
    updated_at: datetime


class Wakeups(Protocol):
    """Notifies every process of new events and progress. Messages may be lost: readers also poll."""

    def feed_grew(self) -> None:
        """Notify of new rows in the feed. Never blocks, and never raises."""

    def progressed(self, report: ProgressReport) -> None:
        """Publish the progress of an image. Never blocks, and never raises."""

    def listen(self) -> AsyncIterator[ProgressReport | None]:
        """The messages from now on: a report, or None when the feed has new rows. One iterator per process."""


class HostBells(Protocol):
    """Wakes hosts when they have a job. A message may be lost or arrive twice: hosts also poll."""

    def ring(self, host_id: str) -> None:
        """Wake a host. Never blocks, and never raises."""

    def listen(self, host_id: str) -> AsyncIterator[None]:
        """Yield when the host listens, and whenever it has been woken or may have missed that."""
