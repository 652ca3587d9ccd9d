"""Items of the feed. Each name covers two generated classes: the query's and the subscription's."""

from app.client.generated.events import (
    EventsProjectEventsNodesImageCreated,
    EventsProjectEventsNodesImageDeleted,
    EventsProjectEventsNodesImageProgressed,
    EventsProjectEventsNodesImageShareChanged,
    EventsProjectEventsNodesImageStatusChanged,
    EventsProjectEventsNodesImageUpdated,
    EventsProjectEventsNodesProjectEvent,
    EventsProjectEventsNodesServerCreated,
    EventsProjectEventsNodesServerDeleted,
    EventsProjectEventsNodesServerStatusChanged,
    EventsProjectEventsNodesServerUpdated,
    EventsProjectEventsNodesVolumeCreated,
    EventsProjectEventsNodesVolumeDeleted,
    EventsProjectEventsNodesVolumeUpdated,
)
from app.client.generated.watch import (
    WatchProjectEventsImageCreated,
    WatchProjectEventsImageDeleted,
    WatchProjectEventsImageProgressed,
    WatchProjectEventsImageShareChanged,
    WatchProjectEventsImageStatusChanged,
    WatchProjectEventsImageUpdated,
    WatchProjectEventsResyncRequired,
    WatchProjectEventsServerCreated,
    WatchProjectEventsServerDeleted,
    WatchProjectEventsServerStatusChanged,
    WatchProjectEventsServerUpdated,
    WatchProjectEventsVolumeCreated,
    WatchProjectEventsVolumeDeleted,
    WatchProjectEventsVolumeUpdated,
)

Created = EventsProjectEventsNodesImageCreated | WatchProjectEventsImageCreated
Deleted = EventsProjectEventsNodesImageDeleted | WatchProjectEventsImageDeleted
Progressed = EventsProjectEventsNodesImageProgressed | WatchProjectEventsImageProgressed
ShareChanged = EventsProjectEventsNodesImageShareChanged | WatchProjectEventsImageShareChanged
StatusChanged = EventsProjectEventsNodesImageStatusChanged | WatchProjectEventsImageStatusChanged
Updated = EventsProjectEventsNodesImageUpdated | WatchProjectEventsImageUpdated
ServerCreated = EventsProjectEventsNodesServerCreated | WatchProjectEventsServerCreated
ServerDeleted = EventsProjectEventsNodesServerDeleted | WatchProjectEventsServerDeleted
ServerStatusChanged = EventsProjectEventsNodesServerStatusChanged | WatchProjectEventsServerStatusChanged
ServerUpdated = EventsProjectEventsNodesServerUpdated | WatchProjectEventsServerUpdated
VolumeCreated = EventsProjectEventsNodesVolumeCreated | WatchProjectEventsVolumeCreated
VolumeDeleted = EventsProjectEventsNodesVolumeDeleted | WatchProjectEventsVolumeDeleted
VolumeUpdated = EventsProjectEventsNodesVolumeUpdated | WatchProjectEventsVolumeUpdated
# An event of a type that is newer than this client: only what all events have is known.
OtherEvent = EventsProjectEventsNodesProjectEvent

OfImage = Created | Deleted | Progressed | ShareChanged | StatusChanged | Updated
OfServer = ServerCreated | ServerDeleted | ServerStatusChanged | ServerUpdated
OfVolume = VolumeCreated | VolumeDeleted | VolumeUpdated
Event = OfImage | OfServer | OfVolume | OtherEvent
ResyncRequired = WatchProjectEventsResyncRequired
Item = Event | ResyncRequired
