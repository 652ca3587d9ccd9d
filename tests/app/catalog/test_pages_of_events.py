"""A page over two feeds is read from an index in order, and no further than the page goes."""

from collections.abc import AsyncIterator
from itertools import product

import pytest
from sqlalchemy import insert, text

from app.catalog import members
from app.catalog.feed import event_log
from app.catalog.feed.event_log import Wanted
from app.catalog.people import access
from app.database.sessions import Database
from app.lifecycle import EventKind, ProjectRole
from app.models import PUBLIC_FEED, Event, new_id, now
from app.settings import load_settings
from tests.app.conftest import NewDatabase
from tests.support.plans import (
    Statement,
    instructions_of_sqlite,
    looked_at,
    plan_of_sqlite,
    reads_of,
    steps_of_postgresql,
)

pytestmark = pytest.mark.anyio

MANY = 20_000
PAGE = 10
IMAGES = 50
# Of a hundred events, so many are in the public feed and in that of each project, from all to none.
SHARES = {"both": (50, 40), "project": (0, 90), "public": (90, 0)}


class Feeds:
    """A feed of many events, most of them of two feeds that somebody follows together."""

    def __init__(self, database: Database, project: str) -> None:
        self.database, self.project = database, project
        self.images = {feed: [new_id("img") for _ in range(IMAGES)] for feed in (PUBLIC_FEED, project, "prj_other")}

    async def fill(self, public: int, own: int) -> None:
        """Spread `public` and `own` of every hundred events over all of them; the others are of another project."""
        feeds = [PUBLIC_FEED] * public + [self.project] * own + ["prj_other"] * (100 - public - own)
        spread = [(feeds[37 * n % 100], n // 100 % IMAGES) for n in range(MANY)]
        rows = [
            {"occurred_at": now(), "kind": EventKind.UPDATED, "feed": feed, "subject_id": self.images[feed][image]}
            | {"least_role": ProjectRole.READER, "detail": {}}
            for feed, image in spread
        ]
        async with self.database.transaction() as tx:
            await tx.session.execute(insert(Event), rows)
            if self.database.many_writers:
                await tx.session.execute(text("ANALYZE"))


@pytest.fixture(scope="module", params=SHARES)
async def feeds(
    request: pytest.FixtureRequest, new_database: NewDatabase, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Feeds]:
    folder = tmp_path_factory.mktemp("events") / "data"
    database = Database(load_settings(data=folder, **new_database(folder)).database_address)
    (project,) = await members.create_organization(database, "demo", ["alpha"], "ada")
    made = Feeds(database, project.id)
    await made.fill(*SHARES[request.param])
    yield made
    await database.close()


async def reads(feeds: Feeds, image_id: str | None = None) -> list[Statement]:
    """How pages are read, from either end and from the middle, forward and backward."""
    wanted = Wanted(access.feeds_followed_by(feeds.project), ProjectRole.READER, image_id)
    with reads_of(feeds.database) as found:
        for newest, inside in product((False, True), (False, True)):
            bound = {} if not inside else {"before" if newest else "after": MANY // 2}
            async with feeds.database.read() as session:
                await event_log.events_for(session, wanted, PAGE, newest=newest, **bound)
    assert len(found) == 4
    return found


async def test_a_page_over_two_feeds_looks_at_few_events_more_than_it_has(feeds: Feeds) -> None:
    for read in [
        *await reads(feeds),
        *await reads(feeds, feeds.images[feeds.project][0]),
        *await reads(feeds, feeds.images[PUBLIC_FEED][0]),
        *await reads(feeds, new_id("img")),
    ]:
        if feeds.database.many_writers:
            steps = await steps_of_postgresql(feeds.database, read)
            scans = [step for step in steps if step.get("Relation Name") == "event"]
            # Those of the page out of either feed, and these again by their positions.
            assert looked_at(scans) <= 3 * PAGE + 5, steps
            assert all("Index" in step["Node Type"] for step in scans), steps
            assert all(step["Actual Rows"] <= PAGE for step in steps if "Sort" in step["Node Type"]), steps
            continue
        assert instructions_of_sqlite(feeds.database, read) < MANY / 10, read
        told = await plan_of_sqlite(feeds.database, read)
        assert "MERGE (UNION ALL)" in told
        assert not any(step.startswith("SCAN event") for step in told), told
