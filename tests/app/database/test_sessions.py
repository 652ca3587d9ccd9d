"""Transactions: all or nothing, announced after the commit, one writer at a time, and readers beside it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlmodel import select

from app.catalog.feed import event_log
from app.catalog.feed.details import Created
from app.catalog.work import jobs
from app.catalog.work.kinds import Erase
from app.database.sessions import Database, Transaction
from app.errors import DatabaseUnavailable
from app.models import Event, Image, Job, Organization, Project
from app.settings import load_settings
from tests.app.conftest import NewDatabase

pytestmark = pytest.mark.anyio


class Announced:
    """What was told after commits, and what another connection could see of it at that moment."""

    def __init__(self) -> None:
        self.jobs: list[str] = []
        self.positions: list[int | None] = []

    def __call__(self, started: list[Job], events: list[Event]) -> None:
        self.jobs += [job.id for job in started]
        self.positions += [event.seq for event in events]


@pytest.fixture
def announced() -> Announced:
    return Announced()


@pytest.fixture
async def database(new_database: NewDatabase, tmp_path: Path, announced: Announced) -> AsyncIterator[Database]:
    data = tmp_path / "data"
    settings = load_settings(data=data, **new_database(data))
    opened = Database(settings.database_address, announced)
    yield opened
    await opened.close()


@pytest.fixture
async def image(database: Database) -> Image:
    """An image of a project, whose rows are there."""
    async with database.transaction() as tx:
        organization = Organization(name="demo")
        tx.session.add(organization)
        await tx.session.flush()
        project = Project(organization_id=organization.id, name="alpha")
        tx.session.add(project)
        await tx.session.flush()
        made = Image(
            project_id=project.id, name="a", name_key="a", created_by="ada", source_file_name="a.raw", source_size=1
        )
        tx.session.add(made)
    return made


async def count(database: Database, table: type[Event] | type[Job]) -> int:
    async with database.read() as session:
        return len((await session.execute(select(table))).all())


async def write(tx: Transaction, image: Image) -> Event:
    jobs.start(tx, Erase())
    (event,) = await event_log.append(tx, image, Created())
    return event


async def test_what_a_transaction_wrote_is_announced_when_it_can_be_seen(
    database: Database, announced: Announced, image: Image
) -> None:
    async with database.transaction() as tx:
        event = await write(tx, image)
        await tx.session.flush()
        assert tx.position is None
        assert await count(database, Event) == 0
        assert announced.positions == []
    assert announced.positions == [event.seq] == [tx.position]
    assert tx.position is not None
    assert announced.jobs == [tx.jobs[0].id]
    assert await count(database, Event) == await count(database, Job) == 1


async def test_a_transaction_that_wrote_nothing_to_tell_is_not_announced(
    database: Database, announced: Announced, image: Image
) -> None:
    async with database.transaction() as tx:
        (await tx.session.get_one(Image, image.id)).name = "b"
        assert tx.position is None
    assert (announced.jobs, announced.positions) == ([], [])


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, KeyboardInterrupt])
async def test_a_transaction_that_fails_leaves_nothing_and_tells_nobody(
    database: Database, announced: Announced, image: Image, error: type[BaseException]
) -> None:
    async def fail() -> None:
        async with database.transaction() as tx:
            (await tx.session.get_one(Image, image.id)).name = "b"
            await write(tx, image)
            await tx.write_events()
            raise error

    with pytest.raises(error):
        await fail()
    assert (announced.jobs, announced.positions) == ([], [])
    assert await count(database, Event) == await count(database, Job) == 0
    async with database.read() as session:
        assert (await session.get_one(Image, image.id)).name == "a"


async def test_a_place_in_the_feed_is_never_given_twice(database: Database, image: Image) -> None:
    places = []
    for _ in range(3):
        async with database.transaction() as tx:
            await tx.session.execute(text("DELETE FROM event"))
            await event_log.append(tx, image, Created())
        places.append(tx.position)
    assert places == [1, 2, 3]


async def test_a_second_writer_waits_and_sees_what_the_first_one_wrote(database: Database, image: Image) -> None:
    async def add() -> None:
        async with database.transaction() as tx:
            row = await tx.session.get_one(Image, image.id, with_for_update=True)
            row.revision += 1

    await asyncio.gather(*(add() for _ in range(20)))
    async with database.read() as session:
        assert (await session.get_one(Image, image.id)).revision == 21


async def test_writers_of_two_processes_wait_for_one_another(database: Database, image: Image) -> None:
    """Two that read first and then write would fail with a snapshot that is too old, but for BEGIN IMMEDIATE."""
    other = Database(database.url)

    async def add(here: Database) -> None:
        for _ in range(10):
            async with here.transaction() as tx:
                row = await tx.session.get_one(Image, image.id, with_for_update=True)
                await asyncio.sleep(0)
                row.revision += 1

    await asyncio.gather(add(database), add(other))
    await other.close()
    async with database.read() as session:
        assert (await session.get_one(Image, image.id)).revision == 21


async def test_a_reader_sees_one_state_however_long_it_reads(database: Database, image: Image) -> None:
    async with database.read() as session:
        assert len((await session.execute(select(Event))).all()) == 0
        async with database.transaction() as tx:
            await write(tx, image)
        assert len((await session.execute(select(Event))).all()) == 0
        assert len((await session.execute(select(Job))).all()) == 0
    assert await count(database, Event) == 1


async def test_rows_can_not_name_what_is_not_there(database: Database, image: Image) -> None:
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            tx.session.add(Project(organization_id="org_x", name="beta"))
    with pytest.raises(IntegrityError):
        async with database.transaction() as tx:
            await tx.session.execute(text("DELETE FROM project"))


async def test_a_database_that_was_not_migrated_says_so(tmp_path: Path) -> None:
    empty = Database(f"sqlite+aiosqlite:///{tmp_path / 'new' / 'images.db'}")
    with pytest.raises(DatabaseUnavailable, match="images migrate"):
        await empty.check()
    await empty.close()


async def test_a_database_that_is_there_passes_the_check(database: Database) -> None:
    await database.check()
