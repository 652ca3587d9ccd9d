"""Items of the feed. Each name stands for two generated classes: of the query and of the subscription."""

from app.client.generated.events import (
    EventsImageEventsNodesImageDeleted,
    EventsImageEventsNodesImageEvent,
    EventsImageEventsNodesImageProgressed,
    EventsImageEventsNodesImageShareChanged,
    EventsImageEventsNodesImageStatusChanged,
    EventsImageEventsNodesImageUpdated,
)
from app.client.generated.watch import (
    WatchImageEventsImageCreated,
    WatchImageEventsImageDeleted,
    WatchImageEventsImageProgressed,
    WatchImageEventsImageShareChanged,
    WatchImageEventsImageStatusChanged,
    WatchImageEventsImageUpdated,
    WatchImageEventsResyncRequired,
)

Deleted = EventsImageEventsNodesImageDeleted | WatchImageEventsImageDeleted
Progressed = EventsImageEventsNodesImageProgressed | WatchImageEventsImageProgressed
ShareChanged = EventsImageEventsNodesImageShareChanged | WatchImageEventsImageShareChanged
StatusChanged = EventsImageEventsNodesImageStatusChanged | WatchImageEventsImageStatusChanged
Updated = EventsImageEventsNodesImageUpdated | WatchImageEventsImageUpdated
# Events without fields of their own: an image was created, or something happened that is newer than this client.
OtherEvent = EventsImageEventsNodesImageEvent

Event = Deleted | Progressed | ShareChanged | StatusChanged | Updated | OtherEvent | WatchImageEventsImageCreated
ResyncRequired = WatchImageEventsResyncRequired
Item = Event | ResyncRequired
