"""What the transports require from the application that they serve."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from enum import Enum
from typing import Protocol

from starlette.requests import HTTPConnection

from app.errors import NotAuthenticated
from app.graphql.turns import Turn
from app.viewer import Viewer

# The id is returned to the caller and logged, so only characters that are safe there are accepted.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class OperationContext(Protocol):
    """What resolvers find in `info.context`. Each operation has its own, also on a socket."""

    @property
    def viewer(self) -> Viewer:
        """Who is calling."""

    @property
    def correlation_id(self) -> str:
        """Identifies the operation in logs and in the errors that the caller sees."""

    event_id: str | None
    """The id of the next event, which SSE sends as its `id:` line. A subscription sets it before it yields."""

    turn: Turn | None
    """The turn of this operation, while it has one."""

    async def starting(self) -> None:
        """Called when a subscription starts: waits until the caller's earlier ones have started."""

    def waiting(self) -> None:
        """Called when a subscription starts to wait: ends the turn, so that the caller's next operation can run."""

    def finish_event(self) -> None:
        """Called after each result of a subscription: clears its loaded objects and its event_id."""


class Authenticate(Protocol):
    """Returns the caller with this token, or the anonymous one for None. Raises NotAuthenticated."""

    def __call__(self, token: str | None) -> Awaitable[Viewer]: ...


class MakeContext(Protocol):
    """Creates the context of an operation. `connection` is its HTTP request or its WebSocket."""

    def __call__(self, connection: HTTPConnection, viewer: Viewer, correlation_id: str) -> OperationContext: ...


class Alarm(Protocol):
    """A scheduled call that can be cancelled."""

    def cancel(self) -> None: ...


class StreamEnd(Enum):
    """Why the gateway ends a stream or socket. The names are the error codes that clients see."""

    TOKEN_EXPIRED = "The token has expired or was revoked. Reconnect with a new one and the last cursor."  # noqa: S105  # nosec B105 (a message)
    SHUTTING_DOWN = "This server is shutting down. Reconnect with the last cursor."


SetAlarm = Callable[[datetime, Callable[[], None]], Alarm]


def ring_at(instant: datetime, ring: Callable[[], None]) -> Alarm:
    """Call `ring` in the running loop at `instant` (timezone-aware), or at once if that has passed."""
    seconds = (instant - datetime.now(UTC)).total_seconds()
    return asyncio.get_running_loop().call_later(max(0.0, seconds), ring)


def correlation_id_of(connection: HTTPConnection) -> str:
    """The id from the header X-Correlation-Id or X-Request-Id if it is safe to log, otherwise a new one."""
    for header in ("x-correlation-id", "x-request-id"):
        sent = connection.headers.get(header, "")
        if _SAFE_ID.fullmatch(sent):
            return sent
    return uuid.uuid4().hex


def bearer_token(authorization: str | None) -> str | None:
    """The token in the value of an Authorization header (RFC 6750, section 2.1); None if there is no such header.

    Raises NotAuthenticated for another scheme.
    """
    if authorization is None:
        return None
    scheme, _, token = authorization.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise NotAuthenticated("Send the token as `Authorization: Bearer …`.")
    return token.strip()
