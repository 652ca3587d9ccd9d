"""Two processes on one PostgreSQL that want the same at the same moment: who waits is seen, and let go on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from sqlalchemy import text

from app.database.sessions import Database
from tests.support.gateway import until

_WAITING = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


async def waiting(database: Database) -> int:
    """How many transactions of this database wait for a lock."""
    async with database.read() as session:
        count: int = (await session.execute(_WAITING)).scalar_one()
        return count


@asynccontextmanager
async def row_held(database: Database, table: type[Any], id_: str) -> AsyncIterator[None]:
    """Locks a row, so that nothing else can change it during the block."""
    async with database.transaction() as tx:
        await tx.session.get_one(table, id_, with_for_update=True)
        yield


async def one_after_the_other(
    database: Database, table: type[Any], id_: str, *acts: Callable[[], Awaitable[Any]]
) -> list[Any]:
    """What becomes of `acts` when each has begun, and waits for the row, before the first may go on: in that order.

    Gives their results, or the exceptions that they raised.
    """
    outcomes: list[Any] = [None] * len(acts)

    async def run(at: int) -> None:
        try:
            outcomes[at] = await acts[at]()
        except Exception as error:
            outcomes[at] = error

    async with anyio.create_task_group() as tasks:
        async with row_held(database, table, id_):
            for at in range(len(acts)):
                tasks.start_soon(run, at)

                async def has_come(number: int = at + 1) -> bool:
                    return await waiting(database) >= number

                await until(has_come)
    return outcomes
