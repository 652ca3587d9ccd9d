"""PostgreSQL through asyncpg: connections that survive its restarts, named locks, and readable errors.

A lost connection is noticed when it is taken from the pool, without a round trip, since the kernel knows by then. While
PostgreSQL restarts, connecting is retried for a few seconds. Running transactions are lost and raise
DatabaseUnavailable; the caller may retry them.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, cast

from sqlalchemy import event, func, select
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool
from sqlalchemy.sql import Select

from app import metrics
from app.database.connection_errors import NotConnected, as_not_connected
from app.errors import DatabaseFull, DatabaseUnavailable

# All in seconds. The gateway's statements take milliseconds; these limits only end what hangs. The server gives up
# first, then the driver, in case the server no longer answers.
_CONNECT_SECONDS = 10.0
_STATEMENT_SECONDS = 60
_DRIVER_SECONDS = 70.0
_LOCK_SECONDS = 30
_POOL_SECONDS = 30.0
# How long a server may take to start or restart, and the pause between attempts to connect.
_PATIENCE_SECONDS = 5.0
_BETWEEN_TRIES = 0.1
# Connections are replaced regularly: a firewall or proxy in between may have dropped them silently.
_RECYCLE_SECONDS = 900
# A migration waits for locks on rows and for other migrations, and may change every row of a large table.
_MIGRATION_SECONDS = 3600

_SETTINGS = {
    "application_name": "image-gateway",
    "statement_timeout": f"{_STATEMENT_SECONDS}s",
    "lock_timeout": f"{_LOCK_SECONDS}s",
    "idle_in_transaction_session_timeout": f"{_STATEMENT_SECONDS}s",
    "default_transaction_read_only": "off",
    # Statements are short; and a generic plan may read a million rows where one for these values reads ten.
    "jit": "off",
    "plan_cache_mode": "force_custom_plan",
}
_MIGRATING = _SETTINGS | {
    "statement_timeout": "0",
    "lock_timeout": f"{_MIGRATION_SECONDS}s",
    "idle_in_transaction_session_timeout": "0",
}

# The first half of the keys of advisory locks, so that they differ from those of other programs in the database.
_LOCK_SPACE = 0x696D6773


class Lock(IntEnum):
    """What only one transaction may do at a time across all processes: second half of the advisory locks' keys."""

    FEED = 1
    TENANCY = 2
    PRUNING = 3
    MIGRATION = 4
    TURNS = 5


def lock_statement(lock: Lock) -> Select[Any]:
    """The statement that acquires a lock until the end of the transaction."""
    return select(func.pg_advisory_xact_lock(_LOCK_SPACE, int(lock)))


def on_postgresql(session: AsyncSession) -> bool:
    """Whether a session uses PostgreSQL."""
    return session.get_bind().dialect.name == "postgresql"


def time_limit_statement(seconds: float) -> Select[Any]:
    """The statement that limits each later statement of the transaction to `seconds`."""
    return select(func.set_config("statement_timeout", f"{round(1000 * seconds)}ms", True))


def open_engines(url: str, connections: int, read_json: Callable[[str], Any]) -> tuple[AsyncEngine, AsyncEngine]:
    """The engines for reads and for writes, over one pool of at most `connections`. Does not connect yet."""
    pooled = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=_connecting(url, _SETTINGS, _DRIVER_SECONDS),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_recycle=_RECYCLE_SECONDS,
        json_deserializer=read_json,
    )
    metrics.POOLS.watch("all", cast("QueuePool", pooled.pool))
    event.listen(pooled.sync_engine, "checkout", _refuse_what_is_lost)
    reading = pooled.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    return reading, pooled.execution_options(isolation_level="READ COMMITTED")


def open_for_migration(url: str) -> AsyncEngine:
    """An engine for migrations, without the time limits of other statements."""
    return create_async_engine(
        "postgresql+asyncpg://", async_creator=_connecting(url, _MIGRATING, None), isolation_level="READ COMMITTED"
    )


def _connecting(url: str, settings: dict[str, str], driver_seconds: float | None) -> Callable[[], Any]:
    import asyncpg

    # asyncpg supports the same options in an address as libpq: sslmode, several hosts, target_session_attrs.
    address = "postgresql:" + url.partition(":")[2]

    async def connect() -> Any:
        give_up_at = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                with as_not_connected():
                    return await asyncpg.connect(
                        address, timeout=_CONNECT_SECONDS, command_timeout=driver_seconds, server_settings=settings
                    )
            except NotConnected as error:
                if not error.restarting or time.monotonic() > give_up_at:
                    raise
            await asyncio.sleep(_BETWEEN_TRIES)

    return connect


def _refuse_what_is_lost(connection: Any, _record: object, _checked_out: object) -> None:
    """Make the pool reconnect when the server has closed this connection since its last use."""
    if connection.driver_connection.is_closed():
        raise DisconnectionError("the server has closed the connection")


# ------------------------------------------------------------ what went wrong

# SQLSTATE classes and codes (PostgreSQL, appendix A) of temporary errors: a retry may succeed.
_NOT_NOW = {
    "08": "the connection to the database was lost",
    "25006": "the database accepts no writes at the moment",
    "40": "the transaction conflicted with another one",
    "53": "the database has run out of memory or connections",
    "55P03": "a row was locked for too long",
    "57014": "the statement took too long",
    "57P": "the database is shutting down or starting",
    "58": "the database has trouble with its disk",
}
_NO_TABLE = "42P01"
_DISK_FULL = "53100"
_STALE_PLAN = "cached statement plan is invalid"


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise DatabaseUnavailable for errors that no statement caused: lost connection, timeout, missing table."""
    try:
        yield
    except (DBAPIError, PoolTimeout, ConnectionError, TimeoutError) as error:
        if _state(error) == _DISK_FULL:
            raise DatabaseFull("the disk of the database is full") from error
        if _state(error) == _NO_TABLE:
            raise DatabaseUnavailable("a table is missing; run `images migrate`") from error
        reason = _why_not_now(error)
        if reason is None:
            raise
        raise DatabaseUnavailable(f"{reason}; try again") from error


def _state(error: Exception) -> str:
    """The SQLSTATE of an error from the server; empty for any other error."""
    return str(getattr(getattr(error, "orig", None), "sqlstate", None) or "")


def _why_not_now(error: Exception) -> str | None:
    if not isinstance(error, DBAPIError):
        return "the database did not answer in time"
    state = _state(error)
    for length in (5, 3, 2):
        if reason := _NOT_NOW.get(state[:length]):
            return reason
    if _STALE_PLAN in str(error.orig):
        return "the tables have just changed"
    return _NOT_NOW["08"] if error.connection_invalidated else None
