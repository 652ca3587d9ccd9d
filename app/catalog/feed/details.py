"""The details of events by kind, and their format in rows. Those of servers and volumes are in `server_details`.

Rows use the catalogue's own names: stored events stay readable when the API renames its fields.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from app.catalog.feed.server_details import (
    OfServers,
    OfVolumes,
    ServerCreated,
    ServerDeleted,
    ServerStatusChanged,
    ServerUpdated,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
)
from app.lifecycle import Aspect, EventKind, FailureCode, ImageStatus, ShareGrant, ShareState
from app.models import Event

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Created:
    """An image was created."""

    kind: ClassVar = EventKind.CREATED

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls()


@dataclass(frozen=True, slots=True)
class Updated:
    """Aspects of an image other than its status changed."""

    kind: ClassVar = EventKind.UPDATED

    aspects: Sequence[Aspect]

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {"aspects": list(self.aspects)}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls([Aspect(aspect) for aspect in row["aspects"]])


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why an image became ERROR. `failed_at` is in UTC."""

    code: FailureCode
    message: str
    hint: str
    retriable: bool
    failed_at: datetime

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "retriable": self.retriable,
            "failed_at": self.failed_at.isoformat(),
        }

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls(
            code=FailureCode(row["code"]),
            message=row["message"],
            hint=row["hint"],
            retriable=row["retriable"],
            failed_at=datetime.fromisoformat(row["failed_at"]),
        )


@dataclass(frozen=True, slots=True)
class StatusChanged:
    """The status of an image changed; `failure` is the reason if it is ERROR now, otherwise None."""

    kind: ClassVar = EventKind.STATUS_CHANGED

    before: ImageStatus
    after: ImageStatus
    failure: Failure | None = None

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        row: dict[str, Any] = {"before": self.before, "after": self.after}
        return row if self.failure is None else row | {"failure": self.failure.to_row()}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        failure = Failure.from_row(row["failure"]) if "failure" in row else None
        return cls(ImageStatus(row["before"]), ImageStatus(row["after"]), failure)


@dataclass(frozen=True, slots=True)
class ShareChanged:
    """A share of an image was created, answered, changed or revoked.

    `project_id` is the project that the image is shared with. `state` is None when the share was revoked. `ends_sight`
    says that followers of the event's feed can no longer see the image through the share.
    """

    kind: ClassVar = EventKind.SHARE_CHANGED

    share_id: str
    project_id: str
    grant: ShareGrant
    state: ShareState | None
    image_name: str
    ends_sight: bool

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {
            "share_id": self.share_id,
            "project_id": self.project_id,
            "grant": self.grant,
            "state": self.state,
            "image_name": self.image_name,
            "ends_sight": self.ends_sight,
        }

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls(
            share_id=row["share_id"],
            project_id=row["project_id"],
            grant=ShareGrant(row["grant"]),
            state=None if row["state"] is None else ShareState(row["state"]),
            image_name=row["image_name"],
            ends_sight=row["ends_sight"],
        )


@dataclass(frozen=True, slots=True)
class Deleted:
    """An image was deleted; `image_name` is its last name."""

    kind: ClassVar = EventKind.DELETED

    image_name: str

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {"image_name": self.image_name}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls(row["image_name"])


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The members of a project changed. Only processes read this event; watchers don't get it."""

    kind: ClassVar = EventKind.MEMBERS_CHANGED

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls()


OfImages = Created | Updated | StatusChanged | ShareChanged | Deleted
Detail = OfImages | OfServers | OfVolumes | MembersChanged

_BY_KIND: Mapping[EventKind, type[Detail]] = {
    detail.kind: detail
    for detail in (
        Created,
        Updated,
        StatusChanged,
        ShareChanged,
        Deleted,
        ServerCreated,
        ServerStatusChanged,
        ServerUpdated,
        ServerDeleted,
        VolumeCreated,
        VolumeUpdated,
        VolumeDeleted,
        MembersChanged,
    )
}


def detail_of(event: Event) -> Detail:
    """The detail of an event, from its row."""
    return _BY_KIND[event.kind].from_row(event.detail)
