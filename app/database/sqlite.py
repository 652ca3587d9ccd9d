"""SQLite through aiosqlite with fewer trips between threads: a statement and its rows take one, a short read none.

aiosqlite goes to the connection's thread for every cursor, statement, fetch, close and rollback, and SQLAlchemy asks
for all of them: thirteen trips for a page of images, each dearer than most of our statements. A write makes one trip
a statement. A read begins where it is asked for; only one that turns out to be long moves to the thread, so that it
keeps nobody waiting. This leans on how aiosqlite 0.22 works inside; the pinned version and the tests hold it.
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

# A step of SQLite's virtual machine takes some 20 ns, and a page 3,000 of them; but one step may compare long texts. So
# a statement is looked at every so many steps, and is long after so many seconds.
_STEPS = 1_000
_SHORT_READ_SECONDS = 0.001
# How often a statement that is to stop is interrupted, in seconds.
_INTERRUPT_SECONDS = 0.01
# How long a connection waits for SQLite's one writer of another process, in seconds.
_BUSY_SECONDS = 30
_BEGIN_WRITE = "BEGIN IMMEDIATE"
DAMAGED = (
    "images.db is damaged. Stop the gateway, keep the file, restore it and its folder from a backup, and run "
    "`images fsck`"
)


def open_engines(url: str, readers: int, read_json: Callable[[str], Any]) -> tuple[AsyncEngine, AsyncEngine]:
    """What reads, over so many connections, and what writes. The folder of the database is made."""
    path = make_url(url).database
    if path:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    reading = _open_engine(url, readers, read_json, connect_reader, begin="BEGIN")
    # SQLite has one writer. Those who share this engine wait in the pool, other engines of this process in a queue.
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
    """WAL lets readers go on beside the writer; with it, synchronous=FULL makes a commit outlast a power cut."""
    raw: sqlite3.Connection = connection
    raw.isolation_level = None  # the driver's own BEGIN would come too late to be IMMEDIATE
    cursor = raw.cursor()
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
    except BaseException:
        # The pool does not know it yet. Left open, each attempt on a damaged file would cost descriptors and a thread.
        raw.close()
        raise
    cursor.close()


def _begins_with(statement: str) -> Callable[[Connection], None]:
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql(statement)

    return begin


def place_of(url: str) -> str:
    """Where the database lies: the inode of its file. A copy that takes its place has another one."""
    path = make_url(url).database
    return str(Path(path).stat().st_ino) if path and path != ":memory:" else ""


class EagerCursor(aiosqlite.Cursor):
    """Runs a statement and fetches all of its rows at once. Our results are pages: they fit."""

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
        """The rows that have not been taken yet."""
        rows, self._rows = self._rows, []
        return rows

    async def close(self) -> None:
        """Drop the rows; the cursor itself was closed when they had been fetched."""
        self._rows = []

    async def __aenter__(self) -> Self:
        return self

    @property
    def arraysize(self) -> int:
        """As the database API has it; all rows are fetched all the same."""
        return self._size

    @arraysize.setter
    def arraysize(self, value: int) -> None:
        self._size = value

    @property
    def description(self) -> Any:
        """The columns of the rows; None for a statement without."""
        return self._facts[0]

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        return self._facts[1]

    @property
    def lastrowid(self) -> int | None:
        """The row that was inserted last."""
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
    """A connection whose cursors are eager, and that makes no trip to end a transaction which there is not."""

    def cursor(self) -> EagerCursor:  # type: ignore[override]
        """A cursor, without a trip."""
        return EagerCursor(self)

    async def perform(self, statement: Callable[..., None], *arguments: Any) -> None:
        """Call what runs a statement on this connection."""
        await self._execute(statement, *arguments)  # type: ignore[no-untyped-call]

    async def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self.in_transaction:
            await super().rollback()

    async def commit(self) -> None:
        """Commit the transaction, if there is one."""
        if self.in_transaction:
            await super().commit()


class ReadingConnection(EagerConnection):
    """A connection for reads alone. With WAL they wait for no lock, so that a short one is done at once."""

    async def perform(self, statement: Callable[..., None], *arguments: Any) -> None:
        """Call what runs a statement here and now, or, when that turns out to take long, in the thread."""
        if not self.in_transaction:
            # BEGIN is short. Interrupted when it has taken effect, it could not be repeated.
            return statement(*arguments)
        self._conn.set_progress_handler(_after(_SHORT_READ_SECONDS), _STEPS)
        try:
            return statement(*arguments)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise
        finally:
            self._conn.set_progress_handler(None, 0)
        await self._perform_in_thread(partial(statement, *arguments))

    async def _perform_in_thread(self, statement: Callable[[], None]) -> None:
        """Run a statement in the thread. It stops when the caller is cancelled, who waits for that."""
        given_up = threading.Event()

        def run() -> None:
            if not given_up.is_set():
                statement()

        running = asyncio.ensure_future(super().perform(run))
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            given_up.set()
            # A statement that is just about to begin is not interrupted by the first call.
            while not running.done():
                self._conn.interrupt()
                await asyncio.wait({running}, timeout=_INTERRUPT_SECONDS)
            running.exception()  # that it was interrupted is known
            raise

    async def rollback(self) -> None:
        """End the reads: what they saw may change from here on."""
        if self.in_transaction:
            self._conn.rollback()


class WritersQueue:
    """Gives the one write transaction of a file to connections of this process, first come, first served.

    SQLite itself lets a connection that waits look again after pauses of up to 0.1 s. Beside another one that writes
    all the time, it would wait for many of the other's transactions.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @property
    def length(self) -> int:
        """How many connections wait."""
        return len(self._waiting)

    def take(self, seconds: float) -> bool:
        """Wait for the turn to write, for `seconds` at most; whether it has come."""
        mine = threading.Event()
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            self._waiting.append(mine)
        if mine.wait(seconds):
            return True
        with self._lock:
            if mine.is_set():  # it came at the last moment
                return True
            self._waiting.remove(mine)
            return False

    def pass_on(self) -> None:
        """Let the next one write."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


_queues: WeakValueDictionary[str, WritersQueue] = WeakValueDictionary()
_queues_lock = threading.Lock()


def writers_queue(path: str) -> WritersQueue:
    """The queue of those who write to the file `path` in this process."""
    with _queues_lock:
        return _queues.setdefault(str(Path(path).absolute()), WritersQueue())


class _QueuedWriter(sqlite3.Connection):
    """A connection of SQLite's whose write transactions wait in the queue of their file, in the connection's thread."""

    def __init__(self, path: str, *arguments: Any, **options: Any) -> None:
        super().__init__(path, *arguments, **options)
        self._queue = writers_queue(path)
        self._has_turn = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """Run a statement. Raises sqlite3.OperationalError (SQLITE_BUSY) when the turn to write does not come."""
        if sql == _BEGIN_WRITE:
            self._take_turn()
        return self._keep_turn(super().execute, sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Run a statement with many sets of parameters."""
        return self._keep_turn(super().executemany, sql, parameters)

    def commit(self) -> None:
        """Commit the transaction; the turn ends with it."""
        self._keep_turn(super().commit)

    def rollback(self) -> None:
        """Undo the transaction; the turn ends with it."""
        self._keep_turn(super().rollback)

    def close(self) -> None:
        """Close the connection, and undo a transaction that is open."""
        try:
            super().close()
        finally:
            self._end_turn()

    def _take_turn(self) -> None:
        if not self._queue.take(_BUSY_SECONDS):
            busy = sqlite3.OperationalError("database is locked")
            busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise busy
        self._has_turn = True

    def _keep_turn(self, act: Callable[..., T], *arguments: Any) -> T:
        """Do something, and end the turn when no transaction is open after it: SQLite ends some by itself."""
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
# What SQLite says of a file that holds no database, or a broken one.
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
# A disk quota that is used up, and a disk without room for the index of the WAL, are told as errors of writing.
_NO_ROOM = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE})
_NOT_NOW = {
    sqlite3.SQLITE_BUSY: "another process keeps the database busy",
    sqlite3.SQLITE_LOCKED: "the database is locked",
    sqlite3.SQLITE_NOMEM: "the database has run out of memory",
    sqlite3.SQLITE_READONLY: "the database can't be written: its file or its disk is read-only",
    sqlite3.SQLITE_IOERR: "the database has trouble with its disk",
    sqlite3.SQLITE_PERM: "the file of the database can't be used: its permissions are wrong",
    sqlite3.SQLITE_CANTOPEN: "the file of the database can't be opened",
    sqlite3.SQLITE_PROTOCOL: "another process keeps the database busy",
}
_PRIMARY = 0xFF  # the rest of an extended result code says more than is needed here (sqlite.org/rescode.html)


