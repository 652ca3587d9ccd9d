"""The feed on PostgreSQL: its numbers are given in the order of commits, so that a reader by cursor misses nothing."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest
from sqlmodel import select

from app.adapters.messaging.local_wakeups import LocalWakeups
from app.catalog import members
from app.catalog.feed import event_log
from app.catalog.feed.cursors import Mark
from app.catalog.feed.details import Deleted, Updated
from app.catalog.feed.items import Happened
from app.catalog.feed.live import Feed
from app.catalog.feed.progress import ProgressBoard
from app.database.postgres import Lock
from app.database.sessions import Database, Transaction
from app.lifecycle import Aspect
from app.models import Event, Image
from app.viewer import Viewer
from tests.servers.postgresql import PostgreSQL
from tests.support.contention import waiting
from tests.support.gateway import until

pytestmark = pytest.mark.anyio

WRITERS, EACH = 8, 25


@dataclass
class Reader:
    """Follows the feed by a cursor, as everybody does who asks again and again."""

    database: Database
    cursor: int = 0
    seen: list[int] = field(default_factory=list)

    async def read_on(self, limit: int = 7) -> int:
        """Take what is new, at most `limit` events; how many there were."""
        async with self.database.read() as session:
            news = await event_log.events_after(session, self.cursor, limit)
        self.seen += [event.seq or 0 for event in news]
        self.cursor = max([self.cursor, *self.seen])
        return len(news)


@pytest.fixture
async def database(postgresql: PostgreSQL) -> AsyncIterator[Database]:
    opened = Database("postgresql+asyncpg" + postgresql.new_database().removeprefix("postgresql"))
    yield opened
    await opened.close()


@pytest.fixture
async def other(database: Database) -> AsyncIterator[Database]:
    """The same database, as another process has it open."""
    opened = Database(database.url)
    yield opened
    await opened.close()


@pytest.fixture
async def image(database: Database) -> Image:
    (project,) = await members.create_organization(database, "demo", ["alpha"], "ada")
    async with database.transaction() as tx:
        made = Image(
            project_id=project.id, name="a", name_key="a", created_by="ada", source_file_name="a.raw", source_size=1
        )
        tx.session.add(made)
    return made


async def append(database: Database, image: Image) -> int:
    async with database.transaction() as tx:
        await event_log.append(tx, image, Updated([Aspect.NAME]))
    assert tx.position is not None
    return tx.position


async def table(database: Database) -> Sequence[int | None]:
    async with database.read() as session:
        return (await session.execute(select(Event.seq).order_by(Event.seq))).scalars().all()  # type: ignore[arg-type]


class Brake:
    """Holds the first transaction that writes events between its insert and its commit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.inserted, self.released = asyncio.Event(), asyncio.Event()
        write = Transaction.write_events

        async def held(tx: Transaction) -> None:
            await write(tx)
            if not self.inserted.is_set():
                self.inserted.set()
                await self.released.wait()

        monkeypatch.setattr(Transaction, "write_events", held)


async def overtaken(database: Database, other: Database, image: Image, brake: Brake) -> Reader:
    """A writer has its number and is held; another one comes, and a reader looks before the first has committed."""
    reader = Reader(database)
    first = asyncio.create_task(append(database, image))
    await brake.inserted.wait()
    second = asyncio.create_task(append(other, image))

    async def second_has_come() -> bool:
        return second.done() or await waiting(database) == 1

    await until(second_has_come)
    await reader.read_on()
    brake.released.set()
    await asyncio.gather(first, second)
    while await reader.read_on():
        pass
    return reader


