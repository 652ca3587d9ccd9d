"""Connections to Redis: their timeouts, the prefix of their keys, and readable reasons for failures."""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from app.errors import SettingsError

# Redis normally answers in a fraction of a millisecond. Timeout in seconds.
PATIENCE_SECONDS = 2.0


def client(url: str, patience: float = PATIENCE_SECONDS) -> redis.Redis:
    """A client that connects when it is first used. Thread-safe.

    A command waits at most `patience` seconds for the connection, and as long for its answer. If the connection is
    dead, the command is sent once more over a new one. Raises SettingsError for an unknown option in the address.
    """
    # Values in the address override these.
    made = redis.Redis.from_url(url, **_patience(patience), retry=Retry(NoBackoff(), 1))
    _check_options(made.connection_pool)
    return made


def async_client(url: str, patience: float = PATIENCE_SECONDS) -> "redis.asyncio.Redis":
    """The same for one event loop, without the retry: a listener has to know that it missed messages."""
    return redis.asyncio.Redis.from_url(url, **_patience(patience), retry=AsyncRetry(NoBackoff(), 0))


def namespace(url: str) -> str:
    """Prefix of all keys and channels. It contains the number of the database, since gateways may share a Redis.

    Redis separates the keys of different databases, but not their channels.
    """
    options = parse_url(url)  # type: ignore[no-untyped-call]
    return f"images:{options.get('db', 0)}"


def reason(error: Exception) -> str:
    """Why Redis can't be used, without its address and password."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError) or _refuses_password(text):
        return "Redis refuses the user or the password"
    if isinstance(error, redis.TimeoutError):
        return "Redis does not answer in time"
    if isinstance(error, redis.BusyLoadingError):
        return "Redis is still loading its data"
    if isinstance(error, redis.ConnectionError):
        return f"Redis can't be reached: {_cause(error)}"
    return f"Redis refuses the command: {text.split('.')[0]}"


def is_wrong(error: Exception) -> bool:
    """Whether the address is wrong, so that waiting does not help."""
    if isinstance(error, redis.TimeoutError | redis.BusyLoadingError):
        return False
    return not isinstance(error, redis.ConnectionError) or reason(error) == "Redis refuses the user or the password"


def _patience(seconds: float) -> dict[str, Any]:
    return {"socket_connect_timeout": seconds, "socket_timeout": seconds}


def _check_options(pool: Any) -> None:
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError:
        raise SettingsError(
            "IMAGES_BROKER_URL: the address has an option that Redis connections do not support"
        ) from None


def _refuses_password(text: str) -> bool:
    return any(word in text for word in ("WRONGPASS", "NOAUTH", "Authentication required", "without any password"))


def _cause(error: BaseException) -> str:
    """The operating system's reason, which is the innermost of the nested errors."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection was closed"
