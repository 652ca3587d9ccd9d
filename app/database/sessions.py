"""The database: read sessions, and transactions with the notifications that follow their commit.

One transaction is one mutation or one step of a job (architecture, rule 1). Wake-ups go out after the commit
and may be lost; the rows are the truth (rule 2).

On PostgreSQL, many processes write at once, under READ COMMITTED: a row that a decision depends on is locked before it
is read. To avoid deadlocks, all transactions lock in the same order: project, image (several by id), source, upload,
host, server, volume (several by id), job, blob, and finally the feed. A transaction that takes a turn acquires its lock
before all of these, and waits for no row.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlmodel import select

from app.database import postgres, sqlite
from app.database.migrations import is_behind
from app.database.postgres import Lock
from app.errors import DatabaseFull, DatabaseUnavailable
from app.models import Event, Job
from app.reserve import Reserve

T = TypeVar("T")

_REVISION = text("SELECT version_num FROM alembic_version")


@dataclass(slots=True)
class Transaction:
    """An open write transaction. The `events` and `jobs` that it appended are announced after its commit.

    The functions in `after_commit` are called before that. They must not raise.
    """

    session: AsyncSession
    many_writers: bool
    events: list[Event] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    after_commit: list[Callable[[], object]] = field(default_factory=list)

    @property
    def position(self) -> int | None:
        """The feed position of its newest event, known after the commit; None when it appended none."""
        return self.events[-1].seq if self.events else None

    async def alone(self, lock: Lock) -> None:
        """Acquire a lock until the end of the transaction. Does nothing on SQLite, which has a single writer."""
        if self.many_writers:
            await self.session.execute(postgres.lock_statement(lock))

    async def write_events(self) -> None:
        """Append the events to the feed in the order of commits: other transactions wait until this one ends.

        Call it last, so that no transaction holds this lock while it waits for a row.
        """
        if self.events:
            await self.session.flush()
            await self.alone(Lock.FEED)
            self.session.add_all(self.events)
            await self.session.flush()


@dataclass(slots=True)
class Database:
    """Opens sessions. `announce` is called after each commit with the transaction's jobs and events.

    `url` is a SQLAlchemy address. `connections` is the maximum for PostgreSQL, `readers` the number for SQLite.
    Sessions are not shared: every resolver, loader batch and job step opens its own.
    Reads and transactions raise DatabaseUnavailable when a retry may succeed. `reserve` is space on SQLite's disk for
    transactions that free space.
    """

    url: str = field(repr=False)
    announce: Callable[[list[Job], list[Event]], None] = lambda jobs, events: None
    connections: int = 10
    readers: int = 8
    reserve: Reserve | None = None
    _reading: AsyncEngine = field(init=False)
    _writing: AsyncEngine = field(init=False)

    def __post_init__(self) -> None:
        if self.many_writers:
            self._reading, self._writing = postgres.open_engines(self.url, self.connections, _read_json)
        else:
            self._reading, self._writing = sqlite.open_engines(self.url, self.readers, _read_json)

    @property
    def many_writers(self) -> bool:
        """Whether several transactions can be open at once."""
        return not self.url.startswith("sqlite")

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A session with a consistent view of the database. Loaded objects stay usable afterwards."""
        with postgres.as_unavailable(), sqlite.as_unavailable():
            async with AsyncSession(self._reading, expire_on_commit=False) as session:
                yield session

    @asynccontextmanager
    async def read_within(self, seconds: float) -> AsyncIterator[AsyncSession]:
        """The same for at most `seconds`; then a running statement is stopped. Raises TimeoutError."""
        async with asyncio.timeout(seconds), self.read() as session:
            if self.many_writers:
                # In case this process can't stop the statement, the server stops it.
                await session.execute(postgres.time_limit_statement(seconds))
            yield session

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A write transaction that commits at the end of the block, and rolls back when the block raises."""
        with postgres.as_unavailable(), sqlite.as_unavailable():
            async with AsyncSession(self._writing, expire_on_commit=False) as session:
                transaction = Transaction(session, self.many_writers)
                async with session.begin():
                    yield transaction
                    await transaction.write_events()
        for act in transaction.after_commit:
            act()
        if transaction.jobs or transaction.events:
            self.announce(transaction.jobs, transaction.events)

    async def freeing(self, act: Callable[[], Awaitable[T]]) -> T:
        """The result of `act`, which deletes something. If the disk is full, frees the reserve and calls it again.

        Raises DatabaseFull when the reserve is not enough.
        """
        try:
            return await act()
        except DatabaseFull:
            if self.reserve is None or not await asyncio.to_thread(self.reserve.release):
                raise
        return await act()

    def require_room(self) -> None:
        """Raises DatabaseFull while the disk is so full that only deletions may write."""
        if self.reserve is not None:
            self.reserve.require_for_rows()

    async def check(self) -> None:
        """Raises DatabaseUnavailable when the tables can't be read, or are those of an older version."""
        try:
            async with self.read() as session:
                revision = (await session.execute(_REVISION)).scalar_one_or_none()
                await session.execute(select(Event.seq).limit(1))
        except SQLAlchemyError as error:
            raise DatabaseUnavailable("the database does not answer, or `images migrate` has not been run") from error
        if is_behind(revision):
            raise DatabaseUnavailable("the tables are those of an older version; run `images migrate`")

    async def close(self) -> None:
        """Close every connection."""
        await self._reading.dispose()
        await self._writing.dispose()


def _read_json(text: str) -> Any:
    # Labels and warnings are mostly empty lists, and a page has a hundred of them.
    return [] if text == "[]" else json.loads(text)
