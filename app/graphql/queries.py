"""The queries. Every resolver opens its own session, since resolvers run concurrently."""

from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import strawberry
from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog import images
from app.catalog.feed import event_log
from app.catalog.images import ImageOrder, sort_key
from app.catalog.people import access, tenancy
from app.catalog.uploads import upload_for
from app.errors import InvalidInput, NotFound, UserMistake
from app.graphql.context import Context, Info, selects
from app.graphql.enums import OrderDirection
from app.graphql.inputs import ImageFilter, ImageLookup, ImageOrderInput
from app.graphql.scalars import EventCursor
from app.graphql.types.connections import (
    First,
    Last,
    Paging,
    cursor_for,
    page_fields,
    paged,
)
from app.graphql.types.event_pages import (
    EventsAfter,
    EventsBefore,
    ImageEventConnection,
    ImageEventEdge,
    ProjectEventConnection,
    ProjectEventEdge,
    Span,
    read_events,
)
from app.graphql.types.image_events import ImageEvent
from app.graphql.types.images import Image, ImageConnection
from app.graphql.types.node import Node
from app.graphql.types.servers import Server, Volume
from app.graphql.types.sharing import ImageShare
from app.graphql.types.tenancy import Organization, Project, Viewer
from app.graphql.types.uploads import ImageUpload
from app.lifecycle import OF_IMAGES, WATCHED, ImageStatus, ImageType
from app.models import ImageRow

ProjectId = Annotated[strawberry.ID, strawberry.argument(description="Id of the project.")]
_MAXIMUM_NODES = 100
_KEYS: dict[ImageOrder, type[datetime] | type[int] | type[StrEnum]] = {
    ImageOrder.CREATED_AT: datetime,
    ImageOrder.SIZE: int,
    ImageOrder.STATUS: ImageStatus,
    ImageOrder.TYPE: ImageType,
}


