"""What resolvers find in `info.context`: who calls, the use cases, and loaders that live for one operation or event."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import strawberry
from graphql import FieldNode, SelectionNode
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.requests import HTTPConnection
from strawberry.dataloader import DataLoader

from app.catalog import images, tenancy, uploads
from app.catalog.progress import ProgressBoard
from app.catalog.uploads import Uploads
from app.catalog.watching import Feed
from app.database import Database
from app.lifecycle import ProjectRole
from app.models import Image, Organization, Project, Upload
from app.ports import ObjectStore, SignedRequest
from app.settings import Settings
from app.viewer import Viewer

Key = TypeVar("Key", bound=str)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Gateway:
    """The use cases and what they stand on, wired together once by `app.main`."""

    settings: Settings
    database: Database
    store: ObjectStore
    uploads: Uploads
    feed: Feed
    board: ProgressBoard


class Loaders:
    """Batches of look-ups. Each batch opens a session of its own, since resolvers run side by side."""

    def __init__(self, database: Database, viewer: Viewer) -> None:
        self._database = database
        self._viewer = viewer
        self.projects: DataLoader[str, Project | None] = self._loader(tenancy.visible_projects)
        self.images: DataLoader[str, Image | None] = self._loader(images.visible_images)
        self.roles: DataLoader[str, ProjectRole | None] = self._loader(tenancy.roles_in)
        self.organizations: DataLoader[str, Organization | None] = self._loader(tenancy.visible_organizations)
        self.open_uploads: DataLoader[str, Upload | None] = self._loader(_open_uploads)

    def _loader(
        self, look_up: Callable[[AsyncSession, Viewer, Sequence[str]], Awaitable[dict[str, Loaded]]]
    ) -> DataLoader[str, Loaded | None]:
        async def load(ids: list[str]) -> list[Loaded | None]:
            async with self._database.read() as session:
                found = await look_up(session, self._viewer, ids)
            return [found.get(id_) for id_ in ids]

        return DataLoader(load_fn=load)


async def _open_uploads(session: AsyncSession, _viewer: Viewer, ids: Sequence[str]) -> dict[str, Upload]:
    return await uploads.open_uploads_of(session, ids)


@dataclass(slots=True)
class Context:
    """One operation. `event_id` is what a subscription sets before it yields: SSE sends it as the event's id."""

    gateway: Gateway
    viewer: Viewer
    correlation_id: str
    connection: HTTPConnection
    event_id: str | None = None
    loaders: Loaders = field(init=False)

    def __post_init__(self) -> None:
        self.loaders = Loaders(self.gateway.database, self.viewer)

    def finish_event(self) -> None:
        """The next event of a subscription begins with nothing loaded."""
        self.event_id = None
        self.loaders = Loaders(self.gateway.database, self.viewer)

    def address(self, request: SignedRequest) -> str:
        """The absolute address of a signed request; one that the gateway serves is below its public address."""
        if not request.url.startswith("/"):
            return request.url
        return self.base_url() + request.url

    def base_url(self) -> str:
        """Where clients reach the gateway: as configured, else as this one did. Without a slash at the end."""
        if self.gateway.settings.public_url is not None:
            return self.gateway.settings.public_url.rstrip("/")
        url = self.connection.base_url
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        return str(url.replace(scheme=scheme)).rstrip("/")


Info = strawberry.Info[Context, None]


def asks_for(info: strawberry.Info[Any, Any], name: str) -> bool:
    """Whether the field being resolved is asked for its sub-field `name`; when in doubt, yes."""
    return any(
        _may_hold(selection, name)
        for node in info._raw_info.field_nodes
        for selection in (node.selection_set.selections if node.selection_set else ())
    )


def _may_hold(selection: SelectionNode, name: str) -> bool:
    return not isinstance(selection, FieldNode) or selection.name.value == name
