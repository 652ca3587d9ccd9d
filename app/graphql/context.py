"""What resolvers find in `info.context`: the caller, the use cases, and the loaders of an operation or event."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import strawberry
from graphql import FieldNode, SelectionNode
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select
from starlette.requests import HTTPConnection
from strawberry.dataloader import DataLoader

from app.catalog import promotions, sharing, uploads
from app.catalog.bill import billing
from app.catalog.catalogue import Catalogue
from app.catalog.feed.cursors import Mark
from app.catalog.feed.live import Feed
from app.catalog.feed.progress import ProgressBoard
from app.catalog.people import access, tenancy
from app.catalog.people.access import Access
from app.catalog.searching import Searches
from app.catalog.servers import consoles, seeing
from app.catalog.servers.consoles import Console
from app.graphql.reused_results import ReusedResults
from app.graphql.scalars import EventCursor
from app.graphql.turns import Turn
from app.lifecycle import ProjectRole
from app.models import Blob, Image, ImageShare, Organization, Project, Server, Upload, Volume
from app.ports import SignedRequest
from app.viewer import Viewer

Key = TypeVar("Key", bound=str)
Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Gateway:
    """The catalogue, and what this process holds in memory; created once by `app.main`."""

    catalogue: Catalogue
    feed: Feed
    board: ProgressBoard
    reused_results: ReusedResults = field(default_factory=ReusedResults)
    searches: Searches = field(default_factory=Searches)


class Loaders:
    """Loaders of objects in batches. Each batch opens its own session, since resolvers run concurrently.

    A loader is created when it is first used: most events of a subscription use none.
    """

    def __init__(self, catalogue: Catalogue, viewer: Viewer) -> None:
        self._catalogue = catalogue
        self._database = catalogue.database
        self._viewer = viewer
        self._consoles: dict[int, DataLoader[str, Console]] = {}
        self._accesses: dict[str | None, DataLoader[str, Access | None]] = {}

    @cached_property
    def projects(self) -> DataLoader[str, Project | None]:
        """Projects that the caller may see."""
        return self._loader(tenancy.visible_projects)

    @cached_property
    def images(self) -> DataLoader[str, Image | None]:
        """Images that the caller may see."""
        return self._loader(access.visible_images)

    @cached_property
    def servers(self) -> DataLoader[str, Server | None]:
        """Servers that the caller may see."""
        return self._loader(seeing.visible_servers)

    @cached_property
    def volumes(self) -> DataLoader[str, Volume | None]:
        """Volumes that the caller may see."""
        return self._loader(seeing.visible_volumes)

    @cached_property
    def boot_volumes(self) -> DataLoader[str, Volume | None]:
        """Boot volumes, by the id of their server, for servers that the caller can see."""
        return self._loader(seeing.boot_volumes)

    def consoles(self, last_kib: int) -> DataLoader[str, Console]:
        """The ends of the consoles of servers, by the id of the server. Raises why one can't be read."""

        async def load(ids: list[str]) -> list[Console | Exception]:
            found = await consoles.read(self._catalogue, self._viewer, ids, last_kib)
            return [found[id_] for id_ in ids]

        if last_kib not in self._consoles:
            self._consoles[last_kib] = DataLoader(load_fn=load)
        return self._consoles[last_kib]

    @cached_property
    def blobs(self) -> DataLoader[str, Blob | None]:
        """Blobs of images that the caller can see."""
        return self._loader(_blobs)

    @cached_property
    def shares(self) -> DataLoader[str, ImageShare | None]:
        """Shares that the caller may see."""
        return self._loader(sharing.visible_shares)

    @cached_property
    def shared_image_names(self) -> DataLoader[str, str | None]:
        """Names of images by their ids, for images in a share that the caller can see."""
        return self._loader(sharing.names_of)

    @cached_property
    def projects_shared_with(self) -> DataLoader[str, Project | None]:
        """Projects by their ids, for projects in a share that the caller can see."""
        return self._loader(sharing.projects_by_id)

    @cached_property
    def paying(self) -> DataLoader[str, bool | None]:
        """Whether images are billed for their bytes, by their ids, for images that the caller may see."""
        return self._loader(_paying)

    @cached_property
    def pinned(self) -> DataLoader[str, bool | None]:
        """Whether images were promoted to others, by their ids, for images that the caller can see."""
        return self._loader(_pinned)

    def accesses(self, project_id: str | None) -> DataLoader[str, Access | None]:
        """The caller's access to images by their ids, through one project or, for None, through all."""

        async def look_up(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, Access]:
            return await access.accesses(session, viewer, ids, through=project_id)

        if project_id not in self._accesses:
            self._accesses[project_id] = self._loader(look_up)
        return self._accesses[project_id]

    @cached_property
    def roles(self) -> DataLoader[str, ProjectRole | None]:
        """The caller's role in a project."""
        return self._loader(tenancy.roles_in)

    @cached_property
    def organizations(self) -> DataLoader[str, Organization | None]:
        """Organizations that the caller owns, or in which they may see a project."""
        return self._loader(tenancy.visible_organizations)

    @cached_property
    def open_uploads(self) -> DataLoader[str, Upload | None]:
        """Open uploads, by the id of their image."""
        return self._loader(_open_uploads)

    def _loader(
        self, look_up: Callable[[AsyncSession, Viewer, Sequence[str]], Awaitable[dict[str, Loaded]]]
    ) -> DataLoader[str, Loaded | None]:
        async def load(ids: list[str]) -> list[Loaded | None]:
            async with self._database.read() as session:
                found = await look_up(session, self._viewer, ids)
            return [found.get(id_) for id_ in ids]

        return DataLoader(load_fn=load)


