"""The details of events about servers and volumes, and their format in rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Self

from app.lifecycle import EventKind, ServerAspect, ServerFailureCode, ServerStatus, VolumeAspect

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Made:
    """Something new exists."""

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls()


@dataclass(frozen=True, slots=True)
class _Gone:
    """Something was deleted; `name` is its last name."""

    name: str

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {"name": self.name}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls(row["name"])


@dataclass(frozen=True, slots=True)
class ServerCreated(_Made):
    """A server was launched."""

    kind: ClassVar = EventKind.SERVER_CREATED


@dataclass(frozen=True, slots=True)
class ServerFault:
    """The reason why a server became ERROR. `failed_at` is in UTC."""

    code: ServerFailureCode
    message: str
    hint: str
    failed_at: datetime

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "failed_at": self.failed_at.isoformat(),
        }

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls(
            code=ServerFailureCode(row["code"]),
            message=row["message"],
            hint=row["hint"],
            failed_at=datetime.fromisoformat(row["failed_at"]),
        )


@dataclass(frozen=True, slots=True)
class ServerStatusChanged:
    """The status of a server changed; `fault` is the reason if it is ERROR now, otherwise None."""

    kind: ClassVar = EventKind.SERVER_STATUS_CHANGED

    before: ServerStatus
    after: ServerStatus
    fault: ServerFault | None = None

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        row: dict[str, Any] = {"before": self.before, "after": self.after}
        return row if self.fault is None else row | {"fault": self.fault.to_row()}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        fault = ServerFault.from_row(row["fault"]) if "fault" in row else None
        return cls(ServerStatus(row["before"]), ServerStatus(row["after"]), fault)


@dataclass(frozen=True, slots=True)
class ServerUpdated:
    """Aspects of a server other than its status changed."""

    kind: ClassVar = EventKind.SERVER_UPDATED

    aspects: Sequence[ServerAspect]

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {"aspects": list(self.aspects)}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls([ServerAspect(aspect) for aspect in row["aspects"]])


@dataclass(frozen=True, slots=True)
class ServerDeleted(_Gone):
    """A server was deleted."""

    kind: ClassVar = EventKind.SERVER_DELETED


@dataclass(frozen=True, slots=True)
class VolumeCreated(_Made):
    """A volume was created: an empty one, or the boot volume of a new server."""

    kind: ClassVar = EventKind.VOLUME_CREATED


@dataclass(frozen=True, slots=True)
class VolumeUpdated:
    """Aspects of a volume changed: it was attached to a server, or detached."""

    kind: ClassVar = EventKind.VOLUME_UPDATED

    aspects: Sequence[VolumeAspect]

    def to_row(self) -> Row:
        """The detail as its row stores it."""
        return {"aspects": list(self.aspects)}

    @classmethod
    def from_row(cls, row: Row) -> Self:
        """The detail from its row."""
        return cls([VolumeAspect(aspect) for aspect in row["aspects"]])


@dataclass(frozen=True, slots=True)
class VolumeDeleted(_Gone):
    """A volume was deleted, alone or with its server."""

    kind: ClassVar = EventKind.VOLUME_DELETED


OfServers = ServerCreated | ServerStatusChanged | ServerUpdated | ServerDeleted
OfVolumes = VolumeCreated | VolumeUpdated | VolumeDeleted
