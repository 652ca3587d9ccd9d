"""Alembic's entry point: runs the migrations on one connection, in one transaction, one process at a time."""

import asyncio
from typing import Any, Literal

from alembic import context
from alembic.autogenerate.api import AutogenContext
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.database import postgres, sqlite
from app.database.migrations.comparison import belongs_to
from app.models import TABLES, Instant, Word


def render(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    """Render column types as those of the database, so that a migration does not depend on later code."""
    if kind == "type" and isinstance(item, Instant):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, Word):
        return "sa.Text()"
    return False


def run(connection: Connection) -> None:
    """Apply the missing migrations."""
    if connection.dialect.name == "postgresql":
        # A second process waits here, and then finds nothing to do.
        connection.execute(postgres.lock_statement(postgres.Lock.MIGRATION))
    # SQLite changes a table by recreating it, which batch mode does.
    context.configure(
        connection=connection,
        target_metadata=TABLES,
        render_as_batch=True,
        render_item=render,
        include_object=belongs_to(connection.dialect.name),
    )
    with context.begin_transaction():
        context.run_migrations()


def opened(url: str) -> AsyncEngine:
    """An engine for the database at `url`."""
    return create_async_engine(url) if url.startswith("sqlite") else postgres.open_for_migration(url)


async def connect_and_run() -> None:
    """Apply the missing migrations; none when one fails."""
    engine = opened(context.config.attributes["url"])
    try:
        with postgres.as_unavailable(), sqlite.as_unavailable():
            async with engine.begin() as connection:
                await connection.run_sync(run)
    finally:
        await engine.dispose()


asyncio.run(connect_and_run())
