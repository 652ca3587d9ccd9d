"""Jobs: claimed under a lease, fenced by a token, reassigned when the lease expires (architecture, rule 3)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar, cast

from sqlalchemy import BindParameter, ColumnElement, CursorResult, and_, delete, or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog.work.kinds import CONVERSIONS, JOBS, OF_WORKERS, Detail, kind_of
from app.database.postgres import Lock
from app.database.sessions import Database, Transaction
from app.errors import LeaseLost
from app.lifecycle import UNDONE, JobKind, JobState
from app.models import Job, now

D = TypeVar("D", bound=Detail)
D_co = TypeVar("D_co", bound=Detail, covariant=True)


@dataclass(frozen=True, slots=True)
class Claim(Generic[D_co]):
    """The right to do a job, until another worker gets a newer token."""

    job_id: str
    kind: JobKind
    token: int
    attempt: int
    image_id: str | None
    detail: D_co


def start(tx: Transaction, detail: Detail, *, image_id: str | None = None, host_id: str | None = None) -> Job:
    """Add a job of the detail's kind. It is announced once the transaction has committed.

    `host_id` is the only host that may do it; without one, any worker may.
    """
    job = Job(kind=kind_of(detail), image_id=image_id, host_id=host_id, detail=detail.to_row())
    tx.session.add(job)
    tx.jobs.append(job)
    return job


async def expedite(tx: Transaction, job_id: str | None) -> bool:
    """Make a job that waits due now, with all of its attempts. Returns False when there is no unfinished job."""
    job = await tx.session.get(Job, job_id, with_for_update=True) if job_id else None
    if job is None or job.state == JobState.DONE:
        return False
    if job.state == JobState.WAITING:
        job.due_at, job.attempts = now(), 0
        tx.jobs.append(job)
    return True


async def claim(database: Database, kind: JobKind, lease: timedelta) -> Claim[Any] | None:
    """Claim the longest-waiting job of a kind that is due or whose lease has expired; None if there is none."""
    query = select(Job).where(Job.kind == kind).order_by(col(Job.due_at), col(Job.id)).limit(1)
    async with database.transaction() as tx:
        return await take(tx, query, lease)


async def claim_of_host(database: Database, host_id: str, lease: timedelta) -> Claim[Any] | None:
    """Claim the longest-waiting job of a host that is due or whose lease has expired; None if there is none.

    Jobs that any host may do are not included: see `servers.boot_checks`.
    """
    of_host = (Job.host_id == host_id, Job.kind != JobKind.VERIFY_BOOT)
    # A host polls, and mostly finds nothing: a read disturbs no writer.
    due = select(Job.id).where(*of_host, claimable(now())).limit(1)
    async with database.read() as session:
        if (await session.execute(due)).first() is None:
            return None
    query = select(Job).where(*of_host).order_by(col(Job.due_at), col(Job.id)).limit(1)
    async with database.transaction() as tx:
        return await take(tx, query, lease)


async def claim_by_id(tx: Transaction, job_id: str, lease: timedelta) -> Claim[Any] | None:
    """Claim a job by its id; None unless it is due or its lease has expired."""
    return await take(tx, select(Job).where(Job.id == job_id), lease)


async def take(
    tx: Transaction, query: SelectOfScalar[Job], lease: timedelta, *, host_id: str | None = None
) -> Claim[Any] | None:
    """Claim the job that a query selects, for a host if given; None unless it is due or its lease has expired."""
    at = now()
    # A locked row is being claimed or changed by another transaction: it is not worth waiting for.
    query = query.where(claimable(at)).with_for_update(skip_locked=True)
    job = (await tx.session.execute(query)).scalar_one_or_none()
    if job is None:
        return None
    job.state, job.lease_until = JobState.RUNNING, at + lease
    job.host_id = host_id or job.host_id
    job.token += 1
    job.attempts += 1
    detail = JOBS[job.kind].detail.from_row(job.detail)
    return Claim(job.id, job.kind, job.token, job.attempts, job.image_id, detail)


async def renew(database: Database, claim: Claim[Detail], lease: timedelta) -> None:
    """Extend the lease of a job by `lease` from now. Raises LeaseLost."""
    async with database.transaction() as tx:
        await _write(tx.session, claim, lease_until=now() + lease)


async def hold(tx: Transaction, claim: Claim[Detail]) -> None:
    """Fence a worker's write: raises LeaseLost, which rolls the transaction back, when the worker lost the job."""
    await _write(tx.session, claim, token=claim.token)


async def finish(tx: Transaction, claim: Claim[D], found: D | None = None) -> None:
    """Mark a job as done; `found` replaces its detail, if given. Raises LeaseLost."""
    detail = claim.detail if found is None else found
    await _write(tx.session, claim, state=JobState.DONE, lease_until=None, detail=detail.to_row())


