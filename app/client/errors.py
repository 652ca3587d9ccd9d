"""Every error that ends a users' command.

ClientError
├── Misconfigured           something has to be set, or is set to what can't work
├── UnusableFile            a local file can't be read, written or sent
├── Refused                 the gateway says what the caller has to mend
│   └── UploadClosed        an upload takes no more bytes; its image says why
├── NotAllowed              no token, one that does not hold, or a missing right
│   └── AddressRefused      a signed address does not work (any more)
├── NotFound                no such image, project, share or member
├── ImageFailed             an image ended in ERROR
├── Interrupted             whoever sits there wants no more of it
└── NoAnswer                the gateway gives no answer that can be used
    ├── NotReachable        nobody answers, or the connection broke; later it may work
    ├── Overloaded          it answers that it can't now; later it may work
    └── NoEventStream       it answers, but not with a stream of events
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from app.client.exits import ExitCode

if TYPE_CHECKING:
    from app.client.generated.fragments import ImageFields


class ClientError(Exception):
    """Base of all. `code` is for programs, `message` and `hint` for people, `details` go into JSON as they are."""

    exit_code: ClassVar[ExitCode]
    usual_code: ClassVar[str]
    temporary: ClassVar[bool] = False
    """Whether the same request may succeed a little later."""

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.usual_code
        self.details: Mapping[str, Any] = details

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints below "error"."""
        known = {"code": self.code, "message": self.message, "hint": self.hint}
        return {**known, **{name: value for name, value in self.details.items() if value is not None}}


class Misconfigured(ClientError):
    """Raised when the command can't know where to go, or as whom."""

    exit_code = ExitCode.USAGE
    usual_code = "CONFIGURATION"


class UnusableFile(ClientError):
    """Raised when a local file can't be read, written or sent."""

    exit_code = ExitCode.USAGE
    usual_code = "FILE"


class Refused(ClientError):
    """Raised when the gateway says what the caller has to mend; `code` is that of the entry in userErrors."""

    exit_code = ExitCode.REFUSED
    usual_code = "INVALID"


class UploadClosed(Refused):
    """Raised when an upload takes no more bytes: it is completed, or was given up."""

    usual_code = "UPLOAD_CLOSED"


class NotAllowed(ClientError):
    """Raised when the token is missing, does not hold, or gives too few rights."""

    exit_code = ExitCode.NOT_ALLOWED
    usual_code = "UNAUTHENTICATED"


class AddressRefused(NotAllowed):
    """Raised when a signed address does not work: it has expired, most likely."""

    usual_code = "ADDRESS_REFUSED"


class NotFound(ClientError):
    """Raised when there is no such image, project, share or member, or none that the token's holder may see."""

    exit_code = ExitCode.NOT_FOUND
    usual_code = "NOT_FOUND"


class ImageFailed(ClientError):
    """Raised when an image ended in ERROR; carries its failure."""

    exit_code = ExitCode.IMAGE_FAILED
    usual_code = "INTERNAL"

    @classmethod
    def of(cls, image: "ImageFields") -> "ImageFailed":
        """The error that tells of an image in ERROR."""
        if image.failure is None:
            return cls("The image is in ERROR.", image=image)
        failure = image.failure
        return cls(failure.message, hint=failure.hint, code=failure.code, retriable=failure.retriable, image=image)


class Interrupted(ClientError):
    """Raised when the user ends the command before it is done."""

    exit_code = ExitCode.INTERRUPTED
    usual_code = "INTERRUPTED"


class NoAnswer(ClientError):
    """Raised when the gateway gives no answer that can be used."""

    exit_code = ExitCode.NO_ANSWER
    usual_code = "SERVER_ERROR"


class NotReachable(NoAnswer):
    """Raised when nobody answers, or the connection broke before the answer was there."""

    usual_code = "NOT_REACHABLE"
    temporary = True


class Overloaded(NoAnswer):
    """Raised when the gateway, or what stands before it, answers that it can't now."""

    usual_code = "UNAVAILABLE"
    temporary = True


class NoEventStream(NoAnswer):
    """Raised when a subscription is answered, but not with a stream of events."""

    usual_code = "NO_EVENT_STREAM"


# Codes of GraphQL errors and of userErrors that mean more than "refused".
_BY_CODE: dict[str, type[ClientError]] = {
    "UNAUTHENTICATED": NotAllowed,
    "TOKEN_EXPIRED": NotAllowed,
    "FORBIDDEN": NotAllowed,
    "NOT_TARGET_ADMIN": NotAllowed,
    "NOT_FOUND": NotFound,
    "INTERNAL": NoAnswer,
    "SHUTTING_DOWN": Overloaded,
    "STORAGE_UNAVAILABLE": Overloaded,
    "DATABASE_DAMAGED": NoAnswer,
    "UNAVAILABLE": Overloaded,
    "TOO_MANY_SEARCHES": Overloaded,
}


def error_of(code: str | None, message: str, hint: str | None, **details: Any) -> ClientError:
    """The error that an answer's code stands for; codes that nobody knows here are refusals."""
    kind = _BY_CODE.get(code or "", Refused)
    return kind(message, hint=hint, code=code, **details)
