"""The items of the feed: those sent to watchers, and those on pages."""

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

    The image is None if it was deleted, or if followers of the event's feed could no longer see it. `live` says that
    the event was read when it arrived, not later for a watcher that had fallen behind.
    """

    event: Event
    detail: Detail
    image: Image | None
    epoch: bytes
    live: bool = False

    @property
    def position(self) -> int:
        """The position in the feed."""
        return self.event.seq or 0

    @property
    def mark(self) -> Mark:
        """The position with its epoch, from which the cursor is made."""
        return Mark(self.epoch, self.position)


@dataclass(frozen=True, slots=True)
class Progressed:
    """The newest progress of an image; `mark` is that of the newest stored event."""

    mark: Mark
    progress: Progress
    image: Image


@dataclass(frozen=True, slots=True)
class Resync:
    """Events after the watcher's mark may be lost: read the catalogue again and continue from `mark`.

    `oldest` is the oldest position in that epoch from which the feed is still complete.
    """

    mark: Mark
    oldest: int


Item = Happened | Progressed | Resync


def resync_required(field: str) -> ResyncRequired:
    """The error for a page of events after a cursor that is too old, or from before the database was restored."""
    return ResyncRequired(
        "The cursor is older than the oldest stored event, or the database has been restored since.",
        field=(field,),
        hint="Read the catalogue again and continue from its asOf.",
    )


async def happened(session: AsyncSession, events: Sequence[Event], epoch: bytes) -> list[Happened]:
    """Events with their images, if followers of the feed can see them now."""
    seen = await access.seen_in_feeds(session, {(event.feed, event.image_id) for event in events})
    return [Happened(event, detail_of(event), seen.get((event.feed, event.image_id)), epoch) for event in events]


def takes_sight(item: Happened) -> bool:
    """Whether followers of the event's feed can no longer see a shared image after this event."""
    return isinstance(item.detail, ShareChanged) and item.detail.ends_sight
