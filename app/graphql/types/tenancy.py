"""Viewer, organization, project and its members."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.catalog import members, quotas, sharing
from app.catalog.bill import billing
from app.catalog.people import tenancy
from app.graphql.context import Info
from app.graphql.types.billing import StorageUsage
from app.graphql.types.connections import Connection, Paging, cursor_for, page_fields, paged
from app.graphql.types.node import Node, made_of
from app.graphql.types.quotas import ProjectQuota
from app.graphql.types.sharing import ImageShare, share_page
from app.lifecycle import ProjectRole, ShareState
from app.models import Membership
from app.models import Organization as OrganizationRow
from app.models import Project as ProjectRow

_BY_NAME = "project-name"
_BY_SUBJECT = "member-subject"


def _project_cursor(row: ProjectRow) -> str:
    return cursor_for(_BY_NAME, row.name, row.id)


def _member_cursor(row: Membership) -> str:
    return cursor_for(_BY_SUBJECT, row.subject, row.subject)


@strawberry.type(description="Somebody who belongs to a project.")
class ProjectMember:
    subject: str = strawberry.field(description="Who it is: the `sub` of their token.")
    role: ProjectRole = strawberry.field(description="What they may do.")


@made_of(OrganizationRow)
@strawberry.type(description="A group of projects under one owner.")
class Organization(Node):
    name: str = strawberry.field(description="The organization's name.")

    @staticmethod
    def of(row: OrganizationRow) -> "Organization":
        """The node of a row."""
        return Organization(id=strawberry.ID(row.id), name=row.name)

    @strawberry.field(description="Whether you own it, and so administer all its projects and set their limits.")
    async def viewer_is_owner(self, info: Info) -> bool | None:
        async with info.context.gateway.database.read() as session:
            return await tenancy.is_owner(session, info.context.viewer, self.id)

    @paged(description="Those of its projects that you may see, by name.")
    async def projects(self, info: Info, paging: Paging) -> "Connection[Project] | None":
        return await project_page(info, paging, organization_id=self.id)


@made_of(ProjectRow)
@strawberry.type(
    description="A tenant: what owns images and gives people roles. "
    "Of a project that you don't belong to, and an image is shared with, you see the name alone."
)
class Project(Node):
    revision: int = strawberry.field(
        description="Grows by one when its limits or members change; send it back as expectedRevision to overwrite "
        "nobody."
    )
    name: str = strawberry.field(description="The project's name.")
    row: strawberry.Private[ProjectRow]

    @staticmethod
    def of(row: ProjectRow) -> "Project":
        """The node of a row."""
        return Project(id=strawberry.ID(row.id), revision=row.revision, name=row.name, row=row)

    @strawberry.field(description="The organization that the project belongs to.")
    async def organization(self, info: Info) -> Organization:
        row = await info.context.loaders.organizations.load(self.row.organization_id)
        if row is None:
            raise LookupError(f"project {self.id} has no organization")
        return Organization.of(row)

    @strawberry.field(description="What you are in this project.")
    async def viewer_role(self, info: Info) -> ProjectRole | None:
        return await self.viewer_role_here(info)

    async def viewer_role_here(self, info: Info) -> ProjectRole | None:
        """What the caller is in this project."""
        return await info.context.loaders.roles.load(self.id)

    @strawberry.field(description="The project's limits.")
    async def quota(self, info: Info) -> ProjectQuota | None:
        if await self.viewer_role_here(info) is None:
            return None
        gateway = info.context.gateway
        async with gateway.database.read() as session:
            return ProjectQuota.of(await quotas.quota_of(session, self.row, gateway.settings))

    @paged(description="Who belongs to the project, by subject.")
    async def members(self, info: Info, paging: Paging) -> Connection[ProjectMember] | None:
        window = paging.window(_BY_SUBJECT)
        if await self.viewer_role_here(info) is None:
            return None
        database = info.context.gateway.database

        async def count() -> int:
            async with database.read() as session:
                return await members.count_members(session, self.id)

        async with database.read() as session:
            page = await members.members_of(session, self.id, window)
        nodes = [ProjectMember(subject=row.subject, role=row.role) for row in page.rows]
        return Connection[ProjectMember](count=count, **page_fields(page, nodes, _member_cursor))

    @strawberry.field(description="What the project had stored between two instants, ten years at most, and its cost.")
    async def usage(
        self,
        info: Info,
        from_: Annotated[datetime, strawberry.argument(name="from", description="From when on.")],
        to: Annotated[datetime, strawberry.argument(description="Until when.")],
    ) -> StorageUsage | None:
        if await self.viewer_role_here(info) is None:
            return None
        gateway = info.context.gateway
        async with gateway.database.read() as session:
            return StorageUsage.of(await billing.usage_of(session, self.id, from_, to, gateway.settings))

    @paged(description="Shares that are offered to the project and not answered yet; null for who is no admin of it.")
    async def share_offers(self, info: Info, paging: Paging) -> Connection[ImageShare] | None:
        if await self.viewer_role_here(info) != ProjectRole.ADMIN:
            return None
        return await self._shares(info, ShareState.OFFERED, paging)

    @paged(description="Shares that the project has accepted: of what images of others it may use, and how.")
    async def accepted_shares(self, info: Info, paging: Paging) -> Connection[ImageShare] | None:
        if await self.viewer_role_here(info) is None:
            return None
        return await self._shares(info, ShareState.ACCEPTED, paging)

    async def _shares(self, info: Info, state: ShareState, paging: Paging) -> Connection[ImageShare]:
        return await share_page(
            info,
            paging,
            read=lambda session, window: sharing.shares_with(session, self.id, state, window),
            count=lambda session: sharing.count_shares_with(session, self.id, state),
        )


async def project_page(info: Info, paging: Paging, *, organization_id: str | None = None) -> Connection[Project]:
    """A page of the projects that the caller may see."""
    window, viewer, database = (
        paging.window(_BY_NAME),
        info.context.viewer,
        info.context.gateway.database,
    )

    async def count() -> int:
        async with database.read() as session:
            return await tenancy.count_projects(session, viewer, organization_id=organization_id)

    async with database.read() as session:
        page = await tenancy.projects_of(session, viewer, window, organization_id=organization_id)
    return Connection[Project](
        count=count, **page_fields(page, [Project.of(row) for row in page.rows], _project_cursor)
    )


@strawberry.type(description="You: who the token speaks for.")
class Viewer(Node):
    subject: str = strawberry.field(description="The `sub` of the token.")
    name: str | None = strawberry.field(description="The name that the token gives.")
    operator: bool = strawberry.field(description="Whether the token makes you an operator, who may do everything.")

    @paged(
        description="The projects that you may see, by name: those that you belong to, and all of an organization "
        "that you own."
    )
    async def projects(self, info: Info, paging: Paging) -> Connection[Project] | None:
        return await project_page(info, paging)
