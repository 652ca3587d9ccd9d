"""Viewer, organization, project and its members."""

from typing import Annotated

import strawberry

from app.catalog import quotas, tenancy
from app.graphql.context import Info
from app.graphql.scalars import ByteSize
from app.graphql.types.connections import Connection, cursor_for, page_fields, window_of
from app.graphql.types.node import Node
from app.lifecycle import ProjectRole
from app.models import Membership
from app.models import Organization as OrganizationRow
from app.models import Project as ProjectRow

First = Annotated[int | None, strawberry.argument(description="How many, 1 to 100, from the start.")]
After = Annotated[str | None, strawberry.argument(description="A cursor: only what comes behind it.")]

_BY_NAME = "project-name"
_BY_SUBJECT = "member-subject"


def _project_cursor(row: ProjectRow) -> str:
    return cursor_for(_BY_NAME, row.name, row.id)


def _member_cursor(row: Membership) -> str:
    return cursor_for(_BY_SUBJECT, row.subject, row.subject)


@strawberry.type(description="A limit on a number of things.")
class CountQuota:
    limit: int = strawberry.field(description="How many there may be.")
    used: int = strawberry.field(description="How many there are.")


@strawberry.type(description="A limit on stored bytes.")
class ByteQuota:
    limit: ByteSize = strawberry.field(description="How many bytes may be stored.")
    used: ByteSize = strawberry.field(description="How many bytes are stored.")
    reserved: ByteSize = strawberry.field(description="Promised to uploads that have not finished.")


@strawberry.type(description="The limits of a project, and what is used of them.")
class ProjectQuota:
    custom_images: CountQuota = strawberry.field(description="Custom images, finished or not.")
    image_storage: ByteQuota = strawberry.field(description="Bytes of custom images.")


@strawberry.type(description="Somebody who belongs to a project.")
class ProjectMember:
    subject: str = strawberry.field(description="Who it is: the `sub` of their token.")
    role: ProjectRole = strawberry.field(description="What they may do.")


@strawberry.type(description="A group of projects under one owner.")
class Organization(Node):
    name: str = strawberry.field(description="The organization's name.")

    @staticmethod
    def of(row: OrganizationRow) -> "Organization":
        """The node of a row."""
        return Organization(id=strawberry.ID(row.id), name=row.name)

    @strawberry.field(description="Those of its projects that you may see, by name.")
    async def projects(self, info: Info, first: First = None, after: After = None) -> "Connection[Project] | None":
        return await project_page(info, first, after, organization_id=self.id)


@strawberry.type(description="A tenant: what owns images and gives people roles.")
class Project(Node):
    name: str = strawberry.field(description="The project's name.")
    row: strawberry.Private[ProjectRow]

    @staticmethod
    def of(row: ProjectRow) -> "Project":
        """The node of a row."""
        return Project(id=strawberry.ID(row.id), name=row.name, row=row)

    @strawberry.field(description="The organization that the project belongs to.")
    async def organization(self, info: Info) -> Organization:
        row = await info.context.loaders.organizations.load(self.row.organization_id)
        if row is None:
            raise LookupError(f"project {self.id} has no organization")
        return Organization.of(row)

    @strawberry.field(description="What you are in this project.")
    async def viewer_role(self, info: Info) -> ProjectRole | None:
        return await info.context.loaders.roles.load(self.id)

    @strawberry.field(description="The project's limits.")
    async def quota(self, info: Info) -> ProjectQuota | None:
        gateway = info.context.gateway
        async with gateway.database.read() as session:
            quota = await quotas.quota_of(session, self.row, gateway.settings)
        return ProjectQuota(
            custom_images=CountQuota(limit=quota.custom_images_limit, used=quota.custom_images_used),
            image_storage=ByteQuota(
                limit=ByteSize(quota.storage_limit),
                used=ByteSize(quota.storage_used),
                reserved=ByteSize(quota.storage_reserved),
            ),
        )

    @strawberry.field(description="Who belongs to the project, by subject.")
    async def members(self, info: Info, first: First = None, after: After = None) -> Connection[ProjectMember] | None:
        window = window_of(_BY_SUBJECT, first, after)
        database = info.context.gateway.database

        async def count() -> int:
            async with database.read() as session:
                return await tenancy.count_members(session, self.id)

        async with database.read() as session:
            page = await tenancy.members_of(session, self.id, window)
        nodes = [ProjectMember(subject=row.subject, role=row.role) for row in page.rows]
        return Connection[ProjectMember](count=count, **page_fields(page, nodes, _member_cursor))


async def project_page(
    info: Info, first: int | None, after: str | None, *, organization_id: str | None = None
) -> Connection[Project]:
    """A page of the projects that the caller may see."""
    window, viewer, database = (
        window_of(_BY_NAME, first, after),
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

    @strawberry.field(description="The projects that you belong to, by name.")
    async def projects(self, info: Info, first: First = None, after: After = None) -> Connection[Project] | None:
        return await project_page(info, first, after)
