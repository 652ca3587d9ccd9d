"""Every error that the gateway raises deliberately.

GatewayError
├── UserMistake                 what a caller can fix; becomes an entry of `userErrors`
│   ├── InvalidInput            INVALID
│   ├── NotFound                NOT_FOUND
│   ├── Forbidden               FORBIDDEN
│   ├── Conflict                CONFLICT
│   ├── StaleRevision           STALE_REVISION
│   ├── QuotaExceeded           QUOTA_EXCEEDED
│   ├── TooLarge                TOO_LARGE
│   ├── UnsupportedFormat       UNSUPPORTED_FORMAT
│   ├── NotReady                NOT_READY
│   ├── InUse                   IN_USE
│   ├── BootDiskTooSmall        BOOT_DISK_TOO_SMALL
│   ├── WillNotBoot             WILL_NOT_BOOT
│   ├── NoHypervisor            NO_HYPERVISOR
│   ├── ProtectedImage          PROTECTED
│   ├── DifferentOrganization   DIFFERENT_ORGANIZATION
│   └── NotTargetAdmin          NOT_TARGET_ADMIN
├── ReadRefused                 why a read was refused; becomes a top-level error
│   ├── ResyncRequired          RESYNC_REQUIRED
│   ├── HostUnavailable         HOST_UNAVAILABLE
│   ├── SearchTimeout           SEARCH_TIMEOUT
│   └── TooManySearches         TOO_MANY_SEARCHES
├── ImageFailed                 why a conversion ended in ERROR; becomes the image's `failure`
├── NotAuthenticated            no token, or an invalid one
├── StoreError
│   ├── StoreUnavailable        the object store does not answer, or refuses
│   ├── StoreFull               not enough space for these bytes
│   ├── ObjectMissing           no object under that key
│   ├── UploadClosed            the upload does not accept bytes, or no longer does
│   ├── PartsMissing            an upload can't be sealed: parts have not arrived
│   ├── PartsArriving           an upload can't be sealed: a part is still arriving
│   └── WrongPart               an upload holds a part that no signed URL allows
├── DatabaseUnavailable         the database does not answer, or has not been migrated
│   ├── DatabaseFull            its disk is full
│   └── DatabaseDamaged         its file is corrupt or incomplete
├── LeaseLost                   a job was reassigned to another worker, or cancelled
├── HostForgotten               this machine's host was removed by an operator
├── HostNotForgotten            a host can't be removed
└── SettingsError               the configuration is invalid
"""

from collections.abc import Sequence

from app.lifecycle import FailureCode
from app.sizes import counted

# Messages for callers, the same from GraphQL and from `/objects`.
DISK_FULL_MESSAGE = "The gateway's disk is full."
STORE_UNAVAILABLE_MESSAGE = "The object store is not available right now."
DATABASE_UNAVAILABLE_MESSAGE = "The catalogue is not available right now."


class GatewayError(Exception):
    """Base of all errors that are raised deliberately."""


