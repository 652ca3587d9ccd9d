"""What has to be so before a command works: folder, tables, bucket, and the places that the settings name."""

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.adapters.chosen import reserve_of
from app.adapters.reaching import STORE, UPLOAD_KEY, Trouble, store_trouble, troubles, wait_until_reached
from app.adapters.s3.bucket import Bucket
from app.adapters.s3.keys import create_keys
from app.adapters.s3.store import S3Store
from app.commands.data_folder import keep_files_private, make_folders
from app.database import sqlite
from app.database.migrations import migrate
from app.database.sessions import Database
from app.errors import DatabaseDamaged, DatabaseUnavailable, SettingsError, StoreError
from app.logs import configure_logs
from app.s3_address import S3Address, S3Key
from app.settings import Settings, load_settings

# How long each command looks for damage in the database before it begins: a small file is looked at as a whole.
_LOOK_SECONDS = 1.0


def settings_from(**given: object) -> Settings:
    """The settings of a command; `given` go before the environment. Raises SettingsError.

    Sets up the logs of the process, and closes the files that it will create to other users.
    """
    configure_logs()
    keep_files_private()
    return load_settings(**given)


def prepare(settings: Settings) -> None:
    """Make ready for a process that serves or works. Raises SettingsError.

    The tables of SQLite are brought up to date. Those of PostgreSQL belong to many processes, of which none changes
    them for all by being started: they have to be there.
    """
    make_folders(settings)
    wait_until_reached(settings)
    if settings.database_url is None:
        _migrate_sqlite(settings)
    else:
        asyncio.run(_require_tables(settings))


def migrate_all(settings: Settings, *, data_folder: bool = False) -> Sequence[str]:
    """Bring every table up to date, and make the bucket if there is none. Raises SettingsError.

    With an administrator's key, the keys of an S3 store are created, or brought up to date, as well. A store in which
    part URLs are not safe is refused. `data_folder` says that one is needed in any case. Gives sentences for the
    operator: what is left to do.
    """
    make_folders(settings, always=data_folder)
    wait_until_reached(settings, _troubles_before_the_bucket)
    if settings.database_url is None:
        _migrate_sqlite(settings)
    else:
        _migrate(settings, "in IMAGES_DATABASE_URL")
    return _prepare_store(settings)


def _troubles_before_the_bucket(settings: Settings) -> list[Trouble]:
    """All but what is wrong as long as bucket and keys are not there."""
    return [found for found in troubles(settings) if found.setting not in (STORE, UPLOAD_KEY) or not found.wrong]


def _migrate_sqlite(settings: Settings) -> None:
    data = settings.data.absolute()
    if reserve := reserve_of(settings):
        reserve.release_to_start()
    with _alone_in(data):
        require_sound_database(settings, _LOOK_SECONDS)
        _migrate(settings, f"in {data}")


def require_sound_database(settings: Settings, seconds: float | None) -> None:
    """Look for damage in the file of SQLite for so long; None looks at all of it. Raises SettingsError."""
    if settings.database_url is not None:
        return
    data = settings.data.absolute()
    try:
        _require_content(data / "images.db", settings.objects_path / "objects")
        sqlite.require_sound(settings.database_address, seconds)
    except DatabaseDamaged as error:
        raise SettingsError(f"the database in {data} can't be used: {error}") from error


def _require_content(database: Path, objects: Path) -> None:
    """Without rows, the next sweep would take every object for an orphan: a file cut to nothing is no new one."""
    if database.is_file() and database.stat().st_size == 0 and any(path.is_file() for path in objects.rglob("*")):
        raise DatabaseDamaged(sqlite.DAMAGED)


def _migrate(settings: Settings, where: str) -> None:
    try:
        migrate(settings.database_address)
    except (DatabaseUnavailable, SQLAlchemyError, CommandError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"the database {where} can't be brought up to date: {reason}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that start on this folder waiting, so that one of them makes the tables."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


async def _require_tables(settings: Settings) -> None:
    database = Database(settings.database_address)
    try:
        await database.check()
    except DatabaseUnavailable as error:
        raise SettingsError(f"IMAGES_DATABASE_URL: {error}") from error
    finally:
        await database.close()


def _prepare_store(settings: Settings) -> Sequence[str]:
    if settings.s3 is None:
        return []
    with closing(S3Store(settings.s3, settings.object_store_public_url)) as store:
        try:
            if settings.admin_key is not None:
                _create_bucket_and_keys(settings.s3, settings.upload_key, settings.admin_key)
            left_to_do = asyncio.run(store.prepare(settings.allowed_origins))
        except StoreError as error:
            raise SettingsError(f"{STORE}: {error}") from error
    trouble = store_trouble(settings)
    if trouble is not None:
        raise SettingsError(str(trouble))
    return left_to_do


def _create_bucket_and_keys(address: S3Address, upload_key: S3Key | None, admin: S3Key) -> None:
    if upload_key is None:
        raise SettingsError(f"{UPLOAD_KEY}: is not set. Choose a key:secret; IMAGES_OBJECT_STORE_ADMIN_KEY creates it")
    if len({address.key, upload_key.name, admin.name}) < 3:
        raise SettingsError(
            f"{UPLOAD_KEY}: it, IMAGES_OBJECT_STORE_ADMIN_KEY and {STORE} have to name three different keys"
        )
    # The key of the gateway may not create buckets.
    with closing(Bucket(address.with_key(admin))) as bucket:
        bucket.make()
    create_keys(address, upload_key, admin)