@contextmanager
def as_unavailable() -> Iterator[None]:
    """Raise DatabaseFull, DatabaseDamaged or DatabaseUnavailable for what no statement of ours is to blame for."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        found = trouble_of(cause) if isinstance(cause, sqlite3.Error) else None
        if found is None:
            raise
        raise found from error


def trouble_of(error: sqlite3.Error) -> DatabaseUnavailable | None:
    """What an error of SQLite's says about the file and its disk; None when it is about a statement."""
    code: int = getattr(error, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
    if code & _PRIMARY in _DAMAGED:
        return DatabaseDamaged(DAMAGED)
    if code in _NO_ROOM:
        return DatabaseFull(_FULL)
    reason = _NOT_NOW.get(code & _PRIMARY)
    return DatabaseUnavailable(f"{reason}; try again") if reason else None


def require_sound(url: str, seconds: float | None) -> None:
    """Raises DatabaseDamaged when the file shows damage within `seconds` of looking; None looks at all of it. Blocks.

    A file that is not there, or empty, is none yet.
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


def _after(seconds: float) -> Callable[[], bool]:
    """A progress handler that interrupts a statement after so many seconds."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def connect_writer(*arguments: Any, **options: Any) -> EagerConnection:
    """What SQLAlchemy calls for a new connection, with the arguments of `sqlite3.connect`."""
    return _opened(EagerConnection, *arguments, **options | {"factory": _QueuedWriter})


def connect_reader(*arguments: Any, **options: Any) -> EagerConnection:
    """The same, for a connection that never writes."""
    return _opened(ReadingConnection, *arguments, **options | {"check_same_thread": False})


def _opened(kind: type[EagerConnection], *arguments: Any, **options: Any) -> EagerConnection:
    connection = kind(partial(sqlite3.connect, *arguments, **options), 64)
    # A process that ends need not wait for connections: SQLite's files are whole at every moment.
    connection._thread.daemon = True
    return connection