@strawberry.type(
    description="Everything that can be read. Each nullable field, here and below, is also null if it can't "
    "be read; the top-level `errors` state why."
)
class Query:
    @strawberry.field(description="An object by its global id.")
    async def node(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Id of the object.")]
    ) -> Node | None:
        return await find_node(info.context, id)

    @strawberry.field(
        description="Objects by their global ids, in the order of the ids; null for each that does not exist or "
        "that you can't see."
    )
    async def nodes(
        self,
        info: Info,
        ids: Annotated[list[strawberry.ID], strawberry.argument(description="Ids of the objects, at most 100.")],
    ) -> list[Node | None]:
        if len(ids) > _MAXIMUM_NODES:
            raise InvalidInput(f"{len(ids)} ids requested; at most {_MAXIMUM_NODES} are allowed.", field=("ids",))
        return [await _node_or_error(info.context, id_) for id_ in ids]

    @strawberry.field(description="You, as your token identifies you.")
    async def viewer(self, info: Info) -> Viewer | None:
        return _viewer(info.context)

    @strawberry.field(description="A project that you have a role in.")
    async def project(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Id of the project.")]
    ) -> Project | None:
        async with info.context.catalogue.database.read() as session:
            return Project.of(await tenancy.project_for(session, info.context.viewer, id, field=("id",)))

    @paged(description="All images that a project can see: its own, those shared with it, and public ones.")
    async def images(
        self,
        info: Info,
        project_id: ProjectId,
        paging: Paging,
        filter: Annotated[
            ImageFilter | None,
            strawberry.argument(description="Return only images that meet these conditions; null returns all."),
        ] = None,
        order_by: Annotated[
            ImageOrderInput | None,
            strawberry.argument(description="Sort order; null sorts the newest first."),
        ] = None,
    ) -> ImageConnection | None:
        wanted = (filter or ImageFilter()).wanted()
        order = order_by.field if order_by else ImageOrder.CREATED_AT
        descending = order_by is None or order_by.direction is OrderDirection.DESC
        name = f"images-{order}-{'desc' if descending else 'asc'}"
        window = paging.window(name, _KEYS.get(order, str))
        gateway, viewer = info.context.gateway, info.context.viewer

        def reading(*, admitted: bool = False) -> AbstractAsyncContextManager[AsyncSession]:
            if wanted.name_contains:
                return gateway.searches.session(gateway.catalogue.database, viewer, project_id, admitted=admitted)
            return gateway.catalogue.database.read()

        async def count() -> int:
            async with reading(admitted=True) as session:
                return await images.count_images(session, project_id, wanted)

        # The page and the position are read from one snapshot of the database, so that no event falls between them.
        async with reading() as session:
            page = await images.list_images(session, viewer, project_id, wanted, order, window, descending=descending)
            position = await event_log.newest_position(session) if selects(info, "asOf") else 0

        def row_cursor(row: ImageRow) -> str:
            return cursor_for(name, sort_key(row, order), row.id)

        nodes = [Image.of(row, project_id) for row in page.rows]
        fields = page_fields(page, nodes, row_cursor)
        as_of = info.context.cursor_of(info.context.mark_at(position).unlinked())
        return ImageConnection(as_of=as_of, count=count, **fields)

    @strawberry.field(description="One image, by its id or name.")
    async def image(
        self, info: Info, by: Annotated[ImageLookup, strawberry.argument(description="How to find the image.")]
    ) -> Image | None:
        viewer = info.context.viewer
        async with info.context.catalogue.database.read() as session:
            if isinstance(by.id, str):
                return Image.of(await access.image_for(session, viewer, by.id, field=("by", "id")))
            if not by.name:
                raise InvalidInput("Either an id or a name is required.", field=("by",))
            await tenancy.project_for(session, viewer, by.name.project_id, field=("by", "name", "projectId"))
            row = await images.image_named(session, by.name.project_id, by.name.name)
        if row is None:
            raise NotFound("There is no image with this name.", field=("by", "name", "name"))
        return Image.of(row, by.name.project_id)

    @strawberry.field(
        description="Position of the newest event in the feed. Read it, then the images, then subscribe after "
        "it: you miss no event."
    )
    async def event_cursor(self, info: Info) -> EventCursor | None:
        async with info.context.catalogue.database.read() as session:
            position = await event_log.newest_position(session)
        return info.context.cursor_of(info.context.mark_at(position).unlinked())

    @strawberry.field(
        description="Past events of the images that a project can see, oldest first, as far back as the feed "
        "keeps them. The subscription `imageEvents` sends the same events as they happen. Set `last` "
        "and `before` to page back."
    )
    async def image_events(
        self,
        info: Info,
        project_id: ProjectId,
        image_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(description="Return only events of this image; null returns those of all images."),
        ] = None,
        after: EventsAfter = None,
        first: First = None,
        before: EventsBefore = None,
        last: Last = None,
    ) -> ImageEventConnection | None:
        span = Span(OF_IMAGES, image_id, after, first, before, last)
        found, page_info = await read_events(info, project_id, span)
        nodes = [node for node in found if isinstance(node, ImageEvent)]
        return ImageEventConnection(
            edges=[ImageEventEdge(cursor=node.cursor, node=node) for node in nodes],
            nodes=list(nodes),
            page_info=page_info,
        )

    @strawberry.field(
        description="Past events of everything that a project can see: images, servers and volumes. The subscription "
        "`projectEvents` sends the same events as they happen. Otherwise as `imageEvents`, with the same cursors."
    )
    async def project_events(
        self,
        info: Info,
        project_id: ProjectId,
        subject_id: Annotated[
            strawberry.ID | None,
            strawberry.argument(
                description="Return only events of this image, server or volume; null returns those of all."
            ),
        ] = None,
        after: EventsAfter = None,
        first: First = None,
        before: EventsBefore = None,
        last: Last = None,
    ) -> ProjectEventConnection | None:
        span = Span(WATCHED, subject_id, after, first, before, last)
        nodes, page_info = await read_events(info, project_id, span)
        return ProjectEventConnection(
            edges=[ProjectEventEdge(cursor=node.cursor, node=node) for node in nodes],
            nodes=list(nodes),
            page_info=page_info,
        )


def _viewer(context: Context) -> Viewer:
    viewer = context.viewer
    return Viewer(
        id=strawberry.ID(f"usr_{viewer.subject}"), subject=viewer.subject, name=viewer.name, operator=viewer.operator
    )


async def find_node(context: Context, id_: str) -> Node:
    """The object with this id, if the caller may see it. Raises NotFound."""
    kind = id_.partition("_")[0] if tenancy.is_id(id_) else None
    found: Node | None = None
    if kind == "img" and (image := await context.loaders.images.load(id_)):
        found = Image.of(image)
    elif kind == "prj" and (project := await context.loaders.projects.load(id_)):
        found = Project.of(project)
    elif kind == "org" and (organization := await context.loaders.organizations.load(id_)):
        found = Organization.of(organization)
    elif kind == "shr" and (share := await context.loaders.shares.load(id_)):
        found = ImageShare.of(share)
    elif kind == "srv" and (server := await context.loaders.servers.load(id_)):
        found = Server.of(server)
    elif kind == "vol" and (volume := await context.loaders.volumes.load(id_)):
        found = Volume.of(volume)
    elif kind == "upl":
        with suppress(NotFound):
            async with context.catalogue.database.read() as session:
                upload, _image = await upload_for(session, context.viewer, id_)
            found = ImageUpload.of(upload)
    elif id_ == f"usr_{context.viewer.subject}":
        found = _viewer(context)
    if found is None:
        raise NotFound("There is no object with this id.", field=("id",))
    return found


async def _node_or_error(context: Context, id_: str) -> Node | None:
    try:
        return await find_node(context, id_)
    except UserMistake as mistake:
        # An exception in a list fails only this item.
        return mistake  # type: ignore[return-value]
