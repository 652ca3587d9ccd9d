"""What watchers of the feed are sent, and what pages of it hold."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.feed.cursors import Mark
from app.catalog.feed.details import Detail, ShareChanged, detail_of
from app.catalog.feed.progress import Progress
from app.catalog.people import access
from app.errors import ResyncRequired
from app.models import Event, Image


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the feed, with its image as it was when this process read the event.

    The image is None when it was deleted, or could no longer be seen by those who follow the event's feed. `live`
    says that the event was read when it came, and not later for somebody who had fallen behind.
    """

    event: Event
    detail: Detail
    image: Image | None
    epoch: bytes
    live: bool = False

    @property
    def position(self) -> int:
        """Where in the feed this is."""
        return self.event.seq or 0

    @property
    def mark(self) -> Mark:
        """The same, with the epoch: what its cursor is made of."""
        return Mark(self.epoch, self.position)


@dataclass(frozen=True, slots=True)
class Progressed:
    """The newest progress of an image; `mark` is that of the newest stored event."""

    mark: Mark
    progress: Progress
    image: Image


@dataclass(frozen=True, slots=True)
class Resync:
    """Events after the watcher's mark may be lost: read the catalogue again and go on from `mark`.

    `oldest` is the oldest position of that epoch from which the feed is still complete.
    """

    mark: Mark
    oldest: int


Item = Happened | Progressed | Resync


def resync_required(field: str) -> ResyncRequired:
    """The answer to a page of events from a cursor that is too old, or from before the database was restored."""
    return ResyncRequired(
        "The cursor is older than the feed is kept, or the database has been restored since.",
        field=(field,),
        hint="Read the catalogue again, and go on from its asOf.",
    )


async def happened(session: AsyncSession, events: Sequence[Event], epoch: bytes) -> list[Happened]:
    """Events with their images, where the followers of the feed can see them now."""
    seen = await access.seen_in_feeds(session, {(event.feed, event.image_id) for event in events})
    return [Happened(event, detail_of(event), seen.get((event.feed, event.image_id)), epoch) for event in events]


def takes_sight(item: Happened) -> bool:
    """Whether this event ends its feed's sight of an image that was shared."""
    return isinstance(item.detail, ShareChanged) and item.detail.ends_sight
