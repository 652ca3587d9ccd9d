"""SQLite through aiosqlite with fewer trips between threads: a statement and its rows take one, a cursor none.

aiosqlite goes to the connection's thread for every cursor, statement, fetch, close and rollback, and SQLAlchemy asks
for all of them: thirteen trips for a page of images, each dearer than most of our statements. Four are left.
This leans on how aiosqlite 0.22 works inside; the pinned version and the tests of the database hold it.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Self

import aiosqlite


class EagerCursor(aiosqlite.Cursor):
    """Runs a statement and fetches all of its rows at once. Our results are pages: they fit."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._conn = connection
        self._rows: list[Any] = []
        self._size = 1
        self._facts: tuple[Any, int, int | None] = (None, -1, None)

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> Self:
        """Run one statement."""
        await self._conn._execute(self._run, sql, parameters or ())  # type: ignore[no-untyped-call]
        return self

    async def executemany(self, sql: str, parameters: Iterable[Iterable[Any]]) -> Self:
        """Run one statement with many sets of parameters."""
        await self._conn._execute(self._run_many, sql, parameters)  # type: ignore[no-untyped-call]
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

    async def rollback(self) -> None:
        """Undo the transaction, if there is one."""
        if self.in_transaction:
            await super().rollback()

    async def commit(self) -> None:
        """Commit the transaction, if there is one."""
        if self.in_transaction:
            await super().commit()


def connect(*arguments: Any, **options: Any) -> EagerConnection:
    """What SQLAlchemy calls for a new connection, with the arguments of `sqlite3.connect`."""
    connection = EagerConnection(partial(sqlite3.connect, *arguments, **options), 64)
    # A process that ends need not wait for connections: SQLite's files are whole at every moment.
    connection._thread.daemon = True
    return connection
