"""Keeps the lease of a job while it is done."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import structlog

from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.errors import LeaseLost
from workers.jobs.turn_clock import set_within

log = structlog.get_logger()


@asynccontextmanager
async def leased(
    database: Database, claim: Claim[Any], seconds: float, cancel: Callable[[], object]
) -> AsyncIterator[None]:
    """Renew a lease of `seconds` during the block. Calls `cancel` if the lease is lost, and when the block ends."""
    done = asyncio.Event()
    renewing = asyncio.create_task(_renew(database, claim, seconds, cancel, done))
    try:
        yield
    finally:
        cancel()
        done.set()
        await renewing


async def _renew(
    database: Database, claim: Claim[Any], seconds: float, cancel: Callable[[], object], done: asyncio.Event
) -> None:
    while not await set_within(done, seconds / 3):
        try:
            await jobs.renew(database, claim, timedelta(seconds=seconds))
        except LeaseLost:
            cancel()
            return
        except Exception:
            log.warning("job.not_renewed", job=claim.job_id, exc_info=True)