async def _paying(session: AsyncSession, viewer: Viewer, ids: Sequence[str]) -> dict[str, bool]:
    images = await access.visible_images(session, viewer, ids)
    return dict.fromkeys(await billing.paying(session, images.values()), True)


async def _blobs(session: AsyncSession, _viewer: Viewer, ids: Sequence[str]) -> dict[str, Blob]:
    return {blob.id: blob for blob in (await session.execute(select(Blob).where(col(Blob.id).in_(ids)))).scalars()}


async def _pinned(session: AsyncSession, _viewer: Viewer, ids: Sequence[str]) -> dict[str, bool]:
    return dict.fromkeys(await promotions.pinned(session, ids), True)


async def _open_uploads(session: AsyncSession, _viewer: Viewer, ids: Sequence[str]) -> dict[str, Upload]:
    return await uploads.open_uploads_of(session, ids)


class Context:
    """The context of one operation. A subscription sets `event_id` before it yields; SSE sends it as the event's id.

    `epoch` is the epoch of the feed when the operation began. `personal` is True if a resolver has used the context
    since it was last set to False. A result that was resolved without it is the same for all callers.
    """

    def __init__(self, gateway: Gateway, viewer: Viewer, correlation_id: str, connection: HTTPConnection) -> None:
        self.correlation_id = correlation_id
        self.event_id: str | None = None
        self.turn: Turn | None = None
        self.personal = False
        self._gateway = gateway
        self._viewer = viewer
        self._connection = connection
        self._loaders: Loaders | None = None
        # Read before any position, so that a new epoch after a restore is never combined with an older position.
        self.epoch = gateway.feed.epoch

    async def starting(self) -> None:
        """Wait until the caller's earlier subscriptions have started, so that they start one after the other."""
        if self.turn is not None:
            await self.turn.start_alone()

    def waiting(self) -> None:
        """End the turn, because the operation waits for an event."""
        if self.turn is not None:
            self.turn.end()

    @property
    def gateway(self) -> Gateway:
        """The catalogue, and what this process holds in memory."""
        self.personal = True
        return self._gateway

    @property
    def catalogue(self) -> Catalogue:
        """What the use cases work on."""
        return self.gateway.catalogue

    def cursor_of(self, mark: Mark) -> EventCursor:
        """The cursor of a mark in the feed."""
        return EventCursor(self._gateway.feed.cursors.text(mark))

    def mark_at(self, position: int) -> Mark:
        """The mark of a position that was read during this operation."""
        return Mark(self.epoch, position)

    def mark_of(self, cursor: EventCursor, field: str = "after") -> Mark:
        """The mark that a cursor contains; `field` is the argument that contained the cursor. Raises InvalidInput."""
        return self._gateway.feed.cursors.mark(cursor, (field,))

    @property
    def viewer(self) -> Viewer:
        """The caller."""
        self.personal = True
        return self._viewer

    @property
    def connection(self) -> HTTPConnection:
        """The request or WebSocket that sent the operation."""
        self.personal = True
        return self._connection

    @property
    def project_id(self) -> str | None:
        """The project that X-Project names, in a header or in connection_init; None without."""
        named: str | None = getattr(self.connection.state, "project_id", None)
        return named or self.connection.headers.get("x-project")

    @property
    def loaders(self) -> Loaders:
        """The loaders of this operation, or of this event."""
        self.personal = True
        if self._loaders is None:
            self._loaders = Loaders(self._gateway.catalogue, self._viewer)
        return self._loaders

    @property
    def reused_results(self) -> ReusedResults:
        """The results that were resolved for other watchers."""
        return self._gateway.reused_results

    def finish_event(self) -> None:
        """Clear the loaders and the event id, for the next event of a subscription."""
        self.event_id = None
        self._loaders = None

    def address(self, request: SignedRequest) -> str:
        """The absolute URL of a signed request; the gateway's own requests are below its public URL."""
        if not request.url.startswith("/"):
            return request.url
        return self.base_url() + request.url

    def base_url(self) -> str:
        """The gateway's URL as configured, or else as this request used it; without a slash at the end."""
        public_url = self.catalogue.settings.public_url
        if public_url is not None:
            return public_url.rstrip("/")
        url = self.connection.base_url
        scheme = {"ws": "http", "wss": "https"}.get(url.scheme, url.scheme)
        return str(url.replace(scheme=scheme)).rstrip("/")


Info = strawberry.Info[Context, None]


def selects(info: strawberry.Info[Any, Any], name: str) -> bool:
    """Whether the operation selects the subfield `name` of the current field; True if in doubt."""
    return any(
        _may_hold(selection, name)
        for node in info._raw_info.field_nodes
        for selection in (node.selection_set.selections if node.selection_set else ())
    )


def _may_hold(selection: SelectionNode, name: str) -> bool:
    return not isinstance(selection, FieldNode) or selection.name.value == name
