"""Connections to Redis: how long they wait, what their keys begin with, and why they fail, in words for anybody."""

from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from app.errors import SettingsError

# Redis answers in a fraction of a millisecond, or something is wrong with it: nobody waits longer, in seconds.
PATIENCE_SECONDS = 2.0


def client(url: str, patience: float = PATIENCE_SECONDS) -> redis.Redis:
    """A client that connects when it is first used, and may be used by several threads.

    A command waits at most `patience` seconds for the connection and as long for its answer. One whose connection
    turns out to be dead is sent once more over a new one. Raises SettingsError for an option that there is not.
    """
    # A value in the address would go before these.
    made = redis.Redis.from_url(url, **_patience(patience), retry=Retry(NoBackoff(), 1))
    _check_options(made.connection_pool)
    return made


def async_client(url: str, patience: float = PATIENCE_SECONDS) -> "redis.asyncio.Redis":
    """The same for one event loop, and without a second try: whoever listens has to know that it missed something."""
    return redis.asyncio.Redis.from_url(url, **_patience(patience), retry=AsyncRetry(NoBackoff(), 0))


def namespace(url: str) -> str:
    """What the names of all keys and channels begin with: gateways share a Redis by using different databases of it.

    Keys of different databases are apart anyhow; channels are not.
    """
    options = parse_url(url)  # type: ignore[no-untyped-call]
    return f"images:{options.get('db', 0)}"


def reason(error: Exception) -> str:
    """Why Redis can't be used. Names neither its address nor the password."""
    text = str(error)
    if isinstance(error, redis.AuthenticationError | redis.exceptions.AuthorizationError) or _refuses_password(text):
        return "Redis refuses the user or the password"
    if isinstance(error, redis.TimeoutError):
        return "Redis does not answer in time"
    if isinstance(error, redis.BusyLoadingError):
        return "Redis is still loading its data"
    if isinstance(error, redis.ConnectionError):
        return f"Redis can't be reached: {_cause(error)}"
    return f"Redis refuses: {text.split('.')[0]}"


def is_wrong(error: Exception) -> bool:
    """Whether it is the address that is at fault: waiting will not mend it."""
    if isinstance(error, redis.TimeoutError | redis.BusyLoadingError):
        return False
    return not isinstance(error, redis.ConnectionError) or reason(error) == "Redis refuses the user or the password"


def _patience(seconds: float) -> dict[str, Any]:
    return {"socket_connect_timeout": seconds, "socket_timeout": seconds}


def _check_options(pool: Any) -> None:
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError:
        raise SettingsError("IMAGES_BROKER_URL: the address has an option that Redis connections don't have") from None


def _refuses_password(text: str) -> bool:
    return any(word in text for word in ("WRONGPASS", "NOAUTH", "Authentication required", "without any password"))


def _cause(error: BaseException) -> str:
    """What the operating system said, which lies at the bottom of the errors around it."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return "the connection was closed"
