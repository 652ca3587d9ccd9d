"""Every error that the gateway raises on purpose.

GatewayError
├── UserMistake                 what a caller can mend; becomes an entry of `userErrors`
│   ├── InvalidInput            INVALID
│   ├── NotFound                NOT_FOUND
│   ├── Forbidden               FORBIDDEN
│   ├── Conflict                CONFLICT
│   ├── StaleRevision           STALE_REVISION
│   ├── QuotaExceeded           QUOTA_EXCEEDED
│   ├── TooLarge                TOO_LARGE
│   ├── UnsupportedFormat       UNSUPPORTED_FORMAT
│   ├── NotReady                NOT_READY
│   ├── ProtectedImage          PROTECTED
│   ├── DifferentOrganization   DIFFERENT_ORGANIZATION
│   └── NotTargetAdmin          NOT_TARGET_ADMIN
├── ReadRefused                 why something can't be read as asked; becomes a top-level error
│   ├── ResyncRequired          RESYNC_REQUIRED
│   ├── SearchTimeout           SEARCH_TIMEOUT
│   └── TooManySearches         TOO_MANY_SEARCHES
├── ImageFailed                 why a conversion ended in ERROR; becomes the image's `failure`
├── NotAuthenticated            no token, or one that does not hold
├── StoreError
│   ├── StoreUnavailable        the object store does not answer or refuses
│   ├── StoreFull               no room for these bytes
│   ├── ObjectMissing           no object under that key
│   ├── UploadClosed            the upload takes no bytes (any more)
│   ├── PartsMissing            an upload can't be sealed: parts have not arrived
│   ├── PartsArriving           an upload can't be sealed: a part is arriving right now
│   └── WrongPart               an upload holds a part that no signed URL allows
├── DatabaseUnavailable         the database does not answer, or has not been migrated
│   ├── DatabaseFull            no room on its disk
│   └── DatabaseDamaged         its file does not hold a whole database
├── LeaseLost                   a job was given to somebody else, or is no longer wanted
└── SettingsError               the configuration can't work
"""

from collections.abc import Sequence

from app.lifecycle import FailureCode


class GatewayError(Exception):
    """Base of all that is raised on purpose."""


class UserMistake(GatewayError):
    """Raised when the caller can mend it. `field` is a path into the mutation's input; `hint` says what to do."""

    code = "INVALID"

    def __init__(self, message: str, *, field: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = tuple(field)
        self.hint = hint


class InvalidInput(UserMistake):
    """Raised when a value can't be used as it is."""

    code = "INVALID"


class NotFound(UserMistake):
    """Raised when there is no such thing, or none that the caller may see."""

    code = "NOT_FOUND"


class Forbidden(UserMistake):
    """Raised when the caller may see the thing, but not do this to it."""

    code = "FORBIDDEN"


class Conflict(UserMistake):
    """Raised when the state of the thing, or an earlier request, stands against it."""

    code = "CONFLICT"


class StaleRevision(UserMistake):
    """Raised when `expectedRevision` is not the thing's revision any more."""

    code = "STALE_REVISION"


class QuotaExceeded(UserMistake):
    """Raised when a project's limit would be overrun. What it is about is said in numbers: of things, or of bytes."""

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
    """Raised when a size is beyond what is taken."""

    code = "TOO_LARGE"


class UnsupportedFormat(UserMistake):
    """Raised when a file is of no format that can be converted."""

    code = "UNSUPPORTED_FORMAT"


class NotReady(UserMistake):
    """Raised when the thing has to get further first."""

    code = "NOT_READY"


class ProtectedImage(UserMistake):
    """Raised when a protected image would be deleted."""

    code = "PROTECTED"


class DifferentOrganization(UserMistake):
    """Raised when an image would be shared beyond its organization."""

    code = "DIFFERENT_ORGANIZATION"


class NotTargetAdmin(UserMistake):
    """Raised when it takes an admin of the project that an image is shared with."""

    code = "NOT_TARGET_ADMIN"


class ReadRefused(GatewayError):
    """Raised when something can't be read as asked. `field` is the path of the argument; `hint` says what to do."""

    code = "INVALID"

    def __init__(self, message: str, *, field: Sequence[str] = (), hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.field = tuple(field)
        self.hint = hint


class ResyncRequired(ReadRefused):
    """Raised when a page of events is asked for from a cursor that the feed no longer knows."""

    code = "RESYNC_REQUIRED"


class SearchTimeout(ReadRefused):
    """Raised when a search takes longer than it may."""

    code = "SEARCH_TIMEOUT"


class TooManySearches(ReadRefused):
    """Raised when other searches leave no room for one more."""

    code = "TOO_MANY_SEARCHES"


class ImageFailed(GatewayError):
    """Raised when an image can't become ACTIVE. Message and hint are shown to its owner: no paths, no internals.

    `retriable` says whether the same bytes may succeed another time.
    """

    def __init__(self, code: FailureCode, message: str, hint: str, *, retriable: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.retriable = retriable


class NotAuthenticated(GatewayError):
    """Raised when a token is missing, malformed, forged or expired; the text may be shown to the caller."""


class StoreError(GatewayError):
    """Base of what object stores raise."""


class StoreUnavailable(StoreError):
    """Raised when the object store does not answer, or refuses for a reason of its own."""


class StoreFull(StoreError):
    """Raised when the object store has no room left for these bytes."""


class ObjectMissing(StoreError):
    """Raised when there is no object under the key."""


class UploadClosed(StoreError):
    """Raised when bytes are sent to an upload that is sealed, aborted, or was never opened."""


class PartsMissing(StoreError):
    """Raised when an upload is to be sealed of which parts have not arrived. `numbers` are those, ascending."""

    def __init__(self, numbers: Sequence[int]) -> None:
        super().__init__(f"{len(numbers)} parts have not arrived")
        self.numbers = tuple(numbers)


class PartsArriving(StoreError):
    """Raised when an upload is to be sealed while bytes of it are still arriving."""


class WrongPart(StoreError):
    """Raised when an upload holds a part that no signed URL allows: somebody made a URL do something else.

    `size` is what the part has and `expected` what it should have, in bytes; None when there is no such part.
    """

    def __init__(self, number: int, size: int, expected: int | None) -> None:
        super().__init__(f"part {number} has {size} bytes, and should have {expected or 0}")
        self.number = number
        self.size = size
        self.expected = expected


class DatabaseUnavailable(GatewayError):
    """Raised when the database does not answer, or not as it should; the same may go well another time."""


class DatabaseFull(DatabaseUnavailable):
    """Raised when there is no room left on the disk of the database."""


class DatabaseDamaged(DatabaseUnavailable):
    """Raised when the file of the database is not what was written to it. Only a backup helps."""


class LeaseLost(GatewayError):
    """Raised when a worker finds that its job was handed to another one, or is no longer wanted."""


class SettingsError(GatewayError):
    """Raised at start-up when the configuration can't work; the text says what to change."""