class UserMistake(GatewayError):
    """Raised when the caller can fix it. `field` is a path into the mutation's input; `hint` says what to do."""

    code = "INVALID"

    def __init__(self, message: str, *, field: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = tuple(field)
        self.hint = hint


class InvalidInput(UserMistake):
    """Raised when a value is not valid."""

    code = "INVALID"


class NotFound(UserMistake):
    """Raised when the thing does not exist, or the caller may not see it."""

    code = "NOT_FOUND"


class Forbidden(UserMistake):
    """Raised when the caller may see the thing, but may not do this to it."""

    code = "FORBIDDEN"


class Conflict(UserMistake):
    """Raised when the request conflicts with the thing's state or with an earlier request."""

    code = "CONFLICT"


class StaleRevision(UserMistake):
    """Raised when `expectedRevision` is no longer the thing's revision."""

    code = "STALE_REVISION"


class QuotaExceeded(UserMistake):
    """Raised when a project would exceed a limit. The numbers count things or bytes, depending on the limit."""

    code = "QUOTA_EXCEEDED"

    def __init__(
        self,
        message: str,
        *,
        limit: int,
        used: int,
        requested: int,
        reserved: int | None = None,
        field: Sequence[str] = (),
        hint: str | None = None,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.limit = limit
        self.used = used
        self.requested = requested
        self.reserved = reserved


class TooLarge(UserMistake):
    """Raised when a size is above the accepted maximum."""

    code = "TOO_LARGE"


class UnsupportedFormat(UserMistake):
    """Raised when a file has no format that can be converted."""

    code = "UNSUPPORTED_FORMAT"


class NotReady(UserMistake):
    """Raised when the thing has to reach a later status first."""

    code = "NOT_READY"


class InUse(UserMistake):
    """Raised when a request would delete something that something else uses."""

    code = "IN_USE"


class BootDiskTooSmall(UserMistake):
    """Raised when a boot disk is smaller than the image needs."""

    code = "BOOT_DISK_TOO_SMALL"


class WillNotBoot(UserMistake):
    """Raised when a server would be launched from an image that is known not to boot."""

    code = "WILL_NOT_BOOT"


class NoHypervisor(UserMistake):
    """Raised when no host can run a server: there is none, or none has room."""

    code = "NO_HYPERVISOR"


class ProtectedImage(UserMistake):
    """Raised when a request would delete a protected image."""

    code = "PROTECTED"


class DifferentOrganization(UserMistake):
    """Raised when a request would share an image outside its organization."""

    code = "DIFFERENT_ORGANIZATION"


class NotTargetAdmin(UserMistake):
    """Raised when only an admin of the project that the image is shared with may do this."""

    code = "NOT_TARGET_ADMIN"


class ReadRefused(GatewayError):
    """Raised when a read is refused. `field` is the path of the argument; `hint` says what to do."""

    code = "INVALID"

    def __init__(self, message: str, *, field: Sequence[str] = (), hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = tuple(field)
        self.hint = hint


class ResyncRequired(ReadRefused):
    """Raised when events are requested after a cursor that the feed no longer knows."""

    code = "RESYNC_REQUIRED"


class HostUnavailable(ReadRefused):
    """Raised when only a host could answer, and it does not."""

    code = "HOST_UNAVAILABLE"


class SearchTimeout(ReadRefused):
    """Raised when a search takes longer than its time limit."""

    code = "SEARCH_TIMEOUT"


class TooManySearches(ReadRefused):
    """Raised when too many searches are already running."""

    code = "TOO_MANY_SEARCHES"


class ImageFailed(GatewayError):
    """Raised when an image can't become ACTIVE. Message and hint are shown to its owner: no paths, no internals.

    `retriable` says whether a retry with the same bytes may succeed.
    """

    def __init__(self, code: FailureCode, message: str, hint: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retriable = retriable


class NotAuthenticated(GatewayError):
    """Raised when a token is missing, malformed, forged or expired. The text may be shown to the caller."""


class StoreError(GatewayError):
    """Base of the errors that object stores raise."""


class StoreUnavailable(StoreError):
    """Raised when the object store does not answer, or refuses for its own reasons."""


class StoreFull(StoreError):
    """Raised when the object store does not have enough space for these bytes."""


class ObjectMissing(StoreError):
    """Raised when there is no object under the key."""


class UploadClosed(StoreError):
    """Raised when bytes are sent to an upload that is sealed or aborted, or was never opened."""


class PartsMissing(StoreError):
    """Raised when an upload can't be sealed because parts have not arrived: `numbers`, ascending."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__("1 part has not arrived" if len(numbers) == 1 else f"{len(numbers)} parts have not arrived")
        self.numbers = tuple(numbers)


class PartsArriving(StoreError):
    """Raised when an upload can't be sealed because bytes of it are still arriving."""


class WrongPart(StoreError):
    """Raised when an upload contains a part that no signed URL allows: a client misused a URL.

    `size` is the size of the part, `expected` the size it should have, in bytes; None when the part should not exist.
    """

    def __init__(self, number: int, size: int, expected: int | None) -> None:
        super().__init__(f"part {number} has {counted(size, 'byte')}; expected {expected or 0:,}")
        self.number = number
        self.size = size
        self.expected = expected


class DatabaseUnavailable(GatewayError):
    """Raised when the database does not answer or can't do this now. A retry may succeed."""


class DatabaseFull(DatabaseUnavailable):
    """Raised when the disk of the database is full."""


class DatabaseDamaged(DatabaseUnavailable):
    """Raised when the database file is corrupt. It has to be restored from a backup."""


class LeaseLost(GatewayError):
    """Raised when a worker finds that its job was reassigned to another worker, or cancelled."""


class HostForgotten(GatewayError):
    """Raised when a host reports that it is alive after an operator removed it. The text says what to do."""


class HostNotForgotten(GatewayError):
    """Raised when a host can't be removed: there is none with this id, or it is alive. The text says what to do."""


class SettingsError(GatewayError):
    """Raised at start-up when the configuration is invalid. The text says what to change."""