async def test_a_row_that_commits_late_is_not_missed(
    database: Database, other: Database, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = await overtaken(database, other, image, Brake(monkeypatch))
    assert reader.seen == await table(database)
    assert len(reader.seen) == 2


async def test_without_the_lock_a_row_that_commits_late_would_be_missed(
    database: Database, other: Database, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would see, so that it is known to see it."""

    async def not_alone(_tx: Transaction, _lock: Lock) -> None:
        pass

    monkeypatch.setattr(Transaction, "alone", not_alone)
    reader = await overtaken(database, other, image, Brake(monkeypatch))
    assert reader.seen == [2]
    assert await table(database) == [1, 2]


@asynccontextmanager
async def reading(readers: Sequence[Reader]) -> AsyncIterator[None]:
    """The readers look all the time during the block, and to the end of the feed after it."""
    over = asyncio.Event()

    async def read(reader: Reader) -> None:
        while not over.is_set():
            await reader.read_on()
        while await reader.read_on():
            pass

    tasks = [asyncio.create_task(read(reader)) for reader in readers]
    try:
        yield
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def test_readers_by_cursor_see_every_row_once_and_in_order_while_many_write(
    database: Database, other: Database, image: Image
) -> None:
    async def write(here: Database) -> list[int]:
        return [await append(here, image) for _ in range(EACH)]

    readers = [Reader(database), Reader(other)]
    async with reading(readers):
        written = await asyncio.gather(*(write(here) for here in (database, other) * (WRITERS // 2)))
    assert sorted(at for each in written for at in each) == await table(database)
    assert all(each == sorted(each) for each in written)
    for reader in readers:
        assert reader.seen == await table(database)
    assert len(readers[0].seen) == WRITERS * EACH


async def test_the_events_of_a_transaction_follow_each_other(database: Database, other: Database, image: Image) -> None:
    async def write(here: Database) -> list[int | None]:
        async with here.transaction() as tx:
            made = [event for number in range(5) for event in await event_log.append(tx, image, Deleted(str(number)))]
            await asyncio.sleep(0)
        return [event.seq for event in made]

    for places in await asyncio.gather(*(write(here) for here in (database, other) * 5)):
        assert places[0] is not None
        assert places == list(range(places[0], places[0] + 5))


async def test_watchers_of_two_processes_see_the_same_feed(database: Database, other: Database, image: Image) -> None:
    """One process hears of its own writes alone, and looks for the others' by itself."""

    def feed_of(here: Database) -> Feed:
        return Feed(here, LocalWakeups(), ProgressBoard(), ring_size=20, poll_seconds=0.02)

    async def watch(watched: Feed, count: int) -> list[int]:
        items = watched.follow(Viewer("ada"), image.project_id, after=Mark(watched.epoch, 0))
        seen: list[int] = []
        async for item in items:
            assert isinstance(item, Happened)
            seen.append(item.position)
            if len(seen) == count:
                break
        await items.aclose()  # type: ignore[attr-defined]
        return seen

    feeds = [feed_of(database), feed_of(other)]
    for watched in feeds:
        await watched.start()
    running = [asyncio.create_task(watched.run()) for watched in feeds]
    watching = [asyncio.create_task(watch(watched, 60)) for watched in feeds]
    await asyncio.gather(*(append(here, image) for here in (database, other) * 30))
    async with asyncio.timeout(30):
        assert await asyncio.gather(*watching) == [list(await table(database))] * 2
    for task in running:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_who_waits_for_a_row_keeps_nobody_from_the_feed(
    database: Database, other: Database, image: Image
) -> None:
    """An event that was appended early has no place yet, and holds no lock, while its transaction waits."""

    async def patient() -> None:
        async with other.transaction() as tx:
            await event_log.append(tx, image, Updated([Aspect.NAME]))
            (await tx.session.get_one(Image, image.id, with_for_update=True)).name = "b"

    async def patient_waits() -> bool:
        return await waiting(database) == 1

    async with database.transaction() as tx:
        await tx.session.get_one(Image, image.id, with_for_update=True)
        late = asyncio.create_task(patient())
        await until(patient_waits)
        async with asyncio.timeout(20):
            assert await append(database, image) == 1
    await late
    assert await table(database) == [1, 2]


async def test_a_transaction_that_fails_leaves_a_gap_and_nothing_else(database: Database, image: Image) -> None:
    """A number that nobody has is no event that somebody waits for."""

    async def fail() -> None:
        async with database.transaction() as tx:
            await event_log.append(tx, image, Updated([Aspect.NAME]))
            await tx.write_events()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    reader = Reader(database)
    assert await append(database, image) == 2
    await reader.read_on()
    assert reader.seen == [2]
