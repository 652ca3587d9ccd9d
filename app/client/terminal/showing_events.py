"""Events as text for people."""

from typing import Protocol

from app.client.feed import (
    Created,
    Deleted,
    Event,
    Item,
    OfImage,
    OfServer,
    OfVolume,
    Progressed,
    ResyncRequired,
    ServerCreated,
    ServerDeleted,
    ServerStatusChanged,
    ServerUpdated,
    ShareChanged,
    StatusChanged,
    Updated,
    VolumeCreated,
    VolumeDeleted,
    VolumeUpdated,
)
from app.client.generated.enums import ShareState
from app.client.terminal.showing import progress_text
from app.client.terminal.text import granted


def event_text(item: Item) -> str:
    """An item of the feed on one line."""
    if isinstance(item, ResyncRequired):
        return "events may be missing: they are no longer kept, or the database was restored; continuing from here"
    actor = f" (by {item.actor})" if item.actor else ""
    return f"{item.occurred_at}  {_about(item)}{_what(item)}{actor}"


def _about(event: Event) -> str:
    """What an event is about: its id and name. Empty for an event that is newer than this client."""
    if isinstance(event, OfImage):
        name = event.image_name if isinstance(event, Deleted | ShareChanged) else _name(event.image)
        return f"{event.image_id}  {name}: "
    if isinstance(event, OfServer):
        name = event.server_name if isinstance(event, ServerDeleted) else _name(event.server)
        return f"{event.server_id}  server {name}: "
    if isinstance(event, OfVolume):
        name = event.volume_name if isinstance(event, VolumeDeleted) else _name(event.volume)
        return f"{event.volume_id}  volume {name}: "
    return ""


class _Named(Protocol):
    name: str


def _name(subject: _Named | None) -> str:
    """The name of what an event is about, as it is now."""
    return "(gone)" if subject is None else subject.name


def _what(event: Event) -> str:
    """What happened."""
    if isinstance(event, Updated | ServerUpdated | VolumeUpdated):
        return "changed " + ", ".join(event.fields)
    if isinstance(event, ShareChanged):
        return _share_change(event)
    if isinstance(event, Progressed):
        return progress_text(event.progress)
    if isinstance(event, StatusChanged):
        reason = f": {event.failure.message} {event.failure.hint}" if event.failure else ""
        return f"{event.from_} -> {event.to}{reason}"
    if isinstance(event, ServerStatusChanged):
        fault = event.server_failure
        return f"{event.old_status} -> {event.new_status}" + (f": {fault.message} {fault.hint}" if fault else "")
    if isinstance(event, Created | ServerCreated | VolumeCreated):
        return "created"
    if isinstance(event, Deleted | ServerDeleted | VolumeDeleted):
        return "deleted"
    return event.typename__


def _share_change(event: ShareChanged) -> str:
    """What happened to a share."""
    project, allowed = event.project.name, granted(event.grant)
    match event.state:
        case ShareState.ACCEPTED:
            return f"shared with {project}, to {allowed}"
        case ShareState.OFFERED:
            return f"offered to {project}, to {allowed}"
        case ShareState.DECLINED:
            return f"declined by {project}"
    return f"no longer shared with {project}"
