"""Shares of images, as both projects see them."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import strawberry
from sqlalchemy.ext.asyncio import AsyncSession

from app.catalog.pages import Page, Window
from app.graphql.context import Info
from app.graphql.types.connections import Connection, Paging, cursor_for, page_fields
from app.graphql.types.node import Node, made_of, node_of
from app.lifecycle import ShareGrant, ShareState
from app.models import ImageShare as ShareRow

if TYPE_CHECKING:
    from app.graphql.types.images import Image
    from app.graphql.types.tenancy import Project

_BY_ID = "share"


@made_of(ShareRow)
@strawberry.type(description="An image that is shared with another project of its organization, or offered to it.")
class ImageShare(Node):
    revision: int = strawberry.field(
        description="Number that grows by one with each change. Send it as `expectedRevision` so that a change "
        "made in the meantime is not overwritten."
    )
    grant: ShareGrant = strawberry.field(description="What the members of the other project may do with the image.")
    state: ShareState = strawberry.field(description="Whether the project has accepted the image.")
    shared_by: str = strawberry.field(description="Who shared the image: the `sub` claim of their token.")
    created_at: datetime = strawberry.field(description="When the share was created.")
    updated_at: datetime = strawberry.field(description="When the share last changed.")
    row: strawberry.Private[ShareRow]

    @staticmethod
    def of(row: ShareRow) -> "ImageShare":
        """The node of a row."""
        return ImageShare(
            id=strawberry.ID(row.id),
            revision=row.revision,
            grant=row.grant,
            state=row.state,
            shared_by=row.shared_by,
            created_at=row.created_at,
            updated_at=row.updated_at,
            row=row,
        )

    @strawberry.field(description="The image; null if you can't see it because the project has not accepted it.")
    async def image(self, info: Info) -> Annotated["Image", strawberry.lazy("app.graphql.types.images")] | None:
        row = await info.context.loaders.images.load(self.row.image_id)
        return None if row is None else node_of(row)

    @strawberry.field(description="Name of the image, also if `image` is null.")
    async def image_name(self, info: Info) -> str | None:
        return await info.context.loaders.shared_image_names.load(self.row.image_id)

    @strawberry.field(description="The project that the image is shared with, or offered to.")
    async def project(self, info: Info) -> Annotated["Project", strawberry.lazy("app.graphql.types.tenancy")]:
        return await project_of_share(info, self.row.project_id)


async def project_of_share(info: Info, project_id: str) -> "Project":
    """The project that an image is shared with, for a caller who can see the share."""
    made: Project = node_of(await info.context.loaders.projects_shared_with.load(project_id))
    return made


async def share_page(
    info: Info,
    paging: Paging,
    read: Callable[[AsyncSession, Window], Awaitable[Page[ShareRow]]],
    count: Callable[[AsyncSession], Awaitable[int]],
) -> Connection[ImageShare]:
    """A page of shares, in the order in which they were created."""
    window, database = paging.window(_BY_ID), info.context.catalogue.database

    async def count_all() -> int:
        async with database.read() as session:
            return await count(session)

    async with database.read() as session:
        page = await read(session, window)
    nodes = [ImageShare.of(row) for row in page.rows]
    return Connection[ImageShare](count=count_all, **page_fields(page, nodes, _cursor))


def _cursor(row: ShareRow) -> str:
    return cursor_for(_BY_ID, row.id, row.id)
