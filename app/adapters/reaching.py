"""Checks whether the services that the settings name can be used, and if not, which setting is wrong and why."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import asyncpg
import redis
import structlog

from app.adapters.messaging import redis_client
from app.adapters.s3.bucket import Bucket
from app.adapters.s3.errors import StoreBusy
from app.adapters.s3.policies import uploads_resource
from app.adapters.s3.probe import PartUrlCopies, SignatureIgnored, UploadKeyRefused, try_part_urls
from app.database.connection_errors import NotConnected, as_not_connected
from app.errors import SettingsError, StoreError
from app.s3_address import S3Address, S3Key
from app.settings import Settings

T = TypeVar("T")

log = structlog.get_logger()

DATABASE, BROKER, STORE = "IMAGES_DATABASE_URL", "IMAGES_BROKER_URL", "IMAGES_OBJECT_STORE"
UPLOAD_KEY = "IMAGES_OBJECT_STORE_UPLOAD_KEY"

# How long one attempt may take, and how long a starting process waits for services that are also starting, in seconds.
TRY_SECONDS = 3.0
WAIT_SECONDS = 30.0
# Checking the keys of the store takes a dozen requests.
_PROBE_SECONDS = 10.0
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Trouble:
    """A problem with the service that a setting names, without its secrets. A `wrong` one persists."""

    setting: str
    reason: str
    wrong: bool = False
    remedy: str | None = None

    def __str__(self) -> str:
        return f"{self.setting}: {self.reason}" + (f". {self.remedy}" if self.remedy else "")


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
    address = settings.s3
    if address is None:
        return None
    try:
        _within(TRY_SECONDS, lambda: _require_listing(address))
        _within(_PROBE_SECONDS, lambda: try_part_urls(address, settings.upload_key))
    except (UploadKeyRefused, PartUrlCopies, SignatureIgnored) as unsafe:
        return _upload_trouble(unsafe, address, settings.upload_key)
    except TimeoutError:
        return Trouble(STORE, "the object store does not answer in time")
    except StoreError as error:
        return Trouble(STORE, str(error), wrong=not isinstance(error, StoreBusy))
    return None


def _upload_trouble(
    unsafe: UploadKeyRefused | PartUrlCopies | SignatureIgnored, address: S3Address, upload_key: S3Key | None
) -> Trouble:
    match unsafe:
        case SignatureIgnored():
            remedy = "Use a MinIO in which this is fixed: `.ci/minio` builds one; see docs/signed-urls.md"
            return Trouble(STORE, str(unsafe), wrong=True, remedy=remedy)
        case PartUrlCopies() if upload_key is None:
            remedy = "Set it to the key:secret of a key whose only permission is"
        case _:
            remedy = "Give this key only the permission"
    remedy += (
        f" s3:PutObject on {uploads_resource(address)}. `images migrate` creates it in MinIO with "
        "IMAGES_OBJECT_STORE_ADMIN_KEY; for other stores, see docs/signed-urls.md"
    )
    return Trouble(UPLOAD_KEY, str(unsafe), wrong=True, remedy=remedy)


async def _ask_database(address: str) -> None:
    with as_not_connected():
        async with asyncio.timeout(TRY_SECONDS):
            connection = await asyncpg.connect(address, timeout=TRY_SECONDS)
            await connection.close()


def _require_listing(address: S3Address) -> None:
    with closing(Bucket(address, connections=1, patience=0)) as bucket:
        next(bucket.keys(), None)


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`. Raises TimeoutError when it takes longer; the call then continues in its thread."""
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="reaching", daemon=True).start()
    return answer.result(seconds)
