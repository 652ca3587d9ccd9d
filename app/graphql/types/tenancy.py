"""The viewer, organizations, projects and their members."""

from datetime import datetime
from typing import Annotated

import strawberry

from app.catalog import members, quotas, sharing
from app.catalog.bill import billing
from app.catalog.people import tenancy
from app.catalog.servers import limits, seeing
from app.graphql.context import Info
from app.graphql.types.billing import StorageUsage
from app.graphql.types.connections import Connection, Paging, cursor_for, page_fields, paged
from app.graphql.types.node import Node, made_of
from app.graphql.types.quotas import ProjectQuota
from app.graphql.types.servers import Server, Volume, server_page, volume_page
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


@strawberry.type(description="A member of a project.")
class ProjectMember:
    subject: str = strawberry.field(description="The member: the `sub` claim of their token.")
    role: ProjectRole = strawberry.field(description="Role of the member in the project.")


@made_of(OrganizationRow)
@strawberry.type(description="A group of projects with the same owners.")
class Organization(Node):
    name: str = strawberry.field(description="Name of the organization.")

    @staticmethod
    def of(row: OrganizationRow) -> "Organization":
        """The node of a row."""
        return Organization(id=strawberry.ID(row.id), name=row.name)

    @strawberry.field(
        description="Whether you are an owner: owners administer all projects of the organization and set their limits."
    )
    async def viewer_is_owner(self, info: Info) -> bool | None:
        async with info.context.catalogue.database.read() as session:
            return await tenancy.is_owner(session, info.context.viewer, self.id)

    @paged(description="Projects of the organization that you may see, by name.")
    async def projects(self, info: Info, paging: Paging) -> "Connection[Project] | None":
        return await project_page(info, paging, organization_id=self.id)


@made_of(ProjectRow)
@strawberry.type(
    description="A tenant: it owns images, and its members have roles. If you have no role in a project, but "
    "an image is shared with it, you see little more than its name."
)
class Project(Node):
    revision: int = strawberry.field(
        description="Number that grows by one when the project's limits or members change. Send it as "
        "`expectedRevision` so that a change made in the meantime is not overwritten."
    )
    name: str = strawberry.field(description="Name of the project.")
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

    @strawberry.field(
        description="Your role in the project; null if you have none. Owners of the organization and operators "
        "are ADMIN."
    )
    async def viewer_role(self, info: Info) -> ProjectRole | None:
        return await self.viewer_role_here(info)

    async def viewer_role_here(self, info: Info) -> ProjectRole | None:
        """The caller's role in this project; None without one."""
        return await info.context.loaders.roles.load(self.id)

    @strawberry.field(
        description="Limits of the project and what is used of them; null if you have no role in the project."
    )
    async def quota(self, info: Info) -> ProjectQuota | None:
        if await self.viewer_role_here(info) is None:
            return None
        catalogue = info.context.catalogue
        async with catalogue.database.read() as session:
            quota = await quotas.quota_of(session, self.row, catalogue.settings)
            return ProjectQuota.of(quota, await limits.usage_of(session, self.row, catalogue.settings))

    @paged(description="Members of the project, by subject; null if you have no role in the project.")
    async def members(self, info: Info, paging: Paging) -> Connection[ProjectMember] | None:
        window = paging.window(_BY_SUBJECT)
        if await self.viewer_role_here(info) is None:
            return None
        database = info.context.catalogue.database

        async def count() -> int:
            async with database.read() as session:
                return await members.count_members(session, self.id)

        async with database.read() as session:
            page = await members.members_of(session, self.id, window)
        nodes = [ProjectMember(subject=row.subject, role=row.role) for row in page.rows]
        return Connection[ProjectMember](count=count, **page_fields(page, nodes, _member_cursor))

    @paged(description="Servers of the project, oldest first; null if you have no role in the project.")
    async def servers(self, info: Info, paging: Paging) -> Connection[Server] | None:
        if await self.viewer_role_here(info) is None:
            return None
        return await server_page(
            info,
            paging,
            read=lambda session, window: seeing.servers_of(session, self.id, window),
            count=lambda session: seeing.count_servers(session, self.id),
        )

    @paged(
        description="Volumes of the project, including boot volumes, oldest first; null if you have no role in the "
        "project."
    )
    async def volumes(self, info: Info, paging: Paging) -> Connection[Volume] | None:
        if await self.viewer_role_here(info) is None:
            return None
        return await volume_page(info, paging, self.id)

    @strawberry.field(
        description="Storage used by the project in an interval of at most ten years, and its cost; null if you "
        "have no role in the project."
    )
    async def usage(
        self,
        info: Info,
        from_: Annotated[datetime, strawberry.argument(name="from", description="Start of the interval.")],
        to: Annotated[datetime, strawberry.argument(description="End of the interval.")],
    ) -> StorageUsage | None:
        if await self.viewer_role_here(info) is None:
            return None
        catalogue = info.context.catalogue
        async with catalogue.database.read() as session:
            return StorageUsage.of(await billing.usage_of(session, self.id, from_, to, catalogue.settings))

    @paged(
        description="Shares offered to the project and not answered yet, oldest first; null unless you are an "
        "ADMIN of the project."
    )
    async def share_offers(self, info: Info, paging: Paging) -> Connection[ImageShare] | None:
        if await self.viewer_role_here(info) != ProjectRole.ADMIN:
            return None
        return await self._shares(info, ShareState.OFFERED, paging)

    @paged(
        description="Shares that the project has accepted, oldest first: the images of other projects that it "
        "may use. Null if you have no role in the project."
    )
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
        info.context.catalogue.database,
    )

    async def count() -> int:
        async with database.read() as session:
            return await tenancy.count_projects(session, viewer, organization_id=organization_id)

    async with database.read() as session:
        page = await tenancy.projects_of(session, viewer, window, organization_id=organization_id)
    return Connection[Project](
        count=count, **page_fields(page, [Project.of(row) for row in page.rows], _project_cursor)
    )


@strawberry.type(description="You, as your token identifies you.")
class Viewer(Node):
    subject: str = strawberry.field(description="The `sub` claim of your token.")
    name: str | None = strawberry.field(description="Your name as your token states it; null if it states none.")
    operator: bool = strawberry.field(
        description="Whether your token makes you an operator. Operators may do everything."
    )

    @paged(
        description="Projects that you may see, by name: those that you are a member of, and all projects of the "
        "organizations that you own."
    )
    async def projects(self, info: Info, paging: Paging) -> Connection[Project] | None:
        return await project_page(info, paging)
