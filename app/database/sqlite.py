"""SQLite through aiosqlite with few trips between threads: none for what is short, one for most write transactions.

aiosqlite switches to the connection's thread for every cursor, statement, fetch, close and rollback, and SQLAlchemy
uses all of them: thirteen trips for a page of images, each slower than most statements. Here, a statement begins in
the caller's thread; a read that takes long moves to the connection's thread, so that it does not block the event loop.
A write transaction makes a trip to commit, which waits for the disk, and one to begin if it has to wait for others. In
between, it needs none, however busy the event loop is: others wait for its end. This depends on the internals of
aiosqlite 0.22; the pinned version and the tests ensure it.
"""

import asyncio
import math
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast
from weakref import WeakValueDictionary

import aiosqlite
from sqlalchemy import event
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import QueuePool

from app import metrics
from app.errors import DatabaseDamaged, DatabaseFull, DatabaseUnavailable

T = TypeVar("T")
# Runs a statement, given its text and parameters, and keeps its rows.
Run = Callable[[str, Any], None]

# A step of SQLite's virtual machine takes about 20 ns, and a page about 3,000 steps, but a step may compare long texts.
# So a statement is checked every _STEPS steps, and counts as long after _SHORT_READ_SECONDS of processor time. On a
# busy machine, a short one mostly waits for a processor, and a trip would wait even longer. _LONGEST_READ_SECONDS
# limits all of its time, for one that waits for the disk.
_STEPS = 1_000
_SHORT_READ_SECONDS = 0.001
_LONGEST_READ_SECONDS = 0.01
# Interval at which a statement that has to stop is interrupted, in seconds.
_INTERRUPT_SECONDS = 0.01
# How long a connection waits for a writer in another process, in seconds.
_BUSY_SECONDS = 30
_BEGIN_WRITE = "BEGIN IMMEDIATE"
# WAL lets readers continue during a write, and FULL makes a commit survive a power cut.
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
DAMAGED = (
    "images.db is damaged. Stop the gateway, keep a copy of the file, restore it and its folder from a backup, and run "
    "`images fsck`"
)


def open_engines(url: str, readers: int, read_json: Callable[[str], Any]) -> tuple[AsyncEngine, AsyncEngine]:
    """The engines for reads, with `readers` connections, and for writes. Creates the folder of the database."""
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    reading = _open_engine(url, readers, read_json, connect_reader, begin="BEGIN")
    # SQLite has one writer. Users of this engine wait in its pool, other engines of this process in a queue.
    return reading, _open_engine(url, 1, read_json, connect_writer, begin=_BEGIN_WRITE)


def _open_engine(
    url: str,
    connections: int,
    read_json: Callable[[str], Any],
    creator: Callable[..., "EagerConnection"],
    *,
    begin: str,
) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=60,
        json_deserializer=read_json,
        connect_args={"timeout": _BUSY_SECONDS, "async_creator_fn": creator},
    )
    metrics.POOLS.watch("read" if begin == "BEGIN" else "write", cast("QueuePool", engine.pool))
    event.listen(engine.sync_engine, "connect", _prepare)
    event.listen(engine.sync_engine, "begin", _begins_with(begin))
    return engine


def _prepare(connection: Any, _record: object) -> None:
    """Set up a new connection."""
    raw: sqlite3.Connection = connection
    raw.isolation_level = None  # the driver's own BEGIN would come too late to be IMMEDIATE
    cursor = raw.cursor()
    try:
        for pragma in PRAGMAS:
            cursor.execute(f"PRAGMA {pragma}")
    except BaseException:
        # Not in the pool yet. If it stayed open, every attempt on a damaged file would leak descriptors and a thread.
        raw.close()
        raise
    cursor.close()


