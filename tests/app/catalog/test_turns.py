"""Turns: a project that has many images converted keeps no other one waiting, and has only so many at once."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import col, select

from app.catalog.work import jobs, turns
from app.catalog.work.jobs import Claim
from app.database.sessions import Database
from app.lifecycle import EventKind, ImageStatus, JobKind, JobState
from app.models import Event, Job, now
from tests.app.conftest import StartGateway
from tests.support.details import DETAILS
from tests.support.gateway import LEASE, Gateway, claimed, until
from workers.jobs.conversions import Conversions
from workers.jobs.schedule import Schedule

pytestmark = pytest.mark.anyio

CONVERT, STREAM_RANGE, ASSEMBLE = JobKind.CONVERT, JobKind.STREAM_RANGE, JobKind.ASSEMBLE
MANY = 1000


@dataclass
class Hall:
    """Where conversions wait. Their images are rows alone; each is called by its project and a number."""

    gateway: Gateway
    projects: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    _came: int = 0

    async def come(self, *names: str, kind: JobKind = CONVERT) -> None:
        """Have a conversion wait for each of these images, one after the other."""
        for name in names:
            await self._add(name, kind)

    async def _add(self, name: str, kind: JobKind) -> None:
        project = name.rstrip("0123456789")
        if project not in self.projects:
            self.projects[project] = await self.gateway.project()
        if name not in self.names.values():
            (image,) = await self.gateway.stock(self.projects[project], {"name": name})
            self.names[image] = name
        image = next(id_ for id_, given in self.names.items() if given == name)
        self._came += 1
        async with self.gateway.database.transaction() as tx:
            job = jobs.start(tx, DETAILS[kind], image_id=image)
            job.due_at = now() - timedelta(hours=1) + timedelta(seconds=self._came)

    async def take(
        self, limit: int = MANY, database: Database | None = None, lease: timedelta = LEASE
    ) -> Claim[Any] | None:
        return await turns.take_turn(database or self.gateway.database, lease, limit)

    async def taken(self, limit: int = MANY, lease: timedelta = LEASE) -> Claim[Any]:
        claim = await self.take(limit, lease=lease)
        assert claim is not None
        return claim

    async def name(self, limit: int = MANY) -> str | None:
        """Take a turn; gives the name of the image, or None."""
        claim = await self.take(limit)
        return self.name_of(claim) if claim else None

    def name_of(self, claim: Claim[Any] | Job) -> str:
        return self.names[str(claim.image_id)]

    async def fall_silent(self, *names: str) -> None:
        """Let it look as if the workers that have these images had died."""
        for job in await self.gateway.all_jobs():
            if job.image_id in self.names and self.name_of(job) in names:
                await self.gateway.change(Job, job.id, state=JobState.RUNNING, lease_until=now() - LEASE)

    async def finish(self, claim: Claim[Any]) -> None:
        async with self.gateway.database.transaction() as tx:
            await jobs.finish(tx, claim)

    async def served(self) -> str:
        """What one worker does: take a turn, and finish it."""
        claim = await self.taken()
        await self.finish(claim)
        return self.name_of(claim)


@pytest.fixture
async def hall(gateway: Gateway) -> AsyncIterator[Hall]:
    """Nobody waits yet, and nobody will afterwards."""
    yield Hall(gateway)
    async with gateway.database.transaction() as tx:
        for job in (await tx.session.execute(select(Job).where(Job.state != JobState.DONE))).scalars():
            job.state = JobState.DONE


# ---------------------------------------------------------------- whose turn it is


async def test_one_worker_goes_round_the_projects(hall: Hall) -> None:
    await hall.come("a1", "a2", "a3", "a4", "b1", "b2", "c1")
    assert [await hall.served() for _ in range(7)] == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]
    assert await hall.take() is None


async def test_the_first_image_of_a_project_is_next_although_200_of_another_wait(hall: Hall) -> None:
    await hall.come(*(f"a{number}" for number in range(200)))
    assert [await hall.served() for _ in range(3)] == ["a0", "a1", "a2"]
    await hall.come("b1")
    assert [await hall.served() for _ in range(2)] == ["b1", "a3"]


async def test_who_has_fewer_images_under_way_goes_before_who_was_served_longer_ago(hall: Hall) -> None:
    await hall.come("a1", "b1", "a2", "b2")
    assert await hall.name() == "a1"
    assert await hall.served() == "b1"
    assert await hall.name() == "b2"
    assert await hall.name() == "a2"


async def test_among_projects_with_equally_many_the_one_served_longest_ago_goes_first(hall: Hall) -> None:
    await hall.come("a1", "b1")
    assert [await hall.served() for _ in range(2)] == ["a1", "b1"]
    await hall.come("b2", "a2")
    assert [await hall.served() for _ in range(2)] == ["a2", "b2"]


async def test_what_is_not_due_and_what_is_no_conversion_has_no_turn(hall: Hall) -> None:
    await hall.come("a1")
    await hall.come("a2", kind=JobKind.HASH)
    claim = await hall.taken()
    await jobs.requeue(hall.gateway.database, claim, delay=timedelta(hours=1))
    assert await hall.take() is None
    await hall.gateway.change(Job, claim.job_id, due_at=now())
    again = await hall.taken()
    assert (again.job_id, again.token, again.attempt) == (claim.job_id, 2, 2)


# ---------------------------------------------------------------- how many of one project


async def test_a_project_has_no_more_images_under_way_than_the_limit_and_others_go_on(hall: Hall) -> None:
    await hall.come("a1", "a2", "a3", "b1")
    first = await hall.taken(limit=2)
    assert [await hall.name(limit=2) for _ in range(3)] == ["b1", "a2", None]
    await hall.finish(first)
    assert [await hall.name(limit=2) for _ in range(2)] == ["a3", None]


async def test_what_is_handed_back_makes_room(hall: Hall) -> None:
    await hall.come("a1", "a2")
    claim = await hall.taken(limit=1)
    assert await hall.take(limit=1) is None
    await jobs.requeue(hall.gateway.database, claim, delay=timedelta(hours=1))
    assert await hall.name(limit=1) == "a2"


async def test_other_jobs_of_a_project_take_no_room(hall: Hall) -> None:
    await hall.come("a1", kind=JobKind.HASH)
    (hashing,) = [job for job in await jobs.due(hall.gateway.database) if job.kind == JobKind.HASH]
    assert await claimed(hall.gateway.database, hashing.id, LEASE) is not None
    await hall.come("a2")
    assert await hall.name(limit=1) == "a2"


async def test_the_ranges_of_an_image_count_once_and_go_before_what_has_not_been_begun(hall: Hall) -> None:
    await hall.come("a1", "a2")
    await hall.come("a2", "a2", "a3", kind=STREAM_RANGE)
    ranges = [await hall.taken(limit=1) for _ in range(2)]
    assert [hall.name_of(claim) for claim in ranges] == ["a2", "a2"]
    assert {claim.kind for claim in ranges} == {STREAM_RANGE}
    # The image is under way, and so its other job may run, too; no other image may.
    assert (await hall.taken(limit=1)).kind == CONVERT
    assert await hall.take(limit=1) is None
    assert await hall.name(limit=2) == "a3"


async def test_an_image_that_was_begun_is_assembled_before_others_of_its_project_begin(hall: Hall) -> None:
    await hall.come("a1", "a2")
    await hall.finish(await hall.taken())
    await hall.come("a1", kind=ASSEMBLE)
    assert [await hall.served() for _ in range(2)] == ["a1", "a2"]


# ---------------------------------------------------------------- workers that fall silent


async def test_a_conversion_whose_worker_fell_silent_is_given_on_whatever_the_limit_is(hall: Hall) -> None:
    await hall.come("a1", "a2")
    silent = await hall.taken(limit=1, lease=timedelta(seconds=-1))
    second = await hall.taken(limit=1)
    assert (second.job_id, second.token, second.attempt) == (silent.job_id, 2, 2)
    assert await hall.take(limit=1) is None


async def test_one_that_may_be_heard_of_again_keeps_its_place(hall: Hall) -> None:
    await hall.come("a1", "a2")
    await hall.fall_silent("a2")
    assert [await hall.name(limit=1) for _ in range(2)] == ["a2", None]


async def test_a_project_whose_workers_fell_silent_does_not_come_last_for_it(hall: Hall) -> None:
    await hall.come("a1", "a2", "b1", "b2")
    await hall.fall_silent("a1", "a2")
    assert [await hall.name(limit=2) for _ in range(5)] == ["a1", "b1", "a2", "b2", None]


# ---------------------------------------------------------------- everybody at once


async def test_concurrent_claims_get_different_jobs_and_no_project_exceeds_its_limit(
    hall: Hall, other: Database
) -> None:
    await hall.come(*(f"{project}{number}" for project in "abc" for number in range(8)))
    came = [hall.take(3, database) for database in (hall.gateway.database, other) * 20]
    claims = [claim for claim in await asyncio.gather(*came) if claim is not None]
    assert len({claim.job_id for claim in claims}) == len(claims) == 9
    assert Counter(hall.name_of(claim)[0] for claim in claims) == {"a": 3, "b": 3, "c": 3}


# ---------------------------------------------------------------- who is told


@dataclass
class Sent:
    """A job queue that keeps the kinds that workers are woken for."""

    kinds: list[str] = field(default_factory=list)

    def wake(self, kind: str) -> None:
        self.kinds.append(kind)

    async def check(self) -> None: ...


async def test_many_that_may_not_begin_keep_no_other_job_from_being_sent_again(hall: Hall) -> None:
    gateway, sent = hall.gateway, Sent()
    await hall.come(*(f"a{number}" for number in range(200)), "b1")
    await hall.come("a201", kind=JobKind.HASH)
    limit = gateway.settings.conversions_per_project
    taken = [hall.name_of(await hall.taken(limit))[0] for _ in range(limit + 1)]
    assert Counter(taken) == {"a": limit, "b": 1}
    await hall.come("b2")
    await Schedule(gateway.catalogue, sent).resend_jobs()
    # One for b2, and one for what is to be hashed.
    assert sorted(sent.kinds) == [CONVERT, JobKind.HASH]


async def test_when_a_conversion_has_ended_another_one_of_its_project_may_begin(hall: Hall) -> None:
    await hall.come("a1", "a2", "b1")
    database = hall.gateway.database
    claim = await hall.taken(limit=1)
    assert not await turns.project_has_eligible(database, str(claim.image_id), 1)
    await hall.finish(claim)
    assert await turns.project_has_eligible(database, str(claim.image_id), 1)
    await hall.finish(await hall.taken(limit=1))
    await hall.finish(await hall.taken(limit=1))
    await hall.come("b2")
    assert not await turns.project_has_eligible(database, str(claim.image_id), 1)


# ---------------------------------------------------------------- turns that are lost


async def others(hall: Hall, claim: Claim[Any], limit: int = MANY, waiting: timedelta = timedelta(0)) -> bool:
    return await turns.others_wait(hall.gateway.database, str(claim.image_id), limit, waiting)


async def test_others_wait_while_a_conversion_of_another_image_could_be_taken(hall: Hall) -> None:
    await hall.come("a1")
    claim = await hall.taken()
    # Another range of the same image would gain nothing.
    await hall.come("a1", kind=STREAM_RANGE)
    assert not await others(hall, claim)

    await hall.come("b1")

    assert await others(hall, claim)
    assert not await others(hall, claim, waiting=timedelta(hours=2))


async def test_images_that_the_limit_of_their_own_project_keeps_back_do_not_wait(hall: Hall) -> None:
    await hall.come("a1", "b1")
    ours, theirs = await hall.taken(limit=1), await hall.taken(limit=1)
    await hall.come("b2")
    assert not await others(hall, ours, limit=1)
    # They could begin if the one of their project ended.
    assert await others(hall, theirs, limit=1)


async def test_a_turn_that_is_lost_goes_to_the_project_and_the_image_that_wait_longest(hall: Hall) -> None:
    await hall.come("a1", "a2", "b1")
    claim = await hall.taken()

    await turns.move_to_end(hall.gateway.database, claim, 1)

    assert [await hall.served() for _ in range(2)] == ["b1", "a2"]
    again = await hall.taken()
    assert (hall.name_of(again), again.detail.lost, again.attempt) == ("a1", 1, 1)


# ---------------------------------------------------------------- with workers at hand


async def steps(gateway: Gateway) -> list[tuple[str, str]]:
    """What became of images, in the order of the feed: their projects, and what they became."""
    query = select(Event).where(Event.kind == EventKind.STATUS_CHANGED).order_by(col(Event.seq))
    async with gateway.database.read() as session:
        found = (await session.execute(query)).scalars().all()
    return [(event.feed, event.detail["after"]) for event in found]


async def active(gateway: Gateway) -> list[str]:
    """The projects of the images that became ACTIVE, in the order of the feed."""
    return [project for project, became in await steps(gateway) if became == ImageStatus.ACTIVE]


async def uploads(gateway: Gateway, project: str, count: int) -> None:
    for _ in range(count):
        await gateway.uploaded(projectId=project)


async def test_one_worker_makes_the_images_of_two_projects_active_by_turns(start_gateway: StartGateway) -> None:
    async with start_gateway(workers=1) as gateway:
        many, few = await gateway.project(), await gateway.project()
        await uploads(gateway, many, 5)
        await uploads(gateway, few, 2)
        async with gateway.working():
            await until(gateway.idle)
        assert await active(gateway) == [many, few, many, few, many, many, many]


async def test_an_image_that_comes_while_many_wait_is_active_right_after_the_one_under_way(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    convert = Conversions.convert

    async def held(conversions: Conversions, claim: Claim[Any], cancelled: threading.Event) -> None:
        begun.set()
        await asyncio.to_thread(go_on.wait, 60)
        await convert(conversions, claim, cancelled)

    monkeypatch.setattr(Conversions, "convert", held)
    async with start_gateway(workers=1) as gateway:
        many, few = await gateway.project(), await gateway.project()
        await uploads(gateway, many, 5)
        async with gateway.working():
            assert await asyncio.to_thread(begun.wait, 60)
            await uploads(gateway, few, 1)
            go_on.set()
            await until(gateway.idle)
        assert await active(gateway) == [many, few, many, many, many, many]


async def test_several_workers_keep_to_the_limit_and_none_is_forgotten(start_gateway: StartGateway) -> None:
    """The sweep, which would find what was forgotten, does not come."""
    async with start_gateway(workers=4, conversions_per_project=1, poll_seconds=3600) as gateway:
        many, few = await gateway.project(), await gateway.project()
        await uploads(gateway, many, 6)
        await uploads(gateway, few, 3)
        async with gateway.working():

            async def all_active() -> bool:
                return len(await active(gateway)) == 9

            await until(all_active)
        under_way: Counter[str] = Counter()
        for project, became in await steps(gateway):
            under_way[project] += 1 if became == ImageStatus.SAVING else -1
            assert under_way[project] in (0, 1)
