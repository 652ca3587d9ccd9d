"""Counts unfinished work for metrics: two reads by index, whose cost does not grow with the finished jobs."""

from datetime import datetime

from sqlalchemy import case, func
from sqlmodel import col, select

from app.catalog.work.jobs import claimable
from app.database.sessions import Database
from app.lifecycle import JobKind, JobState, UploadState
from app.metrics import CatalogueState
from app.models import Job, Upload, now

_NOT_DONE = (JobState.WAITING, JobState.RUNNING)


async def take(database: Database) -> CatalogueState:
    """Count the jobs that are not done, by kind and state, and the open uploads. Raises DatabaseUnavailable.

    A job whose worker has stopped renewing its lease counts as waiting since the lease expired. A job to retry later
    counts as waiting only from when it is due.
    """
    at = now()
    waiting = case((claimable(at), 1), (col(Job.state) == JobState.WAITING, 1), else_=0).label("waiting")
    due_since = case((col(Job.state) == JobState.WAITING, col(Job.due_at)), else_=col(Job.lease_until))
    oldest = func.min(case((claimable(at), due_since)))
    not_done = col(Job.state).in_(_NOT_DONE)
    counts = select(col(Job.kind), waiting, func.count(), oldest).where(not_done).group_by(col(Job.kind), waiting)
    open_uploads = select(func.count()).select_from(Upload).where(col(Upload.state) == UploadState.OPEN)
    async with database.read() as session:
        rows = (await session.execute(counts)).all()
        uploads = (await session.execute(open_uploads)).scalar_one()
    found = {(kind, JobState.WAITING if waits else JobState.RUNNING): count for kind, waits, count, _ in rows}
    waited = {kind: _seconds(at, since) for kind, waits, _, since in rows if waits}
    return CatalogueState(
        jobs={(kind, state): found.get((kind, state), 0) for kind in JobKind for state in _NOT_DONE},
        oldest_waiting={kind: waited.get(kind, 0.0) for kind in JobKind},
        open_uploads=uploads,
    )


def _seconds(at: datetime, since: datetime | None) -> float:
    """How long ago something was due, in seconds; 0 if it is not due yet."""
    return 0.0 if since is None else max(0.0, (at - since).total_seconds())
