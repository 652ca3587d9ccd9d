"""Why a connection to PostgreSQL failed, without the address, since that contains the password.

Loads asyncpg when it is needed: with SQLite, it never is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import DatabaseUnavailable


class NotConnected(DatabaseUnavailable):
    """Raised when PostgreSQL can't be reached, or refuses the connection.

    The message names the setting and says what to do. `reason` is shorter, for a line that begins with the setting.
    `wrong` problems persist; `restarting` ones end within seconds if the server is being restarted.
    """

    def __init__(self, reason: str, message: str, *, wrong: bool = False, restarting: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.wrong = wrong
        self.restarting = restarting


@contextmanager
def as_not_connected() -> Iterator[None]:
    """Raise NotConnected for what asyncpg raises when it connects."""
    import asyncpg

    try:
        yield
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise _explained(error) from error


def _explained(error: Exception) -> NotConnected:
    import asyncpg

    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            reason = "PostgreSQL refuses the user or the password"
            return NotConnected(reason, f"{reason} of IMAGES_DATABASE_URL", wrong=True)
        case asyncpg.InvalidCatalogNameError():
            reason = "PostgreSQL has no database of that name"
            message = "PostgreSQL does not have the database in IMAGES_DATABASE_URL; create it with createdb"
            return NotConnected(reason, message, wrong=True)
        case asyncpg.InsufficientPrivilegeError():
            reason = "PostgreSQL does not let this user use the database"
            return NotConnected(reason, f"{reason} in IMAGES_DATABASE_URL; grant CONNECT on it", wrong=True)
        case asyncpg.TooManyConnectionsError():
            reason = "PostgreSQL has too many connections"
            return NotConnected(reason, f"{reason}; raise its max_connections, or lower IMAGES_DATABASE_CONNECTIONS")
        case asyncpg.CannotConnectNowError() | asyncpg.AdminShutdownError() | asyncpg.ConnectionDoesNotExistError():
            reason = "PostgreSQL is starting or stopping"
            return NotConnected(reason, f"{reason}; try again soon", restarting=True)
        case ConnectionError() if "SSL" in str(error):
            reason = "PostgreSQL does not support TLS"
            return NotConnected(reason, f"{reason}, which IMAGES_DATABASE_URL requires", wrong=True)
        case TimeoutError():
            reason = "PostgreSQL does not answer in time"
            return NotConnected(reason, f"{reason}; check the address in IMAGES_DATABASE_URL")
        case OSError():
            reason = f"PostgreSQL can't be reached: {_said(error)}"
            message = f"{reason}; check that it runs, and check IMAGES_DATABASE_URL"
            return NotConnected(reason, message, restarting=isinstance(error, ConnectionError))
        case asyncpg.PostgresError():
            reason = f"PostgreSQL refuses the connection ({error.sqlstate})"
            return NotConnected(reason, f"{reason}; see its log", wrong=True)
        case _:
            reason = "the address is not valid, or has an option that PostgreSQL or its driver does not support"
            message = "IMAGES_DATABASE_URL is not valid; write postgresql://user:password@host:port/name"
            return NotConnected(reason, message, wrong=True)


def _said(error: OSError) -> str:
    # The text of asyncio's errors contains the address. Negative numbers are errors of name resolution.
    if error.errno is None:
        return "no answer"
    return os.strerror(error.errno) if error.errno > 0 else error.strerror or "the name is unknown"
