"""The database: read sessions, and transactions with what has to happen after their commit.

One transaction is one mutation or one step of a job (architecture, rule 1). Wake-ups go out after the commit
and may be lost; the rows are the truth (rule 2).
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sqlite3 import Connection as SqliteConnection
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlmodel import select

from app.errors import GatewayError
from app.models import Event, Job
from app.sqlite import EagerConnection, connect, connect_reader

# How long a connection waits for SQLite's one writer of another process, in seconds.
_SQLITE_BUSY_SECONDS = 30


class DatabaseUnavailable(GatewayError):
    """Raised when the database does not answer, or has not been migrated."""


@dataclass(slots=True)
class Transaction:
    """An open write. `events` and `jobs` are what it appended: they are announced when it has committed."""

    session: AsyncSession
    events: list[Event] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    @property
    def position(self) -> int | None:
        """The feed position of the newest event of this transaction; None when it appended none."""
        return self.events[-1].seq if self.events else None


@dataclass(slots=True)
class Database:
    """Opens sessions. `announce` is called after each commit with the transaction's jobs and events.

    Sessions are not shared: every resolver, loader batch and job step opens its own.
    """

    url: str
    announce: Callable[[list[Job], list[Event]], None] = lambda jobs, events: None
    readers: int = 8
    _reading: AsyncEngine = field(init=False)
    _writing: AsyncEngine = field(init=False)

    def __post_init__(self) -> None:
        self._reading = _engine(self.url, self.readers, connect_reader, begin="BEGIN")
        # SQLite has one writer; waiting for it in the pool is fair, waiting for it inside SQLite is not.
        self._writing = _engine(self.url, 1, connect, begin="BEGIN IMMEDIATE")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one state of the database; what it loads stays usable afterwards."""
        async with AsyncSession(self._reading, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A write that commits at the end of the block, or not at all when the block raises."""
        async with AsyncSession(self._writing, expire_on_commit=False) as session:
            transaction = Transaction(session)
            async with session.begin():
                yield transaction
        if transaction.jobs or transaction.events:
            self.announce(transaction.jobs, transaction.events)

    async def check(self) -> None:
        """Raises DatabaseUnavailable when the tables can't be read."""
        try:
            async with self.read() as session:
                await session.execute(select(Event.seq).limit(1))
        except SQLAlchemyError as error:
            raise DatabaseUnavailable("the database does not answer, or `images migrate` has not been run") from error

    async def close(self) -> None:
        """Close every connection."""
        await self._reading.dispose()
        await self._writing.dispose()


def _engine(url: str, connections: int, creator: Callable[..., EagerConnection], *, begin: str) -> AsyncEngine:
    parsed = make_url(url)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(
        parsed,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=60,
        json_deserializer=_read_json,
        connect_args={"timeout": _SQLITE_BUSY_SECONDS, "async_creator_fn": creator},
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begins_with(begin))
    return engine


def _read_json(text: str) -> Any:
    # Labels and warnings are mostly empty lists, and a page has a hundred of them.
    return [] if text == "[]" else json.loads(text)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """WAL lets readers go on beside the writer; with it, synchronous=FULL makes a commit outlast a power cut."""
    raw: SqliteConnection = connection
    raw.isolation_level = None  # the driver's own BEGIN would come too late to be IMMEDIATE
    cursor = raw.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begins_with(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin
