"""Prepares what a command needs: folder, tables, bucket, and connections to what the settings name."""

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from app.adapters.chosen import reserve_of
from app.adapters.reaching import store_trouble, troubles, wait_until_reached
from app.adapters.trouble import STORE, UPLOAD_KEY, Trouble
from app.commands.data_folder import keep_files_private, make_folders
from app.database import sqlite
from app.database.migrations import is_newest, migrate
from app.database.sessions import Database
from app.errors import DatabaseDamaged, DatabaseUnavailable, SettingsError
from app.logs import configure_logs
from app.settings import Settings, load_settings

# How long each command checks the database for damage at its start: enough to check all of a small file.
_CHECK_SECONDS = 1.0


def settings_from(**given: object) -> Settings:
    """The settings of a command; `given` overrides the environment. Raises SettingsError.

    Also sets up the logs of the process, and makes the files that it creates unreadable for other users.
    """
    configure_logs()
    keep_files_private()
    return load_settings(**given)


def prepare(settings: Settings) -> None:
    """Prepare for a process that serves the API or works. Raises SettingsError.

    Migrates the tables of SQLite. Those of PostgreSQL must be up to date: many processes share them, and no process
    changes them for all others just by starting.
    """
    make_folders(settings)
    wait_until_reached(settings)
    if settings.database_url is None:
        _migrate_sqlite(settings)
    else:
        asyncio.run(_require_tables(settings))


def migrate_all(settings: Settings, *, data_folder: bool = False) -> Sequence[str]:
    """Migrate all tables, and create the bucket if there is none. Raises SettingsError.

    With an administrator's key, also creates or updates the keys of an S3 store. Refuses a store in which part URLs are
    not safe. `data_folder` means that one is needed in any case. Returns sentences for the operator about what remains
    to be done.
    """
    make_folders(settings, always=data_folder)
    wait_until_reached(settings, _troubles_before_the_bucket)
    if settings.database_url is None:
        _migrate_sqlite(settings)
    else:
        _migrate(settings, "in IMAGES_DATABASE_URL")
    return _prepare_store(settings)


def _troubles_before_the_bucket(settings: Settings) -> list[Trouble]:
    """All troubles except those that persist until the bucket and the keys exist."""
    return [found for found in troubles(settings) if found.setting not in (STORE, UPLOAD_KEY) or not found.wrong]


def _migrate_sqlite(settings: Settings) -> None:
    data = settings.data.absolute()
    if reserve := reserve_of(settings):
        reserve.release_to_start()
    with _alone_in(data):
        require_sound_database(settings, _CHECK_SECONDS)
        _migrate(settings, f"in {data}")


def require_sound_database(settings: Settings, seconds: float | None) -> None:
    """Check SQLite's file for damage for `seconds`, or all of it when None. Raises SettingsError."""
    if settings.database_url is not None:
        return
    data = settings.data.absolute()
    try:
        _require_content(data / "images.db", settings.objects_path / "objects")
        sqlite.require_sound(settings.database_address, seconds)
    except DatabaseDamaged as error:
        raise SettingsError(f"the database in {data} can't be used: {error}") from error


def _require_content(database: Path, objects: Path) -> None:
    """An empty file next to objects is damaged, not new: the next sweep would delete every object as an orphan."""
    if database.is_file() and database.stat().st_size == 0 and any(path.is_file() for path in objects.rglob("*")):
        raise DatabaseDamaged(sqlite.DAMAGED)


def _migrate(settings: Settings, where: str) -> None:
    address = settings.database_address
    try:
        if settings.database_url is None and is_newest(sqlite.revision_of(address)):
            return
        migrate(address)
    except (DatabaseUnavailable, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"the database {where} can't be migrated: {reason}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make other processes that start on this folder wait, so that only one creates the tables."""
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
    # Loaded only here: a folder does without.
    from app.commands.bucket import prepare_bucket

    left_to_do = prepare_bucket(settings, settings.s3)
    trouble = store_trouble(settings)
    if trouble is not None:
        raise SettingsError(str(trouble))
    return left_to_do
