"""The items of the feed: those sent to watchers, and those on pages."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.feed.cursors import Mark
from app.catalog.feed.details import Detail, ShareChanged, detail_of
from app.catalog.feed.progress import Progress
from app.catalog.feed.subjects import Subject, seen_in_feeds
from app.errors import ResyncRequired
from app.lifecycle import EventKind, ProjectRole
from app.models import Event, Image


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the feed, with its subject as it is now: the image, server or volume that it is about.

    `visible` says whether the followers of the event's feed could see the subject when this process read the event. If
    not, or if it was deleted, `subject` is None. `live` says that the event was read when it arrived, not later for a
    watcher that had fallen behind. The other fields are those of the row.
    """

    epoch: bytes
    position: int
    occurred_at: datetime
    feed: str
    subject_id: str
    least_role: ProjectRole
    actor: str | None
    detail: Detail
    visible: bool
    subject: Subject | None
    live: bool = False

    @classmethod
    def of(cls, event: Event, subject: Subject | None, epoch: bytes) -> Self:
        """An event from its row, and its subject if that is visible."""
        return cls(
            epoch=epoch,
            position=event.seq or 0,
            occurred_at=event.occurred_at,
            feed=event.feed,
            subject_id=event.subject_id,
            least_role=event.least_role,
            actor=event.actor,
            detail=detail_of(event),
            visible=subject is not None,
            subject=subject,
        )

    @property
    def kind(self) -> EventKind:
        """The kind of the event."""
        return self.detail.kind

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
    """Events with their subjects, if followers of the feed can see them now."""
    seen = await seen_in_feeds(session, {(event.feed, event.subject_id) for event in events})
    return [Happened.of(event, seen.get((event.feed, event.subject_id)), epoch) for event in events]


def ends_sight(item: Happened) -> bool:
    """Whether followers of the event's feed can no longer see a shared image after this event."""
    return isinstance(item.detail, ShareChanged) and item.detail.ends_sight
