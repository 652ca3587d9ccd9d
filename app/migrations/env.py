"""Alembic's entry: runs the migrations on one connection, in one transaction."""

import asyncio
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from app.models import TABLES, Instant, Word


def render(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Our column types as what they are in the database, so that a migration does not depend on later code."""
    if kind == "type" and isinstance(item, Instant):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Word):
        return "sa.Text()"
    return False


def run(connection: Connection) -> None:
    """Apply what is missing."""
    # SQLite changes a table by making it anew, which batch mode does.
    context.configure(connection=connection, target_metadata=TABLES, render_as_batch=True, render_item=render)
    with context.begin_transaction():
        context.run_migrations()


async def connect_and_run() -> None:
    """Open the database that `migrate` was given."""
    engine = create_async_engine(context.config.attributes["url"])
    async with engine.begin() as connection:
        await connection.run_sync(run)
    await engine.dispose()


asyncio.run(connect_and_run())
