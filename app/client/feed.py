"""Items of the feed. Each name covers two generated classes: the query's and the subscription's."""

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
# Events without fields of their own: ImageCreated, and types that are newer than this client.
OtherEvent = EventsImageEventsNodesImageEvent

Event = Deleted | Progressed | ShareChanged | StatusChanged | Updated | OtherEvent | WatchImageEventsImageCreated
ResyncRequired = WatchImageEventsResyncRequired
Item = Event | ResyncRequired
