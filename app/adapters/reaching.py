"""Checks whether the services that the settings name can be used, and if not, which setting is wrong and why.

Loads the client of a service when there is one to check.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from app.adapters.trouble import BROKER, DATABASE, Trouble
from app.database.connection_errors import NotConnected, as_not_connected
from app.errors import SettingsError
from app.settings import Settings

log = structlog.get_logger()

# How long one attempt may take, and how long a starting process waits for services that are also starting, in seconds.
TRY_SECONDS = 3.0
WAIT_SECONDS = 30.0
_PAUSE = 0.5


def troubles(settings: Settings) -> list[Trouble]:
    """Check every service outside this process. Blocks, so don't call it in an event loop."""
    found = (database_trouble(settings), broker_trouble(settings), store_trouble(settings))
    return [trouble for trouble in found if trouble is not None]


def wait_until_reached(
    settings: Settings, check: Callable[[Settings], list[Trouble]] = troubles, seconds: float = WAIT_SECONDS
) -> None:
    """Wait until the database and the object store can be used. Raises SettingsError.

    A problem that waiting does not solve raises at once; others are logged. Does not wait for the broker: without it,
    jobs and news are only late.
    """
    give_up_at = time.monotonic() + seconds
    logged: set[Trouble] = set()
    while found := check(settings):
        late = time.monotonic() > give_up_at
        hopeless = [trouble for trouble in found if trouble.wrong or (late and trouble.setting != BROKER)]
        if hopeless:
            raise SettingsError("; ".join(str(trouble) for trouble in hopeless))
        for trouble in found:
            if trouble not in logged:
                log.warning("start.not_reached", setting=trouble.setting, reason=trouble.reason)
        logged.update(found)
        if all(trouble.setting == BROKER for trouble in found):
            return
        time.sleep(_PAUSE)


def database_trouble(settings: Settings) -> Trouble | None:
    """Why PostgreSQL can't be used; None when it can, or when the database is SQLite."""
    if settings.database_url is None:
        return None
    try:
        asyncio.run(_ask_database(settings.database_url.get_secret_value()))
    except NotConnected as error:
        return Trouble(DATABASE, error.reason, error.wrong)
    return None


def broker_trouble(settings: Settings) -> Trouble | None:
    """Why Redis can't be used; None when it can, or when no broker is set."""
    if settings.broker_url is None:
        return None
    import redis

    from app.adapters.messaging import redis_client

    try:
        with redis_client.client(settings.broker_url.get_secret_value(), TRY_SECONDS) as client:
            client.ping()
    except SettingsError as error:
        return Trouble(BROKER, str(error).removeprefix(f"{BROKER}: "), wrong=True)
    except (redis.RedisError, OSError) as error:
        return Trouble(BROKER, redis_client.reason(error), redis_client.is_wrong(error))
    return None


def store_trouble(settings: Settings) -> Trouble | None:
    """Why the bucket can't be used safely; None when it can, or when objects are stored in a folder.

    Objects that are put into the bucket for the check are deleted again.
    """
    if settings.s3 is None:
        return None
    from app.adapters.s3.checking import trouble_of

    return trouble_of(settings.s3, settings.upload_key, TRY_SECONDS)


async def _ask_database(address: str) -> None:
    import asyncpg

    with as_not_connected():
        async with asyncio.timeout(TRY_SECONDS):
            connection = await asyncpg.connect(address, timeout=TRY_SECONDS)
            await connection.close()