async def discard(tx: Transaction, claim: Claim[Detail]) -> None:
    """Delete a job that is done, and to which nothing refers. Raises LeaseLost."""
    if not await _execute(tx.session, delete(Job).where(_held(claim))):
        raise _lost(claim)


async def requeue(database: Database, claim: Claim[Detail], *, delay: timedelta, failed: bool = True) -> None:
    """Return a job to the queue after `delay`. Without `failed` it costs no attempt. A lost job is left unchanged."""
    async with database.transaction() as tx:
        await requeue_in(tx, claim, delay=delay, failed=failed)


async def requeue_in(
    tx: Transaction, claim: Claim[D], *, delay: timedelta, failed: bool, found: D | None = None
) -> None:
    """As `requeue`, within a transaction; `found` replaces the job's detail, if given."""
    values: dict[str, Any] = {"state": JobState.WAITING, "lease_until": None, "due_at": now() + delay}
    if not failed:
        values["attempts"] = Job.attempts - 1
    if found is not None:
        values["detail"] = found.to_row()
    await _execute(tx.session, update(Job).where(_held(claim)).values(**values))


async def cancel_of_image(
    tx: Transaction, image_id: str, *, but: str | None = None, but_kinds: Collection[JobKind] = ()
) -> None:
    """Cancel all unfinished jobs of an image, except the one with the id `but` and those of `but_kinds`.

    Their workers get LeaseLost on their next write. Those whose host has to undo something start over instead: they
    find the image as it is now.
    """
    others = (col(Job.kind).not_in(but_kinds), *(() if but is None else (col(Job.id) != but,)))
    await _execute(
        tx.session,
        update(Job)
        .where(col(Job.image_id) == image_id, col(Job.state) != JobState.DONE, col(Job.kind).not_in(UNDONE), *others)
        .values(state=JobState.DONE, lease_until=None, token=Job.token + 1),
    )
    undone = select(Job).where(Job.image_id == image_id, Job.state != JobState.DONE, col(Job.kind).in_(UNDONE), *others)
    for job in (await tx.session.execute(undone.with_for_update())).scalars():
        job.state, job.lease_until, job.due_at, job.attempts = JobState.WAITING, None, now(), 0
        job.token += 1
        tx.jobs.append(job)


async def cancel(tx: Transaction, job_id: str | None) -> None:
    """Cancel a job unless it is done. Its worker gets LeaseLost on its next write."""
    await _execute(
        tx.session,
        update(Job)
        .where(col(Job.id) == job_id, col(Job.state) != JobState.DONE)
        .values(state=JobState.DONE, lease_until=None, token=Job.token + 1),
    )


async def due(database: Database, limit: int = 100) -> Sequence[Job]:
    """Jobs that are due or whose lease has expired, the longest-waiting first, at most `limit`.

    Conversions are not included: many more may wait than can start, so they are chosen by `turns`. Neither are the jobs
    of hosts, which look for them.
    """
    query = select(Job).where(claimable(now()), col(Job.kind).in_(OF_WORKERS - CONVERSIONS))
    query = query.order_by(col(Job.due_at)).limit(limit)
    async with database.read() as session:
        return (await session.execute(query)).scalars().all()


async def held(database: Database) -> Sequence[tuple[str, int]]:
    """The running jobs whose lease has not expired: their ids and tokens."""
    query = select(Job.id, Job.token).where(Job.state == JobState.RUNNING, col(Job.lease_until) >= now())
    async with database.read() as session:
        return [(job_id, token) for job_id, token in (await session.execute(query)).all()]


def claimable(at: datetime | BindParameter[datetime]) -> ColumnElement[bool]:
    """The condition that a job is due, or that its lease has expired."""
    return or_(
        and_(col(Job.state) == JobState.WAITING, col(Job.due_at) <= at),
        and_(col(Job.state) == JobState.RUNNING, col(Job.lease_until) < at),
    )


def _held(claim: Claim[Detail]) -> Any:
    return and_(col(Job.id) == claim.job_id, col(Job.token) == claim.token, col(Job.state) == JobState.RUNNING)


async def _write(session: AsyncSession, claim: Claim[Detail], **values: Any) -> None:
    if not await _execute(session, update(Job).where(_held(claim)).values(**values)):
        raise _lost(claim)


def _lost(claim: Claim[Detail]) -> LeaseLost:
    return LeaseLost(f"job {claim.job_id} is no longer held")


async def _execute(session: AsyncSession, statement: Any) -> int:
    """Run a statement, and return the number of rows that it affected."""
    statement = statement.execution_options(synchronize_session=False)
    return cast("CursorResult[Any]", await session.execute(statement)).rowcount


async def prune(database: Database, keep: timedelta) -> None:
    """Delete finished jobs that are older than `keep`."""
    async with database.transaction() as tx:
        await tx.alone(Lock.PRUNING)
        await _execute(
            tx.session, delete(Job).where(col(Job.state) == JobState.DONE, col(Job.created_at) < now() - keep)
        )
