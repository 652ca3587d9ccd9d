"""Events as text for people."""

from app.client.feed import Deleted, Event, Item, Progressed, ResyncRequired, ShareChanged, StatusChanged, Updated
from app.client.generated.enums import ShareState
from app.client.terminal.showing import progress_text
from app.client.terminal.text import granted


def event_text(item: Item) -> str:
    """An item of the feed on one line."""
    if isinstance(item, ResyncRequired):
        return "events may be missing: they are no longer kept, or the database was restored; continuing from here"
    now = item.image.name if item.image else "(gone)"
    name = item.image_name if isinstance(item, Deleted | ShareChanged) else now
    actor = f" (by {item.actor})" if item.actor else ""
    return f"{item.occurred_at}  {item.image_id}  {name}: {_what(item)}{actor}"


def _what(event: Event) -> str:
    if isinstance(event, Updated):
        return "changed " + ", ".join(event.fields)
    if isinstance(event, ShareChanged):
        return _share_change(event)
    if isinstance(event, Progressed):
        return progress_text(event.progress)
    if isinstance(event, StatusChanged):
        reason = f": {event.failure.message} {event.failure.hint}" if event.failure else ""
        return f"{event.from_} -> {event.to}{reason}"
    return {"ImageCreated": "created", "ImageDeleted": "deleted"}.get(event.typename__, event.typename__)


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
