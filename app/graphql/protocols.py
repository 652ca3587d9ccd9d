"""What the transports expect of the application that they serve."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from starlette.requests import HTTPConnection

from app.errors import NotAuthenticated

# Sent back to the caller and written into logs, so only what can do no harm there is taken over.
_HARMLESS_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Caller(Protocol):
    """Who is calling."""

    @property
    def subject(self) -> str:
        """The subject of the token; callers with the same one share its limits. Empty for an anonymous caller."""

    @property
    def anonymous(self) -> bool:
        """Whether there was no token: such a caller may introspect, and nothing else."""

    @property
    def expires_at(self) -> datetime | None:
        """When the token runs out (aware); streams end then. None when it never does."""


class Turn(Protocol):
    """One of the places at which a caller's operations run at a time."""

    async def start_alone(self) -> None:
        """Wait until no other operation of the caller starts a subscription, nor has just done so.

        They come in hundreds. An operation that waits for this leaves its place to others.
        """

    def end(self) -> None:
        """Leave it to the caller's next operation. Does nothing when that has been done."""


class OperationContext(Protocol):
    """What resolvers find in `info.context`. One is made for each operation, on a socket too."""

    @property
    def viewer(self) -> Caller:
        """Who is calling."""

    @property
    def correlation_id(self) -> str:
        """Names the operation in logs and in errors that are shown."""

    event_id: str | None
    """A subscription sets it before it yields: the id of that event, which SSE sends as its `id:` line."""

    turn: Turn | None
    """The turn that the caller's operations take, while this one has it."""

    async def starting(self) -> None:
        """Called when a subscription starts: wait for those of the same caller that start before it."""

    def waiting(self) -> None:
        """Called when a subscription starts to wait: end the turn, so that the caller's next operation may start."""

    def finish_event(self) -> None:
        """Called after each result of a subscription: forget what was loaded for it, and its event_id."""


class Authenticate(Protocol):
    """Tells who holds a token; None stands for no token at all. Raises NotAuthenticated."""

    def __call__(self, token: str | None) -> Awaitable[Caller]: ...


class MakeContext(Protocol):
    """Makes the context of one operation. `connection` is its HTTP request or its WebSocket."""

    def __call__(self, connection: HTTPConnection, viewer: Caller, correlation_id: str) -> OperationContext: ...


class Alarm(Protocol):
    """Something that was set to happen, and may be called off."""

    def cancel(self) -> None: ...


class StreamEnd(Enum):
    """Why the gateway ends what a client is still reading. The names are shown as error codes."""

    TOKEN_EXPIRED = "The token has expired or was revoked. Reconnect with a new one and the last cursor."  # noqa: S105  # nosec B105 (a message)
    SHUTTING_DOWN = "This server is going away. Come back with the last cursor."


SetAlarm = Callable[[datetime, Callable[[], None]], Alarm]


def ring_at(instant: datetime, ring: Callable[[], None]) -> Alarm:
    """Call `ring` in the running loop at `instant` (aware), or at once when that has passed."""
    seconds = (instant - datetime.now(UTC)).total_seconds()
    return asyncio.get_running_loop().call_later(max(0.0, seconds), ring)


def correlation_id_of(connection: HTTPConnection) -> str:
    """The id that the caller sent in X-Correlation-Id or X-Request-Id, or a new one."""
    for header in ("x-correlation-id", "x-request-id"):
        sent = connection.headers.get(header, "")
        if _HARMLESS_ID.fullmatch(sent):
            return sent
    return uuid.uuid4().hex


def bearer_token(authorization: str | None) -> str | None:
    """The token in the value of an Authorization header (RFC 6750, section 2.1); None without such a header.

    Raises NotAuthenticated for another scheme.
    """
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated("Send the token as `Authorization: Bearer …`.")
    return token.strip()
