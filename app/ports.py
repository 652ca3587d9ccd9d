"""What the use cases need of the world outside, as protocols. One adapter each lies in `app/adapters/`."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

# What is inspected while the rest of an upload still arrives: enough for every header, small enough to be here soon.
HEAD_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request that anyone who has it may make until it expires.

    `url` is absolute, or, where the gateway itself serves the bytes, a path below its public address.
    """

    method: str
    url: str
    expires_at: datetime
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asked for a signed request, and the image or upload (by id) that it is about.

    A store whose requests pass through the gateway keeps both in the request, unreadable for its holder: the
    gateway decides again, at every use, whether `subject` may still do this. `operator` is a claim of a token and
    can't be looked up later: it holds as long as the request does.
    """

    subject: str
    operator: bool
    target: str


@dataclass(frozen=True, slots=True)
class UploadHandle:
    """An upload as the store knows it.

    `key` names the object that the parts become, `reference` is the store's own name for the open upload
    (an S3 upload id; empty for a folder). Sizes are bytes; every part but the last is `part_size` long.
    """

    key: str
    reference: str
    size: int
    part_size: int

    @property
    def part_count(self) -> int:
        return max(1, -(-self.size // self.part_size))

    def part_offset(self, number: int) -> int:
        """Where part `number` (from 1) begins, in bytes."""
        return (number - 1) * self.part_size

    def part_length(self, number: int) -> int:
        """How many bytes part `number` (from 1) has to have."""
        return min(self.part_size, self.size - self.part_offset(number))


@dataclass(frozen=True, slots=True)
class UploadReceipt:
    """What a store holds of an upload: the numbers of complete parts, ascending, and the bytes in them.

    `sealed` is true once the parts have become an object. `last_byte_at` is None while nothing has come.
    """

    parts: Sequence[int] = field(default=())
    received_bytes: int = 0
    sealed: bool = False
    last_byte_at: datetime | None = None


class ObjectStore(Protocol):
    """Where bytes are kept. Keys are chosen by the gateway and never hold anything that a user typed.

    Every method may raise StoreUnavailable.
    """

    async def open_upload(self, key: str, size: int, part_size: int) -> UploadHandle:
        """Make ready to receive `size` bytes that become the object `key`."""

    def sign_part(
        self, upload: UploadHandle, number: int, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """The request that brings part `number`, of exactly its length.

        A store that serves its requests without the gateway ignores `asker`.
        """

    async def receipt(self, upload: UploadHandle) -> UploadReceipt:
        """What has arrived.

        Raises UploadClosed when the store knows no such upload and no such object; WrongPart.
        """

    async def seal_upload(self, upload: UploadHandle) -> None:
        """Make the object of the parts; from here on its bytes can't change. Harmless when done before.

        Raises PartsMissing, PartsArriving, UploadClosed, WrongPart.
        """

    async def abort_upload(self, upload: UploadHandle) -> None:
        """Forget the upload and its bytes; a part that is arriving is cut off. Harmless when done before."""

    def sign_download(
        self, key: str, file_name: str, expires_at: datetime, asker: Asker | None = None
    ) -> SignedRequest:
        """The request that reads an object, ranges allowed; `file_name` is what a browser calls it.

        `asker` is used as in `sign_part`.
        """

    def read(self, key: str) -> AsyncIterator[bytes]:
        """The bytes of an object, in order. Raises ObjectMissing."""

    async def head(self, key: str) -> bytes:
        """The first `HEAD_BYTES` of an object, or of an open upload; all bytes of one that is shorter.

        Empty where neither exists, or while no store can read it: an S3 store has no bytes of open uploads. What has
        not arrived of an upload is zeros.
        """

    async def delete(self, key: str) -> None:
        """Remove an object and free its bytes. Harmless when there is none."""

    async def size(self, key: str) -> int:
        """The length of an object, in bytes. Raises ObjectMissing."""

    def batches(self) -> AsyncIterator[Sequence[tuple[str, datetime]]]:
        """The keys of all objects and open uploads, each with the time of its last change, in no order.

        Some at a time, since there may be more than fit into memory. An object that has an open upload comes twice.
        """

    async def check(self) -> None:
        """Raises StoreUnavailable, with the reason, when the store can't be used."""


class JobQueue(Protocol):
    """Wakes a worker up. A message may be lost or come twice: the rows of jobs are the truth."""

    def wake(self, kind: str) -> None:
        """Have some worker take the next job of this kind. Never blocks for long, and never raises.

        Each call is a message of its own: of two, two workers may come.
        """

    async def check(self) -> None:
        """Raises GatewayError, with the reason, when no message can be sent."""


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far an image is. Never stored: the newest one per image is enough. Bytes, and an instant in UTC."""

    image_id: str
    project_id: str
    phase: str
    bytes_done: int
    bytes_total: int | None
    updated_at: datetime


class Wakeups(Protocol):
    """Tells every process that there is something to read. May be lost: readers also look by themselves."""

    def feed_grew(self) -> None:
        """The feed has new rows. Never blocks, and never raises."""

    def progressed(self, report: ProgressReport) -> None:
        """An image got further. Never blocks, and never raises."""

    def listen(self) -> AsyncIterator[ProgressReport | None]:
        """What is told from now on: a report, or None when the feed grew. One iterator per process."""
