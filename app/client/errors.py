"""The errors that end a user's command.

ClientError
├── Misconfigured           a setting is missing, or has a value that can't work
├── UnusableFile            a local file can't be read, written or sent
├── Refused                 the request is refused, with what the caller has to fix
│   ├── Ambiguous           several objects have the name; the ids are listed
│   └── UploadClosed        the upload accepts no more bytes; its image says why
├── NotAllowed              no token, an invalid token, or a missing right
│   └── AddressRefused      a signed address does not work, or no longer works
├── NotFound                no such object
├── Failed                  what the command waited for has failed
│   ├── ImageFailed         an image ended in ERROR
│   └── ServerFailed        a server is in ERROR, or did not stay up
├── Interrupted             the user ended the command
└── NoAnswer                the gateway returns no usable response
    ├── NotReachable        no response, or the connection broke; a later attempt may work
    ├── Overloaded          the gateway can't serve the request now; a later attempt may work
    └── NoEventStream       the response is not an event stream
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from app.client.exits import ExitCode

if TYPE_CHECKING:
    from app.client.generated.fragments import ImageFields, ServerFields


class ClientError(Exception):
    """Base class. `code` is for programs, `message` and `hint` are for people, and `details` go into JSON unchanged."""

    exit_code: ClassVar[ExitCode]
    usual_code: ClassVar[str]
    temporary: ClassVar[bool] = False
    """Whether the same request may succeed when it is retried."""

    def __init__(self, message: str, *, hint: str | None = None, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code or self.usual_code
        self.details: Mapping[str, Any] = details

    def as_json(self) -> dict[str, Any]:
        """The value of "error" in the output of `--json`."""
        known = {"code": self.code, "message": self.message, "hint": self.hint}
        return {**known, **{name: value for name, value in self.details.items() if value is not None}}


class Misconfigured(ClientError):
    """Raised when the address, the token or an option is missing or invalid."""

    exit_code = ExitCode.USAGE
    usual_code = "CONFIGURATION"


class UnusableFile(ClientError):
    """Raised when a local file can't be read, written or sent."""

    exit_code = ExitCode.USAGE
    usual_code = "FILE"


class Refused(ClientError):
    """Raised when the gateway refuses a request that the caller can fix; `code` is the one in userErrors."""

    exit_code = ExitCode.REFUSED
    usual_code = "INVALID"


class Ambiguous(Refused):
    """Raised when several objects have the name that was given."""

    usual_code = "AMBIGUOUS"

    @classmethod
    def among(cls, things: str, name: str, ids: Sequence[str]) -> "Ambiguous":
        """The error for several `things` of one name, such as "servers"."""
        hint = "Use one of these ids: " + ", ".join(ids)
        return cls(f"{len(ids)} {things} are called {name}.", hint=hint, ids=list(ids))


class UploadClosed(Refused):
    """Raised when an upload accepts no more bytes: it was completed or aborted, or has expired."""

    usual_code = "UPLOAD_CLOSED"


class NotAllowed(ClientError):
    """Raised when the token is missing or invalid, or grants too few rights."""

    exit_code = ExitCode.NOT_ALLOWED
    usual_code = "UNAUTHENTICATED"


class AddressRefused(NotAllowed):
    """Raised when a signed address is refused, usually because it has expired."""

    usual_code = "ADDRESS_REFUSED"


class NotFound(ClientError):
    """Raised when an object does not exist, or the token's holder may not see it."""

    exit_code = ExitCode.NOT_FOUND
    usual_code = "NOT_FOUND"


class Failed(ClientError):
    """Raised when what the command waited for has failed."""

    exit_code = ExitCode.FAILED
    usual_code = "INTERNAL"


class ImageFailed(Failed):
    """Raised when an image ended in ERROR; contains the image's failure."""

    @classmethod
    def of(cls, image: "ImageFields") -> "ImageFailed":
        """The error for an image in ERROR, with the code, message and hint of its failure."""
        if image.failure is None:
            return cls("The image is in ERROR.", image=image)
        failure = image.failure
        return cls(failure.message, hint=failure.hint, code=failure.code, retriable=failure.retriable, image=image)


class ServerFailed(Failed):
    """Raised when a server is in ERROR, or stopped when it had to run; contains the server."""

    @classmethod
    def of(cls, server: "ServerFields") -> "ServerFailed":
        """The error for a server in ERROR, with the code, message and hint of its failure."""
        if server.failure is None:
            return cls("The server is in ERROR.", server=server)
        failure = server.failure
        return cls(failure.message, hint=failure.hint, code=failure.code, server=server)


class Interrupted(ClientError):
    """Raised when the user ends the command before it has finished."""

    exit_code = ExitCode.INTERRUPTED
    usual_code = "INTERRUPTED"


class NoAnswer(ClientError):
    """Raised when the gateway returns no usable response."""

    exit_code = ExitCode.NO_ANSWER
    usual_code = "SERVER_ERROR"


class NotReachable(NoAnswer):
    """Raised when there is no response, or the connection broke before it was complete."""

    usual_code = "NOT_REACHABLE"
    temporary = True


class Overloaded(NoAnswer):
    """Raised when the gateway, or a proxy in front of it, can't serve the request now."""

    usual_code = "UNAVAILABLE"
    temporary = True


class NoEventStream(NoAnswer):
    """Raised when the response to a subscription is not an event stream."""

    usual_code = "NO_EVENT_STREAM"


# Codes of GraphQL errors and of userErrors that have an error other than Refused.
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
    "HOST_UNAVAILABLE": Overloaded,
    "TOO_MANY_SEARCHES": Overloaded,
}


def error_of(code: str | None, message: str, hint: str | None, **details: Any) -> ClientError:
    """The error for a code in a response; Refused for codes that are not known here."""
    kind = _BY_CODE.get(code or "", Refused)
    return kind(message, hint=hint, code=code, **details)
