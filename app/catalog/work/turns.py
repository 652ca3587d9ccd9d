"""Turns: choose which waiting conversion a worker gets, so that no project waits for all images of another.

A message only wakes a worker; the conversion is chosen when the worker takes one. Projects with the fewest images
being converted go first, and among them the one that was served longest ago. Within a project, images that have been
started go first, so that images split into ranges become ACTIVE one after the other, not all at the end.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Integer,
    ScalarSelect,
    Select,
    Subquery,
    and_,
    bindparam,
    case,
    func,
    or_,
)
from sqlalchemy.orm import aliased
from sqlmodel import col, select

from app.catalog.work import jobs
from app.catalog.work.jobs import Claim
from app.catalog.work.kinds import CONVERSIONS, Conversion
from app.database.postgres import Lock
from app.database.sessions import Database
from app.lifecycle import JobKind, JobState
from app.models import TABLES, ConversionTurn, Image, Job, now

# More than one, since the image whose turn it is may be about to be deleted.
_CANDIDATES = 20


async def take_turn(database: Database, lease: timedelta, limit: int) -> Claim[Conversion] | None:
    """Claim the conversion whose turn it is. None when none is waiting, or `limit` holds all of them back.

    `limit` is the maximum number of images per project that are converted at a time.
    """
    async with database.transaction() as tx:
        # Without the lock, two workers that choose at once would each see room for one more. While it is held, no other
        # lock is waited for.
        await tx.alone(Lock.TURNS)
        # Chosen first and locked afterwards: PostgreSQL sorts whole rows when it also has to lock them.
        for job_id, project_id in (await tx.session.execute(_candidates(), {"at": now(), "limit": limit})).all():
            claim = await jobs.claim_by_id(tx, job_id, lease)
            if claim is not None:
                await tx.session.merge(ConversionTurn(project_id=project_id, served_at=now()))
                return claim
    return None


async def eligible(database: Database, limit: int, most: int = 100) -> Sequence[Job]:
    """Conversions that a worker could take now, in the order of their turns, at most `most`."""
    async with database.read() as session:
        parameters = {"at": now(), "limit": limit, "most": most}
        found: Sequence[Job] = (await session.execute(_eligible(), parameters)).scalars().all()
        return found


async def project_has_eligible(database: Database, image_id: str, limit: int) -> bool:
    """Whether the project of this image, which may be deleted, has a conversion that a worker could take now."""
    parameters = {"at": now(), "limit": limit, "image": image_id}
    async with database.read() as session:
        return (await session.execute(_eligible_of_project(), parameters)).scalar_one_or_none() is not None


async def others_wait(database: Database, image_id: str, limit: int, waiting: timedelta) -> bool:
    """Whether another image's conversion has waited for `waiting`, and could start if that of this image ended."""
    parameters = {"at": now() - waiting, "limit": limit, "image": image_id}
    async with database.read() as session:
        return (await session.execute(_of_others(), parameters)).scalar_one_or_none() is not None


async def move_to_end(database: Database, claim: Claim[Conversion], lost: int) -> None:
    """Move a conversion to the end: behind all that are waiting now, including those of its own project.

    `lost` is how often this has happened to it, and is stored in its detail. A job whose lease is lost is left
    unchanged.
    """
    async with database.transaction() as tx:
        await jobs.requeue_in(tx, claim, delay=timedelta(0), failed=False, found=replace(claim.detail, lost=lost))
        image = await tx.session.get(Image, claim.image_id)
        if image is not None:
            await tx.session.merge(ConversionTurn(project_id=image.project_id, served_at=now()))


# ---------------------------------------------------------------- statements

# Built once, since building them takes longer than running them. Their parameters are `at`, the time by which a job has
# to be due, and `limit`, the maximum number of images per project that are converted at a time.
_AT: BindParameter[datetime] = bindparam("at", type_=TABLES.tables["job"].c.due_at.type)
_LIMIT: BindParameter[int] = bindparam("limit", type_=Integer())


@cache
def _candidates() -> Select[Any]:
    """Select the first conversions in turn: the ids of the jobs and of their projects."""
    return _in_turn(Job.id, Image.project_id).limit(_CANDIDATES)


@cache
def _eligible() -> Select[Any]:
    """Select the first `most` conversions in turn."""
    return _in_turn(Job).limit(bindparam("most", type_=Integer()))


@cache
def _eligible_of_project() -> Select[Any]:
    """Select a conversion in turn in the project of the image `image`."""
    return _in_turn(Job.id).where(col(Image.project_id) == _project_of_image()).order_by(None).limit(1)


@cache
def _of_others() -> Select[Any]:
    """Select a conversion of another image than `image` that could start if that of this image ended."""
    under_way = _under_way()
    has_room = func.coalesce(under_way.c.begun, 0) < _LIMIT
    query: Select[Any] = (
        select(Job.id)
        .join(Image, col(Image.id) == Job.image_id)
        .outerjoin(under_way, under_way.c.project_id == Image.project_id)
        .where(col(Job.kind).in_(CONVERSIONS), jobs.claimable(_AT), col(Job.image_id) != bindparam("image"))
        .where(or_(has_room, col(Image.project_id) == _project_of_image(), col(Job.image_id).in_(_begun_images())))
        .limit(1)
    )
    return query


def _project_of_image() -> ScalarSelect[Any]:
    return select(Image.project_id).where(Image.id == bindparam("image")).correlate(None).scalar_subquery()


def _in_turn(*columns: Any) -> Select[Any]:
    """Select the conversions that a worker may take, in the order of their turns."""
    under_way = _under_way()
    has_room = func.coalesce(under_way.c.begun, 0) < _LIMIT
    query: Select[Any] = (
        select(*columns)
        .select_from(Job)
        .join(Image, col(Image.id) == Job.image_id)
        .outerjoin(under_way, under_way.c.project_id == Image.project_id)
        .outerjoin(ConversionTurn, col(ConversionTurn.project_id) == Image.project_id)
        .where(col(Job.kind).in_(CONVERSIONS), jobs.claimable(_AT))
        .where(or_(has_room, col(Job.image_id).in_(_begun_images())))
        .order_by(
            func.coalesce(under_way.c.held, 0),
            col(ConversionTurn.served_at).nulls_first(),
            col(Job.kind) == JobKind.CONVERT,
            col(Job.due_at),
            col(Job.id),
        )
    )
    return query


def _under_way() -> Subquery:
    """For each project, the images whose conversions run (`begun`), and those whose lease has not expired (`held`).

    An image whose lease has expired still counts as begun, since its worker may come back. It can be taken regardless
    of the limit, so nothing waits for it, and it does not count in the comparison of who has the fewest.
    """
    running = aliased(Job)
    held = case((col(running.lease_until) >= _AT, col(running.image_id)))
    return (
        select(
            col(Image.project_id),
            func.count(col(running.image_id).distinct()).label("begun"),
            func.count(held.distinct()).label("held"),
        )
        .join(running, col(running.image_id) == Image.id)
        .where(_runs(running))
        .group_by(col(Image.project_id))
        .subquery()
    )


def _begun_images() -> Select[Any]:
    running = aliased(Job)
    return select(col(running.image_id)).where(_runs(running))


def _runs(job: type[Job]) -> ColumnElement[bool]:
    return and_(col(job.state) == JobState.RUNNING, col(job.kind).in_(CONVERSIONS))