def _begins_with(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def place_of(url: str) -> str:
    """Identifies the database: the inode of its file. A copy that replaces it has another one."""
    path = make_url(url).database
    return str(Path(path).stat().st_ino) if path and path != ":memory:" else ""


class EagerCursor(aiosqlite.Cursor):
    """Runs a statement and fetches all of its rows at once. Results are pages, which fit into memory."""

    _conn: "EagerConnection"

    def __init__(self, connection: "EagerConnection") -> None:
        self._conn = connection
        self._rows: list[Any] = []
        self._size = 1
        self._facts: tuple[Any, int, int | None] = (None, -1, None)

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Self:
        """Run one statement."""
        await self._conn.perform(self._run, sql, parameters or ())
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        """Run one statement with many sets of parameters."""
        await self._conn.perform(self._run_many, sql, parameters)
        return self

    async def fetchall(self) -> list[Any]:
        """The rows that have not been returned yet."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Drop the rows; the cursor itself was closed when they were fetched."""
        self._rows = []

    async def __aenter__(self) -> Self:
        return self

    @property
    def arraysize(self) -> int:
        """Required by the DB API, but without effect: all rows are fetched at once."""
        return self._size

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._size = value

    @property
    def description(self) -> Any:
        """The columns of the rows; None for a statement without rows."""
        return self._facts[0]

    @property
    def rowcount(self) -> int:
        """The number of rows that the statement changed."""
        return self._facts[1]

    @property
    def lastrowid(self) -> int | None:
        """The id of the last inserted row."""
        return self._facts[2]

    def _run(self, sql: str, parameters: Sequence[Any]) -> None:
        self._keep(self._conn._conn.execute(sql, parameters))

    def _run_many(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        self._keep(self._conn._conn.executemany(sql, parameters))

    def _keep(self, cursor: sqlite3.Cursor) -> None:
        self._rows = cursor.fetchall() if cursor.description else []
        self._facts = (cursor.description, cursor.rowcount, cursor.lastrowid)
        cursor.close()


class EagerConnection(aiosqlite.Connection):
    """A connection with eager cursors, which makes no trip to end a transaction when none is open."""

    def cursor(self) -> EagerCursor:  # type: ignore[override]
        """Create a cursor, without a trip."""
        return EagerCursor(self)

    async def perform(self, statement: Run, sql: str, parameters: Any) -> None:
        """Run a statement on this connection."""
        await self.in_thread(partial(statement, sql, parameters))

    async def in_thread(self, act: Callable[[], None]) -> None:
        """Call `act` in the connection's thread."""
        await self._execute(act)  # type: ignore[no-untyped-call]

    async def read(self, read: Callable[[], None]) -> None:
        """Run a statement that only reads: in this thread, or in the connection's thread if it takes long."""
        self._conn.set_progress_handler(_when_long(), _STEPS)
        try:
            return read()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
        finally:
            self._conn.set_progress_handler(None, 0)
        await self._read_in_thread(read)

    async def _read_in_thread(self, read: Callable[[], None]) -> None:
        """Run a statement in the thread. When the caller is cancelled, stop the statement and wait for its end."""
        cancelled = threading.Event()

        def run() -> None:
            if not cancelled.is_set():
                read()

        running = asyncio.ensure_future(self.in_thread(run))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            cancelled.set()
            # The first call has no effect on a statement that is just about to begin.
            while not running.done():
                self._conn.interrupt()
                await asyncio.wait({running}, timeout=_INTERRUPT_SECONDS)
            running.exception()  # marks the interruption as handled
            raise

    async def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self.in_transaction:
            await super().rollback()

    async def commit(self) -> None:
        """Commit the transaction, if there is one."""
        if self.in_transaction:
            await super().commit()


class ReadingConnection(EagerConnection):
    """A connection that only reads. With WAL, reads wait for no lock, so that a short one is done at once."""

    async def perform(self, statement: Run, sql: str, parameters: Any) -> None:
        """Run a statement."""
        if self.in_transaction:
            await self.read(partial(statement, sql, parameters))
        else:
            # BEGIN is short. If it were interrupted after taking effect, it could not be repeated.
            statement(sql, parameters)

    async def rollback(self) -> None:
        """End the read transaction, and with it the consistent view."""
        if self.in_transaction:
            self._conn.rollback()


class WritingConnection(EagerConnection):
    """A connection that writes. Others wait until its transaction ends, so its statements wait for nothing."""

    async def perform(self, statement: Run, sql: str, parameters: Any) -> None:
        """Run a statement: in this thread if it begins at once, reads, or writes a few rows.

        Only a DELETE may be for many.
        """
        if self.in_transaction and sql.startswith("SELECT"):
            await self.read(partial(statement, sql, parameters))
        elif self.in_transaction and sql.startswith(("INSERT", "UPDATE")):
            # Not interrupted when it takes long, since SQLite would undo the whole transaction.
            statement(sql, parameters)
        elif sql != _BEGIN_WRITE or not cast("_QueuedWriter", self._conn).begin_at_once():
            await super().perform(statement, sql, parameters)


class WritersQueue:
    """Assigns the single write transaction of a file to connections of this process, first come, first served.

    In SQLite itself, a waiting connection polls with pauses of up to 0.1 s. While another connection writes all the
    time, it would wait for many of the other's transactions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @property
    def length(self) -> int:
        """The number of waiting connections."""
        return len(self._waiting)

    def take(self, seconds: float) -> bool:
        """Wait for the turn to write, for at most `seconds`. Returns whether it came."""
        mine = threading.Event()
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            self._waiting.append(mine)
        if mine.wait(seconds):
            return True
        with self._lock:
            if mine.is_set():  # the turn came at the last moment
                return True
            self._waiting.remove(mine)
            return False

    def pass_on(self) -> None:
        """Pass the turn to the next connection."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


_queues: WeakValueDictionary[str, WritersQueue] = WeakValueDictionary()
_queues_lock = threading.Lock()


def writers_queue(path: str) -> WritersQueue:
    """The queue of the connections of this process that write to the file `path`."""
    with _queues_lock:
        return _queues.setdefault(str(Path(path).absolute()), WritersQueue())


class _QueuedWriter(sqlite3.Connection):
    """A SQLite connection whose write transactions wait in the queue of their file, in the connection's thread.

    If no other connection writes, they begin at once, in any thread.
    """

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._queue = writers_queue(path)
        self._has_turn = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run a statement. Raises sqlite3.OperationalError (SQLITE_BUSY) when the turn to write comes too late."""
        if sql == _BEGIN_WRITE:
            self._take_turn()
        return self._keep_turn(super().execute, sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Run a statement with many sets of parameters."""
        return self._keep_turn(super().executemany, sql, parameters)

    def commit(self) -> None:
        """Commit the transaction, and end the turn."""
        self._keep_turn(super().commit)

    def rollback(self) -> None:
        """Undo the transaction, and end the turn."""
        self._keep_turn(super().rollback)

    def close(self) -> None:
        """Close the connection, and undo an open transaction."""
        try:
            super().close()
        finally:
            self._end_turn()

    def begin_at_once(self) -> bool:
        """Begin a write transaction without waiting. False if another connection, also of another process, writes."""
        if not self._queue.take(0):
            return False
        self._has_turn = True
        try:
            self._keep_turn(self._begin_or_raise)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & _PRIMARY != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    def _begin_or_raise(self) -> None:
        """Begin a write transaction. Raises sqlite3.OperationalError at once if another process writes."""
        super().execute("PRAGMA busy_timeout = 0")
        try:
            super().execute(_BEGIN_WRITE)
        finally:
            super().execute(f"PRAGMA busy_timeout = {1000 * _BUSY_SECONDS}")

    def _take_turn(self) -> None:
        if not self._queue.take(_BUSY_SECONDS):
            busy = sqlite3.OperationalError("database is locked")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise busy
        self._has_turn = True

    def _keep_turn(self, act: Callable[..., T], *arguments: Any) -> T:
        """Call `act`, and end the turn when no transaction is open afterwards: SQLite ends some by itself."""
        try:
            return act(*arguments)
        finally:
            if not self.in_transaction:
                self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            self._queue.pass_on()


_FULL = "the disk of the database is full"
# SQLite's errors for a file that is not a database, or a corrupt one.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# SQLite reports an exhausted disk quota, and a disk without space for the index of the WAL, as errors of writing.
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
_NOT_NOW = {
    sqlite3.SQLITE_BUSY: "another process keeps the database busy",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_NOMEM: "the database has run out of memory",
    sqlite3.SQLITE_READONLY: "the database can't be written, since its file or its disk is read-only",
    sqlite3.SQLITE_IOERR: "the database has trouble with its disk",
    sqlite3.SQLITE_PERM: "the file of the database can't be used, since its permissions are wrong",
    sqlite3.SQLITE_CANTOPEN: "the file of the database can't be opened",
    sqlite3.SQLITE_PROTOCOL: "another process keeps the database busy",
}
_PRIMARY = 0xFF  # masks the details of an extended result code (sqlite.org/rescode.html)


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise DatabaseFull, DatabaseDamaged or DatabaseUnavailable for errors that no statement caused."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        found = trouble_of(cause) if isinstance(cause, sqlite3.Error) else None
        if found is None:
            raise
        raise found from error


def trouble_of(error: sqlite3.Error) -> DatabaseUnavailable | None:
    """The error that SQLite reports about the file or its disk; None for an error in a statement."""
    code: int = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
    if code & _PRIMARY in _DAMAGED:
        return DatabaseDamaged(DAMAGED)
    if code in _NO_ROOM:
        return DatabaseFull(_FULL)
    reason = _NOT_NOW.get(code & _PRIMARY)
    return DatabaseUnavailable(f"{reason}; try again") if reason else None


def require_sound(url: str, seconds: float | None) -> None:
    """Check the file for damage for `seconds`, or all of it when None. Blocks. Raises DatabaseDamaged.

    A missing or empty file counts as not created yet.
    """
    path = Path(make_url(url).database or "")
    if not path.is_file() or path.stat().st_size == 0:
        return
    ends = math.inf if seconds is None else time.monotonic() + seconds
    with as_unavailable(), closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
        connection.set_progress_handler(lambda: time.monotonic() > ends, _STEPS)
        try:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
            return
        if found != ("ok",):
            raise DatabaseDamaged(DAMAGED)


def revision_of(url: str) -> str | None:
    """The revision of the tables; None when there are none. Blocks. Raises DatabaseUnavailable."""
    path = Path(make_url(url).database or "")
    if not path.is_file():
        return None
    with as_unavailable(), closing(sqlite3.connect(path, timeout=_BUSY_SECONDS)) as connection:
        named = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone()
        found = connection.execute("SELECT version_num FROM alembic_version").fetchone() if named else None
    return None if found is None else str(found[0])


def _when_long() -> Callable[[], bool]:
    """A progress handler that interrupts a statement in this thread when it counts as long."""
    processor, clock = time.thread_time() + _SHORT_READ_SECONDS, time.perf_counter() + _LONGEST_READ_SECONDS
    return lambda: time.thread_time() > processor or time.perf_counter() > clock


def connect_writer(*arguments: Any, **options: Any) -> EagerConnection:
    """Open a connection for SQLAlchemy, with the arguments of `sqlite3.connect`."""
    return _opened(WritingConnection, *arguments, **options | {"factory": _QueuedWriter})


def connect_reader(*arguments: Any, **options: Any) -> EagerConnection:
    """Open a connection that never writes."""
    return _opened(ReadingConnection, *arguments, **options)


def _opened(kind: type[EagerConnection], *arguments: Any, **options: Any) -> EagerConnection:
    connect = partial(sqlite3.connect, *arguments, **options | {"check_same_thread": False})
    connection = kind(connect, 64)
    # A process need not wait for connections when it ends: SQLite's files are consistent at every moment.
    connection._thread.daemon = True
    return connection
