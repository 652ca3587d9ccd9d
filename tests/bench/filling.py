"""A catalogue of many images, written straight into the tables: their rows are all that a page reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import sqlalchemy
from ulid import ULID

from app.catalog import members
from app.catalog.images import ImageOrder
from app.database.sessions import Database
from app.lifecycle import ImageStatus, ImageType
from app.models import TABLES, Image

ADMIN = "bench"
RARE_WORD = "needle"
# Number of images in ERROR, and of images with the rare word in their names, whatever the number of images.
RARE = 100
_TABLE = TABLES.tables["image"]
_KEYS = {
    ImageOrder.NAME: _TABLE.c.name_key,
    ImageOrder.CREATED_AT: _TABLE.c.created_at,
    ImageOrder.SIZE: _TABLE.c.size_key,
}
_FAMILIES = ("ubuntu", "debian", "rocky", "windows")
_STATUSES = ((ImageStatus.ACTIVE, ImageStatus.SAVING, ImageStatus.QUEUED), (97, 2, 1))
_TYPES = ((ImageType.CUSTOM, ImageType.SNAPSHOT), (9, 1))
_BATCH = 10_000
_GIB = 1 << 30
_FIRST = datetime(2024, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Middle:
    """What stands in the middle of a project's images in some order: the sort key and the id."""

    key: Any
    id: str


async def fill(address: str, count: int) -> str:
    """Put `count` images into a project of a migrated database; the project's id.

    Of a hundred images 97 are ACTIVE, two SAVING and one QUEUED, except for a total of `RARE` in ERROR; 90 are
    CUSTOM, ten SNAPSHOT. Names, sizes and what is rare are spread over all ages. No blobs, no feed.
    """
    database = Database(address)
    try:
        (project,) = await members.create_organization(database, "bench", ["pages"], ADMIN)
        for rows in _batches(project.id, count):
            async with database.transaction() as tx:
                await tx.session.execute(sqlalchemy.insert(_TABLE), rows)
        if not address.startswith("sqlite"):
            # Its own daemon would do so within a minute.
            async with database.transaction() as tx:
                await tx.session.execute(sqlalchemy.text("ANALYZE"))
        return project.id
    finally:
        await database.close()


async def middle_of(address: str, project_id: str, order: ImageOrder, count: int) -> Middle:
    """The image in the middle of all `count` in this order, to begin a page behind."""
    key = _KEYS[order]
    query = sqlalchemy.select(key, _TABLE.c.id).where(_TABLE.c.project_id == project_id).order_by(key, _TABLE.c.id)
    database = Database(address)
    try:
        async with database.read() as session:
            return Middle(*(await session.execute(query.offset(count // 2).limit(1))).one())
    finally:
        await database.close()


def _batches(project_id: str, count: int) -> Iterator[list[dict[str, Any]]]:
    blank = Image(project_id=project_id, name="", name_key="", created_by=ADMIN, source_file_name="", source_size=0)
    template = blank.model_dump()
    every = max(2, count // RARE)
    chance = Random(count)
    for first in range(0, count, _BATCH):
        numbers = range(first, min(count, first + _BATCH))
        yield [template | _own_columns(number, number % every, chance) for number in numbers]


def _own_columns(number: int, turn: int, chance: Random) -> dict[str, Any]:
    """What is an image's own. Those of `turn` 0 and 1 are the rare ones."""
    created = _FIRST + timedelta(seconds=30 * number)
    family = chance.choice(_FAMILIES)
    name = f"{chance.randrange(10**8):08} {family} {RARE_WORD if turn == 1 else 'server'}"
    size = chance.randint(1, 500) * _GIB
    return {
        "id": f"img_{str(ULID.from_datetime(created)).lower()}",
        "name": name,
        "name_key": name,
        "status": ImageStatus.ERROR if turn == 0 else chance.choices(*_STATUSES)[0],
        "type": chance.choices(*_TYPES)[0],
        "os_family": family,
        "created_at": created,
        "updated_at": created,
        "size_key": size,
        "virtual_size": size,
        "stored_size": size // 4,
        "source_size": size // 4,
    }
