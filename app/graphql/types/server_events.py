"""What happens to servers and volumes."""

from collections.abc import Mapping

import strawberry

from app.catalog.feed import server_details as details
from app.catalog.feed.items import Happened
from app.catalog.feed.server_details import OfServers, OfVolumes
from app.graphql.context import Info
from app.graphql.types.project_events import ProjectEvent, common_fields
from app.graphql.types.servers import Server, ServerFailure, Volume
from app.lifecycle import ServerAspect, ServerStatus, VolumeAspect
from app.models import Server as ServerRow
from app.models import Volume as VolumeRow


@strawberry.interface(description="Something that happened to a server.")
class ServerEvent(ProjectEvent):
    server_id: strawberry.ID = strawberry.field(description="Id of the server.")
    row: strawberry.Private[ServerRow | None]

    @strawberry.field(description="The server as it is now, not as it was; null if it has been deleted.")
    def server(self) -> Server | None:
        return None if self.row is None else Server.of(self.row)


@strawberry.type(description="A server was launched.")
class ServerCreated(ServerEvent):
    pass


@strawberry.type(description="The status of a server changed.")
class ServerStatusChanged(ServerEvent):
    # Not named as in ImageStatusChanged: GraphQL could not select both, since their types differ.
    old_status: ServerStatus = strawberry.field(description="Status before the change.")
    new_status: ServerStatus = strawberry.field(description="Status after the change.")
    server_failure: ServerFailure | None = strawberry.field(
        description="Why the server failed; null unless `newStatus` is ERROR."
    )


@strawberry.type(description="Something other than the status of a server changed.")
class ServerUpdated(ServerEvent):
    fields: list[str] = strawberry.field(description="Names of the fields of Server that changed.")


@strawberry.type(description="A server was deleted. Its host may still be ending it.")
class ServerDeleted(ServerEvent):
    server_name: str = strawberry.field(description="Name of the server when it was deleted.")


@strawberry.interface(description="Something that happened to a volume.")
class VolumeEvent(ProjectEvent):
    volume_id: strawberry.ID = strawberry.field(description="Id of the volume.")
    row: strawberry.Private[VolumeRow | None]

    @strawberry.field(description="The volume as it is now, not as it was; null if it has been deleted.")
    def volume(self) -> Volume | None:
        return None if self.row is None else Volume.of(self.row)


@strawberry.type(description="A volume was created: an empty one, or the boot volume of a new server.")
class VolumeCreated(VolumeEvent):
    pass


@strawberry.type(description="A volume changed: it was attached to a server, or detached.")
class VolumeUpdated(VolumeEvent):
    fields: list[str] = strawberry.field(description="Names of the fields of Volume that changed.")


@strawberry.type(description="A volume was deleted, alone or with its server.")
class VolumeDeleted(VolumeEvent):
    volume_name: str = strawberry.field(description="Name of the volume when it was deleted.")


StoredServerEvent = ServerCreated | ServerStatusChanged | ServerUpdated | ServerDeleted
StoredVolumeEvent = VolumeCreated | VolumeUpdated | VolumeDeleted

# The fields that differ after a change.
_SERVER_FIELDS: Mapping[ServerAspect, str] = {ServerAspect.GOAL: "desiredStatus", ServerAspect.FAILURE: "failure"}
_VOLUME_FIELDS: Mapping[VolumeAspect, str] = {VolumeAspect.SERVER: "server"}


def server_event(info: Info, happened: Happened, detail: OfServers) -> StoredServerEvent:
    """The GraphQL form of an event about a server."""
    row = happened.subject if isinstance(happened.subject, ServerRow) else None
    common = {**common_fields(info, happened), "server_id": strawberry.ID(happened.subject_id), "row": row}
    match detail:
        case details.ServerCreated():
            return ServerCreated(**common)
        case details.ServerStatusChanged(before, after, fault):
            why = None if fault is None else ServerFailure.of(fault)
            return ServerStatusChanged(old_status=before, new_status=after, server_failure=why, **common)
        case details.ServerUpdated(aspects):
            return ServerUpdated(fields=[_SERVER_FIELDS[aspect] for aspect in aspects], **common)
        case details.ServerDeleted(name):
            return ServerDeleted(server_name=name, **common)


def volume_event(info: Info, happened: Happened, detail: OfVolumes) -> StoredVolumeEvent:
    """The GraphQL form of an event about a volume."""
    row = happened.subject if isinstance(happened.subject, VolumeRow) else None
    common = {**common_fields(info, happened), "volume_id": strawberry.ID(happened.subject_id), "row": row}
    match detail:
        case details.VolumeCreated():
            return VolumeCreated(**common)
        case details.VolumeUpdated(aspects):
            return VolumeUpdated(fields=[_VOLUME_FIELDS[aspect] for aspect in aspects], **common)
        case details.VolumeDeleted(name):
            return VolumeDeleted(volume_name=name, **common)
