"""What events are about: images, servers and volumes, as far as the followers of a feed can see them."""

from collections.abc import Collection
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from app.catalog.people import access
from app.models import Image, Server, Volume

Subject = Image | Server | Volume
# A feed, and the id of a subject.
Pair = tuple[str, str]

Owned = TypeVar("Owned", Server, Volume)


async def seen_in_feeds(session: AsyncSession, pairs: Collection[Pair]) -> dict[Pair, Subject]:
    """The subjects that the followers of a feed can see, for pairs of a feed and a subject; others are left out.

    Deleted ones are left out, too. Of servers, what their users gave them to boot with is not loaded.
    """
    found: dict[Pair, Subject] = {}
    found |= await access.seen_in_feeds(session, _of("img", pairs))
    # Processes keep these rows in memory, and these columns may be large. Watchers don't see them.
    servers = select(Server).options(
        defer(Server.user_data, raiseload=True),  # type: ignore[arg-type]
        defer(Server.ssh_keys, raiseload=True),  # type: ignore[arg-type]
    )
    found |= await _owned(session, servers, Server, _of("srv", pairs))
    found |= await _owned(session, select(Volume), Volume, _of("vol", pairs))
    return found


def _of(prefix: str, pairs: Collection[Pair]) -> list[Pair]:
    """The pairs whose subject has a type, which is the prefix of its id."""
    return [(feed, id_) for feed, id_ in pairs if id_.startswith(f"{prefix}_")]


async def _owned(
    session: AsyncSession, query: SelectOfScalar[Owned], model: type[Owned], pairs: Collection[Pair]
) -> dict[Pair, Owned]:
    """Servers or volumes, which only the members of their project see."""
    if not pairs:
        return {}
    query = query.where(col(model.id).in_({id_ for _, id_ in pairs}), col(model.deleted_at).is_(None))
    rows = {row.id: row for row in (await session.execute(query)).scalars()}
    return {(feed, id_): rows[id_] for feed, id_ in pairs if id_ in rows and rows[id_].project_id == feed}
