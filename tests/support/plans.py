"""How a database reads: the statements of a block, their plans, and the number of rows that they read."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from app.database.sessions import Database


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a read, with its parameters."""

    text: str
    parameters: Any


@contextmanager
def reads_of(database: Database) -> Iterator[list[Statement]]:
    """The SELECT statements that are run in reads during the block."""
    found: list[Statement] = []

    def keep(_connection: object, _cursor: object, statement: str, parameters: Any, *_others: object) -> None:
        if statement.startswith("SELECT"):
            found.append(Statement(statement, parameters))

    engine = database._reading.sync_engine
    event.listen(engine, "before_cursor_execute", keep)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", keep)


async def explained(database: Database, how: str, statement: Statement) -> list[Any]:
    """The rows of an EXPLAIN, `how` being that word and its options."""
    async with database.read() as session:
        connection = await session.connection()
        return list((await connection.exec_driver_sql(how + statement.text, statement.parameters)).all())


async def steps_of_postgresql(database: Database, statement: Statement) -> list[Mapping[str, Any]]:
    """The steps in which PostgreSQL has run a statement, each with the rows that it gave and threw away."""
    ((explanation,),) = await explained(database, "EXPLAIN (ANALYZE, FORMAT JSON) ", statement)
    (whole,) = explanation if isinstance(explanation, list) else json.loads(explanation)
    return list(_steps(whole["Plan"]))


def _steps(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield step
    for below in step.get("Plans", ()):
        yield from _steps(below)


def looked_at(scans: Iterable[Mapping[str, Any]]) -> int:
    """The number of rows that PostgreSQL read in these steps."""
    return sum(step["Actual Loops"] * (step["Actual Rows"] + step.get("Rows Removed by Filter", 0)) for step in scans)


async def plan_of_sqlite(database: Database, statement: Statement) -> list[str]:
    """The steps in which SQLite would run a statement."""
    return [row[3] for row in await explained(database, "EXPLAIN QUERY PLAN ", statement)]


def instructions_of_sqlite(database: Database, statement: Statement) -> int:
    """How many instructions of its machine SQLite needs for a statement, in steps of a hundred."""
    hundreds = 0

    def count() -> None:
        nonlocal hundreds
        hundreds += 1

    with closing(sqlite3.connect(database.url.removeprefix("sqlite+aiosqlite:///"))) as connection:
        connection.set_progress_handler(count, 100)
        connection.execute(statement.text, statement.parameters).fetchall()
    return 100 * hundreds
