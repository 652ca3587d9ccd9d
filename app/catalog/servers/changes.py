"""Writes to servers and volumes. Each publishes what changed, in the same transaction."""

from typing import Any

from app.catalog.feed import event_log
from app.catalog.feed.server_details import (
    ServerCreated,
    ServerDeleted,
    ServerFault,
    ServerStatusChanged,
    ServerUpdated,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
)
from app.database.sessions import Transaction
from app.lifecycle import ServerAspect, ServerGoal, ServerStatus, VolumeAspect
from app.models import Server, Volume, now

NO_FAILURE: dict[str, Any] = dict.fromkeys(("failure_code", "failure_message", "failure_hint", "failed_at"))


def add_server(tx: Transaction, server: Server) -> None:
    """Insert a new server."""
    tx.session.add(server)
    event_log.append_server(tx, server, ServerCreated(), actor=server.created_by)


def change(tx: Transaction, server: Server, *, actor: str | None = None, **values: Any) -> None:
    """Set columns of a server, whose row must be locked."""
    before = server.status
    aspects = _aspects(server, values)
    _set(server, values)
    if server.status != before:
        detail = ServerStatusChanged(before, server.status, fault_of(server))
        event_log.append_server(tx, server, detail, actor=actor)
    elif aspects:
        event_log.append_server(tx, server, ServerUpdated(aspects), actor=actor)


def delete(tx: Transaction, server: Server, *, actor: str) -> None:
    """Delete a server, whose row must be locked. Its host still has to end it."""
    _set(server, {"goal": ServerGoal.ABSENT, "deleted_at": now()})
    event_log.append_server(tx, server, ServerDeleted(server.name), actor=actor)


def fault_of(server: Server) -> ServerFault | None:
    """Why a server is in ERROR; None unless it is."""
    if server.status != ServerStatus.ERROR or server.failure_code is None or server.failed_at is None:
        return None
    return ServerFault(
        code=server.failure_code,
        message=server.failure_message or "",
        hint=server.failure_hint or "",
        failed_at=server.failed_at,
    )


def _aspects(server: Server, values: dict[str, Any]) -> list[ServerAspect]:
    """What users see of a server, besides its status, that new values of its columns change."""
    columns = {ServerAspect.GOAL: "goal", ServerAspect.FAILURE: "failed_at"}
    return [aspect for aspect, name in columns.items() if name in values and values[name] != getattr(server, name)]


# ---------------------------------------------------------------- volumes


def add_volume(tx: Transaction, volume: Volume) -> None:
    """Insert a new volume."""
    tx.session.add(volume)
    event_log.append_volume(tx, volume, VolumeCreated(), actor=volume.created_by)


def attach(tx: Transaction, volume: Volume, server: Server, position: int) -> None:
    """Attach a volume to a new server, on whose host it then is. The project must be locked."""
    _set(volume, {"server_id": server.id, "position": position, "host_id": server.host_id})
    event_log.append_volume(tx, volume, VolumeUpdated([VolumeAspect.SERVER]), actor=server.created_by)


def detach(tx: Transaction, volume: Volume) -> None:
    """Detach a volume, whose row must be locked, from a deleted server."""
    _set(volume, {"server_id": None, "position": 0})
    event_log.append_volume(tx, volume, VolumeUpdated([VolumeAspect.SERVER]))


def delete_volume(tx: Transaction, volume: Volume, *, actor: str) -> None:
    """Delete a volume, whose row must be locked. Its host still has to delete the disk."""
    _set(volume, {"deleted_at": now()})
    event_log.append_volume(tx, volume, VolumeDeleted(volume.name), actor=actor)


def _set(row: Server | Volume, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(row, name, value)
    row.revision += 1
    row.updated_at = now()
